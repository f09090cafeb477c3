"""The claims are read, and what `sslam fit` makes of their arms at the small scale differs in what the claim says."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sslam.__main__ import main
from sslam.claims.claim import Claim, Scale, read, read_claim
from sslam.commands.claim_plan import data_of
from sslam.commands.claim_runs import PretrainingRun
from sslam.methods import Objectives
from sslam.stages import Stage
from tests.experiments.conftest import EXPERIMENTS, composed_names, names

CLAIMS = names("claims/*_*.yaml")
CLAIMS.remove("claims/scale_small.yaml")
SCALE = read(Scale, EXPERIMENTS / "claims/scale_small.yaml")


def arms_of(name: str, folder: Path, root: str | None = "recordings") -> tuple[Claim, dict[str, PretrainingRun]]:
    file = EXPERIMENTS / name
    claim, data = read_claim(file), data_of(root, SCALE, folder)
    return claim, {
        arm: PretrainingRun(planned, file.parent, SCALE, data, 1, folder) for arm, planned in claim.arms.items()
    }


def config_of_run(run: PretrainingRun, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """All values of the run, as `sslam fit` understands its command."""
    with pytest.raises(SystemExit) as ended:
        main([*run.command()[3:], "--print_config"])
    said = capsys.readouterr()
    assert ended.value.code == 0, said.err
    config: dict[str, Any] = yaml.safe_load(said.out)
    return config


@pytest.mark.parametrize("root", ["recordings", None])
@pytest.mark.parametrize("name", CLAIMS)
def test_claims__arms_are_read_and_have_one_budget(
    name: str, root: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claim, arms = arms_of(name, tmp_path, root)
    assert len(SCALE.seeds) >= 3
    budgets = []
    for run in arms.values():
        config = config_of_run(run, capsys)
        model, trainer = config["model"]["init_args"], config["trainer"]
        stages = [Stage(**each | {"objectives": Objectives(**each["objectives"])}) for each in model.get("stages", [])]
        views = [stage.num_clones * (stage.objectives.uses_clips + stage.objectives.uses_mixtures) for stage in stages]
        steps = sum(stage.steps for stage in stages) or trainer["max_steps"]
        budgets.append((steps, config["data"]["init_args"]["batch_size"], views))
        assert config["seed_everything"] == config["data"]["init_args"]["seed"] == 1
    assert all(budget == budgets[0] for budget in budgets)
    assert {arm for clause in claim.clauses for arm in (clause.better, clause.than)} == set(arms)


STAGES = {
    "clips alone": (Objectives(1, 0, 0), 4),
    "clips and mixtures": (Objectives(1, 1, 0), 2),
    "with source retention": (Objectives(1, 1, 2), 2),
    "SSLAM": (Objectives(1, 1, 2), 2),
    "partial mixtures": (Objectives(0, 1, 0), 4),
    "full mixtures": (Objectives(0, 1, 0), 4),
}


@pytest.mark.parametrize("name", names("claims/sslam_*.yaml"))
def test_claims__of_sslam_second_stages_go_on_from_one_first_stage(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, arms = arms_of(name, tmp_path)
    starts = set()
    for arm, run in arms.items():
        model = config_of_run(run, capsys)["model"]["init_args"]
        (stage,) = model["stages"]
        objectives, clones = STAGES[arm]
        assert Objectives(**stage["objectives"]) == objectives
        assert (stage["num_clones"], stage["steps"], stage["cls_target_layers"]) == (clones, 200, 1)
        assert model["mixing"]["class_path"].endswith("FullMixing" if arm == "full mixtures" else "PartialMixing")
        starts.add(model["initial_checkpoint"])
    (start,) = starts
    first = next(iter(arms.values())).first_encoder
    assert start == str(first.checkpoint)
    (stage,) = config_of_run(first, capsys)["model"]["init_args"]["stages"]
    assert Objectives(**stage["objectives"]) == Objectives(0, 0, 0, clip_contrast=1)
    assert stage["steps"] == 450


@pytest.mark.parametrize("folder", ["recordings", "built_in"])
@pytest.mark.parametrize("evaluation", ["polyphony", "single_sounds"])
def test_claims__are_judged_by_the_best_readout(folder: str, evaluation: str) -> None:
    assert "evaluation/methods/best_readout_probe.yaml" in composed_names(f"claims/{folder}/{evaluation}.yaml")
