"""The YAML files of SSLAM's tables 4 to 6 and of its appendix E change what their rows change, and nothing else."""

from typing import Any

import pytest

from sslam.methods import Objectives
from tests.experiments.conftest import config_of

ROWS: dict[str, dict[str, Any]] = {
    "source_retention_global": {"objectives": vars(Objectives(source_retention_global=2))},
    "source_retention_global_only": {"objectives": vars(Objectives(1, 1, 0, source_retention_global=2))},
    "local_only": {"objectives": vars(Objectives(1, 1, 2, 0, 0))},
    "global_only": {"objectives": vars(Objectives(0, 0, 0, 1, 1))},
    "layers_global_all": {"cls_target_layers": None},
    "layers_local_last": {"patch_target_layers": 1},
    "layers_global_all_local_last": {"cls_target_layers": None, "patch_target_layers": 1},
    "source_retention_max": {"source_combination": "max"},
    "source_retention_sum": {"source_combination": "sum"},
}


@pytest.mark.parametrize("name", ROWS)
def test_ablations__of_the_second_stage_change_their_switch_alone(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = config_of(capsys, "pretrain.yaml")["model"]["init_args"]
    changed = config_of(capsys, "pretrain.yaml", f"ablations/{name}.yaml")["model"]["init_args"]
    first, second = model["stages"]
    assert changed == model | {"stages": [first, second | ROWS[name]]}


@pytest.mark.parametrize(
    ("name", "class_name", "of_waveforms"),
    [("full_mixing", "FullMixing", False), ("waveform_mixing", "PartialMixing", True)],
)
def test_ablations__of_the_mixing_change_it_alone(
    name: str, class_name: str, of_waveforms: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    model = config_of(capsys, "pretrain.yaml")["model"]["init_args"]
    changed = config_of(capsys, "pretrain.yaml", f"ablations/{name}.yaml")["model"]["init_args"]
    mixing = changed.pop("mixing")
    assert mixing["class_path"] == f"sslam.transforms.{class_name}"
    assert mixing["init_args"]["of_waveforms"] == of_waveforms
    assert model.pop("mixing")["init_args"]["of_waveforms"] is False
    assert changed == model


def test_ablations__full_mixing_goes_after_another_row(capsys: pytest.CaptureFixture[str]) -> None:
    partial = config_of(capsys, "pretrain.yaml", "ablations/mb_pma.yaml")["model"]["init_args"]
    full = config_of(capsys, "pretrain.yaml", "ablations/mb_pma.yaml", "ablations/full_mixing.yaml")["model"][
        "init_args"
    ]
    assert full["stages"] == partial["stages"]
    assert full["mixing"]["class_path"] == "sslam.transforms.FullMixing"


def test_ablations__mixing_from_scratch_is_the_first_stage_on_mixtures(capsys: pytest.CaptureFixture[str]) -> None:
    first = config_of(capsys, "pretrain.yaml")["model"]["init_args"]["stages"][0]
    (scratch,) = config_of(capsys, "pretrain.yaml", "ablations/mixed_stage_1.yaml")["model"]["init_args"]["stages"]
    assert scratch == first | {"name": "mixtures", "objectives": vars(Objectives(0, 1, 0))}
