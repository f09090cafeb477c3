"""The rows of the separation-contrastive paper: each runs for two steps, and is what its table says."""

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from sslam.__main__ import main
from sslam.networks import TDCN
from tests.experiments.conftest import EXPERIMENTS, config_of, names

SMOKE = ["--config", "experiments/overrides/smoke_contrastive.yaml", "--run_id", "one"]
N, F, S1, S2 = "step=00000000.ckpt", "step=00000500.ckpt", "step=00005000.ckpt", "end.ckpt"


def rows_of_the_makefile() -> dict[str, list[str]]:
    """What `sslam fit` is given for every row, by its name, beside the folder of separators and what runs share."""
    tables = [*(f"contrastive-table{number}" for number in range(1, 6)), "contrastive-others"]
    make = ["make", "--dry-run", "--directory", str(EXPERIMENTS.parent), *tables, "PROCESSORS=kept", "FOUR=kept"]
    make.append("RUN_ID=one")
    lines = subprocess.run(make, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = {}
    for words in [shlex.split(line) for line in lines if "sslam fit " in line]:
        options = list(zip(words[2::2], words[3::2], strict=True))
        name = dict(options)["--experiment"]
        shared = [("--experiment", name), ("--run_id", "one"), ("--ckpt_path", "last")]
        if "table1" not in name:
            shared.append(("--model.processors.folder", "kept"))
        assert set(shared) <= {*options}
        rows[name] = [word for option in options if option not in shared for word in option]
    return rows


ROWS = {"contrastive": ["--config", "experiments/contrastive.yaml"], **rows_of_the_makefile()}


@pytest.fixture(scope="module")
def separators(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    separator = TDCN(num_sources=2, num_basis=16, width=8, hidden_width=16, num_blocks=2)
    state = {f"separator.{name}": value for name, value in separator.state_dict().items()}
    for name in (N, F, S1, S2):
        checkpoint = {"architecture": {"separator": separator.architecture()}, "global_step": 0, "state_dict": state}
        torch.save(checkpoint, folder / name)
    return folder


@pytest.mark.parametrize("name", ROWS)
def test_contrastive__every_row_runs_for_two_steps(
    name: str, separators: Path, data_arguments: dict[str, list[str]]
) -> None:
    data = [*data_arguments["data/audioset_2m.yaml"][:2], "--data.val_fraction", "0.4"]
    folder = [] if "table1" in name else ["--model.processors.folder", str(separators)]
    every_step = ["--trainer.val_check_interval", "2"]
    assert main(["fit", *ROWS[name], *SMOKE, *data, *folder, *every_step]) == 0
    metrics = Path("runs/contrastive/one/metrics.csv")
    heads = metrics.read_text().splitlines()[0].split(",")
    tasks = PUBLISHED.get(name, {}).get("tasks", DEFAULT["tasks"])
    for task in ("similarity", "coincidence"):
        assert (f"train/{task}_loss" in heads) == (task in tasks)
    assert "val/qbe_map" in heads
    assert Path("runs/contrastive/one/checkpoints/best.ckpt").is_file()


def test_contrastive__takes_some_hundred_recordings(separators: Path, data_arguments: dict[str, list[str]]) -> None:
    files = ["contrastive.yaml", "data/esc50.yaml", "overrides/small_contrastive.yaml"]
    arguments = [argument for name in files for argument in ("--config", f"experiments/{name}")]
    more = [*data_arguments["data/esc50.yaml"], "--model.processors.folder", str(separators)]
    every_step = ["--trainer.val_check_interval", "2"]
    assert main(["fit", *arguments, *SMOKE, "--data.batch_size", "2", *more, *every_step]) == 0


def test_contrastive__retrieval_chooses_the_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = config_of(capsys, "contrastive.yaml")["checkpoint"]
    assert (checkpoint["monitor"], checkpoint["mode"]) == ("val/qbe_map", "max")
    assert config_of(capsys, "pretrain.yaml")["checkpoint"]["monitor"] is None


def row(capsys: pytest.CaptureFixture[str], name: str) -> dict[str, Any]:
    config = config_of(capsys, options=ROWS[name])
    model = config["model"]["init_args"]
    processors = model["processors"]
    return {
        "comparison": model["comparison"]["class_path"].removeprefix("sslam.transforms."),
        "processors": processors and processors["init_args"]["files"],
        "is_cascade": bool(processors) and processors["class_path"] == "sslam.separation.Cascade",
        "drop_worst": processors and processors["init_args"]["drop_worst"],
        "tasks": [task for task in ("similarity", "coincidence") if model[task]],
        "learning_rate": model["learning_rate"],
        "spec_augment": model["spec_augment"] is not None,
        "temporal_proximity": model["temporal_proximity"],
        "width": model["encoder"]["init_args"]["width"],
    }


DEFAULT = {
    "comparison": "MixtureAgainstChannel",
    "processors": [S2],
    "is_cascade": False,
    "drop_worst": 0,
    "tasks": ["similarity", "coincidence"],
    "learning_rate": 1e-4,
    "spec_augment": True,
    "temporal_proximity": True,
    "width": 128,
}
SIMILARITY = {"tasks": ["similarity"], "learning_rate": 3e-4}
COINCIDENCE = {"tasks": ["coincidence"]}
NO_SEPARATION = {"comparison": "MixtureAgainstMixture", "processors": None, "drop_worst": None}
PUBLISHED: dict[str, dict[str, Any]] = {
    "table1_similarity_sa": NO_SEPARATION | SIMILARITY | {"temporal_proximity": False},
    "table1_similarity_tp": NO_SEPARATION | SIMILARITY | {"spec_augment": False},
    "table1_similarity_tp_sa": NO_SEPARATION | SIMILARITY,
    "table1_coincidence_tp_sa": NO_SEPARATION | COINCIDENCE,
    "table2_mix_vs_chan_no_sa": SIMILARITY | {"spec_augment": False},
    "table2_mix_vs_chan": SIMILARITY,
    "table2_mix_vs_any": SIMILARITY | {"comparison": "MixtureAgainstAny"},
    "table2_chan_vs_chan": SIMILARITY | {"comparison": "ChannelAgainstChannel"},
    "table3_mix_vs_chan": COINCIDENCE,
    "table3_chan_vs_chan": COINCIDENCE | {"comparison": "ChannelAgainstChannel"},
    "table4_s2_joint": {},
    "table5_width_1024": {"processors": [S2, F, N], "width": 1024},
    "section53_cascade_n_s2_joint": {"processors": [N, S2], "is_cascade": True},
    "appendix_four_channels_joint": {},
    "appendix_best_three_channels_joint": {"drop_worst": 1},
}
for short, files in {"s1": [S1], "f": [F], "n": [N], "s2_f": [S2, F], "s2_n": [S2, N], "s2_f_n": [S2, F, N]}.items():
    PUBLISHED[f"table4_{short}_joint"] = {"processors": files}
    PUBLISHED[f"table4_{short}_similarity"] = SIMILARITY | {"processors": files}


def test_contrastive__the_makefile_runs_every_row_and_uses_every_part() -> None:
    assert {*ROWS} == {*PUBLISHED, "contrastive"}
    used = {word for arguments in ROWS.values() for word in arguments if word.endswith(".yaml")}
    assert used == {f"experiments/{name}" for name in names("contrastive.yaml", "contrastive/*.yaml")}


@pytest.mark.parametrize("name", PUBLISHED)
def test_contrastive__rows_are_the_published_ones(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert row(capsys, name) == DEFAULT | PUBLISHED[name]


def test_contrastive__what_all_rows_share_is_published(capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(capsys, "contrastive.yaml")
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert (data["batch_size"], data["clip_seconds"], data["balanced_sampling"]) == (64, 10.0, False)
    assert data["val_fraction"] > 0  # what chooses the checkpoint is not what is reported
    assert (model["projection_hidden"], model["projection_width"], model["coincidence_hidden"]) == (256, 128, 512)
    assert model["similarity"]["init_args"] == {"temperature": 0.3, "gather_negatives": False}
    assert model["coincidence"]["init_args"] == {"gather_negatives": False}
    frontend = model["frontend"]["init_args"]
    assert (frontend["num_frames"], frontend["num_mel_bins"]) == (96, 64)
    assert model["spec_augment"] == {
        "num_frequency_masks": 2,
        "frequency_mask_width": 10,
        "num_time_masks": 2,
        "time_mask_width": 10,
        "time_warp": 8,
    }
