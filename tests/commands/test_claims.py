"""`sslam claims`: which runs, each once, and what becomes of them."""

import csv
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import pytest
import yaml

from callbacks.evaluation_results import score_arrays
from sslam.__main__ import main
from sslam.commands import claim_runs, evaluate
from sslam.commands.child_process import Ended
from sslam.commands.exit_codes import FAILED, TERMINATED, USERS_MISTAKE
from sslam.commands.fitting.config_files import experiments_folder
from sslam.report.results import write_record
from tests.data_modules import official_layouts
from tests.report.conftest import made_up_record, made_up_results

CLAIMS = experiments_folder() / "claims"
MIXTURES = "experiments/claims/sslam_mixtures_help_polyphony.yaml"
SEPARATION = "experiments/claims/mixit_semi_supervision_helps.yaml"
RETENTION = "experiments/claims/sslam_source_retention_helps.yaml"
SINGLE = "experiments/claims/sslam_mixtures_keep_single_sounds.yaml"


class Processes:
    """Stands for the processes: notes which were started and leaves what they would leave."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.fails = ""
        self.ends = ""
        self.steps = {"mb_ua_pma-stage_2": 200}

    def __call__(self, command: list[str], log: IO[str]) -> int:
        options = dict(pairwise(command))
        folder = Path(options["--trainer.default_root_dir"], options["--experiment"], options["--run_id"])
        self.started.append(f"{folder.parent.name}/{folder.name}")
        if self.ends and self.ends in self.started[-1]:
            self.ends = ""
            raise Ended(15)
        if self.fails and self.fails in self.started[-1]:
            log.write("sslam fit: it is broken.\n")
            return 1
        if folder.parent.parent.name == "pretraining":
            self._pretrain(folder)
        else:
            skill = 3.0 if "mb_ua_pma" in folder.name else 0.1 if "random" in folder.name else 0.5
            results = [made_up_results(skill, single_label=False, polyphony=True)]
            write_record(folder, made_up_record(results, title="Scenes", label=folder.name), score_arrays(results))
        return 0

    def _pretrain(self, folder: Path) -> None:
        stage = {"steps": self.steps.get(folder.parent.name, 200)}
        config: dict[str, Any] = {"model": {"init_args": {"stages": [stage]}}, "data": {"init_args": {"batch_size": 8}}}
        config["trainer"] = {"max_steps": -1, "accumulate_grad_batches": 1}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints/last.ckpt").write_text(str(folder))


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Processes:
    monkeypatch.chdir(tmp_path)
    stand_in = Processes()
    monkeypatch.setattr(claim_runs, "run_child", stand_in)
    monkeypatch.setattr(evaluate, "run_child", stand_in)
    return stand_in


def lines_of(claim: str) -> list[dict[str, str]]:
    with Path("runs/claims/claims.csv").open() as stream:
        return [line for line in csv.DictReader(stream) if line["claim"] == claim]


def test_claims__share_runs_and_repeat_nothing(processes: Processes, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", MIXTURES]) == 0
    assert len(processes.started) == 3 * (1 + 2 + 2) + 1  # stage 1, two arms, their probes; random weights
    assert len(set(processes.started)) == len(processes.started)
    assert "Learning from mixtures helps where several sounds overlap. Holds." in capsys.readouterr().out
    first, second, random = lines_of("sslam_mixtures_help_polyphony")
    assert (first["arm"], second["arm"], random["arm"]) == ("clips and mixtures", "clips alone", "random weights")
    assert (first["verdict"], first["steps"], first["clips_seen"]) == ("holds", "200", "1600")
    assert float(first["difference_low"]) > 0

    processes.started.clear()
    assert main(["claims", MIXTURES, RETENTION]) == 0
    # SSLAM is new; stage 1, clips and mixtures and the random weights are there.
    assert processes.started == [
        name
        for seed in range(3)
        for name in (f"pretrain-stage_2/seed_{seed}", f"polyphony/pretrain-stage_2_seed_{seed}")
    ]
    assert lines_of("sslam_source_retention_helps")[0]["verdict"] == "does not hold"
    page = Path("runs/claims/claims.md").read_text()
    assert "**does not hold** (SSLAM (Alex et al., ICLR 2025), table 2, SSLAM against MB-UA-PMA" in page
    assert "`sslam fit --config experiments/pretrain.yaml --config experiments/ablations/mb_ua_pma.yaml`" in page
    assert '<td class="does">does not hold</td>' in Path("runs/claims/claims.html").read_text()


def test_claims__an_ended_one_goes_on(processes: Processes, capsys: pytest.CaptureFixture[str]) -> None:
    processes.ends = "polyphony/mb_ua_pma-stage_2_seed_1"
    assert main(["claims", MIXTURES]) == TERMINATED
    assert "Ended by SIGTERM. What is finished is kept" in capsys.readouterr().err
    assert not Path("runs/claims/claims.md").exists()
    done = set(processes.started[:-1])
    processes.started.clear()
    assert main(["claims", MIXTURES]) == 0
    assert processes.started[0] == "polyphony/mb_ua_pma-stage_2_seed_1"
    assert not done & set(processes.started)
    assert len(done) + len(processes.started) == 16


def test_claims__what_fails_leaves_out_what_needs_it(processes: Processes, capsys: pytest.CaptureFixture[str]) -> None:
    processes.fails = "pretrain_small-stage_1/seed_2"
    assert main(["claims", MIXTURES]) == FAILED
    said = capsys.readouterr()
    assert "pretrain_small-stage_1, seed 2: not done, sslam fit: it is broken. (" in said.out
    assert "mb_ua_pma-stage_2, seed 2: not done, because pretrain_small-stage_1, seed 2 is not" in said.out
    assert "5 of 16 runs were not done" in said.err
    first = lines_of("sslam_mixtures_help_polyphony")[0]
    assert (first["verdict"], first["no_interval"]) == (
        "undecided at this scale",
        "clips and mixtures: it was not evaluated",
    )


def test_claims__unequal_budgets_are_refused(processes: Processes, capsys: pytest.CaptureFixture[str]) -> None:
    processes.steps["mb_ua_pma-stage_2"] = 100
    assert main(["claims", MIXTURES]) == USERS_MISTAKE
    assert "have other steps and clips seen, [(100, 800), (200, 1600)]" in capsys.readouterr().err


def test_claims__another_scale_is_refused(
    processes: Processes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["claims", MIXTURES]) == 0
    scale = yaml.safe_load((CLAIMS / "scale_small.yaml").read_text())
    scale["stages"][1]["steps"] = 201
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(scale))
    assert main(["claims", MIXTURES, "--scale", "other.yaml"]) == USERS_MISTAKE
    assert "was made from something else: more options was" in capsys.readouterr().err


def test_claims__a_list_writes_nothing_and_waits_for_nobody(
    processes: Processes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = official_layouts.write_esc50(tmp_path / "esc50", [(1, 0), (2, 10)], 0.1)
    command = ["claims", MIXTURES, "--data.root", str(root), "--list"]
    assert main(command) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 16
    assert listed[0] == "pretrain_small-stage_1, seed 0"
    assert not Path("runs").exists()
    folder = Path("runs/claims/pretraining/pretrain_small-stage_1/seed_0")
    folder.mkdir(parents=True)
    (folder / "finished").touch()
    code = "import sys, time; from pathlib import Path; from sslam.folder_lock import lock_folder\n"
    code += "lock = lock_folder(Path('runs/claims'), ''); print('locked', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        try:
            assert main(command) == 0
            assert main(command[:-1]) == USERS_MISTAKE
        finally:
            other.kill()
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == "pretrain_small-stage_1, seed 0: done before"
    assert "is in use by another process" in said.err
    assert processes.started == []


def test_claims__esc50_becomes_a_table_with_its_sources(processes: Processes, tmp_path: Path) -> None:
    root = official_layouts.write_esc50(tmp_path / "esc50", [(1, 0), (2, 10)], 0.1)
    assert main(["claims", MIXTURES, "--data.root", str(root)]) == 0
    header, first, _ = Path("runs/claims/esc50.csv").read_text().splitlines()
    assert header == "file,label,group"
    assert first.split(",")[1] == "dog"


def test_claims__one_that_cannot_be_judged(
    processes: Processes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claim = yaml.safe_load((CLAIMS / "mixit_semi_supervision_helps.yaml").read_text())
    claim["clauses"][0]["evaluation"] = "listening"
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(claim))
    assert main(["claims", "own.yaml"]) == USERS_MISTAKE
    assert "is judged by listening, which cannot be done yet" in capsys.readouterr().err
    assert processes.started == []


@pytest.fixture
def tiny_scale(tmp_path: Path) -> Path:
    """The small scale with one seed, two steps and a tiny encoder."""
    scale = yaml.safe_load((CLAIMS / "scale_small.yaml").read_text())
    scale |= {"seeds": [0], "folds": 3, "clones_divided_by": 4, "stages": [{"steps": 2, "warmup_steps": 0}] * 2}
    pretraining = scale["pretraining"]["sslam"]
    tiny = {"class_path": "sslam.networks.AudioViT", "init_args": {"width": 32, "depth": 2, "num_heads": 2}}
    decoder = {"init_args": {"width": 32, "decoder_width": 32, "depth": 1}}
    pretraining["model"]["init_args"] |= {
        "encoder": tiny,
        "decoder": decoder,
        "frontend": {"init_args": {"num_frames": 128}},
    }
    pretraining["data"]["init_args"] |= {"batch_size": 2, "clip_seconds": 1.28}
    for evaluation in scale["evaluation"].values():
        evaluation["data"]["init_args"] |= {"clip_seconds": 1.28}
        probe = {"epochs": 2, "learning_rates": [1e-3], "readouts": [{"pooling": "mean"}], "selection_folds": 2}
        evaluation["model"] = {"init_args": probe}
    scale["evaluation"]["polyphony"]["data"]["init_args"] |= {"num_train_scenes": 20, "num_test_scenes": 20}
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(scale))
    return path


@pytest.mark.slow
def test_claims__from_recordings_to_the_page(
    tiny_scale: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{CLAIMS.parents[1] / 'src'}:{CLAIMS.parents[1]}")
    recordings = official_layouts.write_tone_classes(tmp_path / "recordings")
    command = ["claims", MIXTURES, SINGLE, "--scale", str(tiny_scale), "--data.root", str(recordings)]
    assert main(command) == 0, capsys.readouterr().out
    for name in ("sslam_mixtures_help_polyphony", "sslam_mixtures_keep_single_sounds"):
        first, second, random = lines_of(name)
        assert first["verdict"] == "undecided at this scale"
        assert first["by_seed"] == first["value"]
        assert first["no_interval"] == "1 of at least 3 seeds"
        assert (first["steps"], first["clips_seen"]) == (second["steps"], second["clips_seen"]) == ("2", "4")
        assert 0 < float(random["value"]) < 1
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out.count(": done before") == 1 + 3 + 4 + 2


@pytest.mark.slow
def test_claims__of_separators_from_scenes_to_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{CLAIMS.parents[1] / 'src'}:{CLAIMS.parents[1]}")
    scale = yaml.safe_load((CLAIMS / "scale_small.yaml").read_text()) | {"seeds": [0]}
    separation = scale["pretraining"]["separation"]
    sizes = {"num_sources": 2, "num_basis": 12, "width": 8, "hidden_width": 10, "num_blocks": 2}
    separation["model"]["init_args"]["separator"]["init_args"] = sizes
    separation["data"]["init_args"]["batch_size"] = 4
    separation["trainer"]["max_steps"] = 2
    scale["evaluation"]["separation"]["data"]["init_args"]["num_test_scenes"] = 12
    (tmp_path / "tiny.yaml").write_text(json.dumps(scale))
    assert main(["claims", SEPARATION, "--scale", "tiny.yaml"]) == 0, capsys.readouterr().out
    first, second, random = lines_of("mixit_semi_supervision_helps")
    assert (first["arm"], second["arm"], random["arm"]) == ("half supervised", "MixIT alone", "random weights")
    assert (first["metric"], first["num_clips"]) == ("msi", "12")
    assert (first["verdict"], first["no_interval"]) == ("undecided at this scale", "1 of at least 3 seeds")
    assert (first["steps"], first["clips_seen"]) == (second["steps"], second["clips_seen"]) == ("2", "8")
    for line in (first, second, random):
        assert float(line["low"]) < float(line["value"]) < float(line["high"])
    assert "MSi in dB" in Path("runs/claims/claims.html").read_text()
