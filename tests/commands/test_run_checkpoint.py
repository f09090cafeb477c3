"""The best value that a run's checkpoints remember, without a run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from sslam.commands.fitting.run_folder import RunCheckpoint


def checkpoint_in(folder: Path, **options: Any) -> RunCheckpoint:
    checkpoint = RunCheckpoint(**options)
    checkpoint.dirpath = str(folder)
    return checkpoint


def validated(checkpoint: RunCheckpoint, *values: float) -> list[int]:
    """Validates once for each value; the validations after which a state was kept."""
    kept: list[int] = []
    for number, value in enumerate(values):
        trainer: Any = SimpleNamespace(
            sanity_checking=False,
            state=SimpleNamespace(fn=TrainerFn.FITTING),
            callback_metrics={"val/map": torch.tensor(value)},
            save_checkpoint=lambda _, number=number: kept.append(number),
        )
        checkpoint._should_skip_saving_checkpoint = lambda _: True  # type: ignore[method-assign]
        checkpoint.on_validation_end(trainer, None)  # type: ignore[arg-type]
    return kept


@pytest.mark.parametrize(("mode", "kept"), [("max", [1, 3]), ("min", [1, 4])])
def test_on_validation_end__keeps_the_first_of_the_best(mode: str, kept: list[int], tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path, monitor="val/map", mode=mode)
    assert validated(checkpoint, float("nan"), 0.5, 0.5, 0.7, 0.2) == kept


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["val/map", "max", 0.7], 0.7),
        (["val/map", "min", 0.7], None),
        (["val/qbe_map", "max", 0.7], None),
        (None, 0.5),
    ],
)
def test_load_state_dict__the_file_of_the_best_knows_its_value(
    written: list[Any] | None, expected: float | None, tmp_path: Path
) -> None:
    """The state that a run goes on from may be older than the file, and of another metric's there is no best yet."""
    checkpoint = checkpoint_in(tmp_path, monitor="val/map")
    checkpoint.best_value = 0.5
    state = checkpoint.state_dict()
    if written is not None:
        others = {"another callback": {}, "RunCheckpoint": {"watched": written}}
        torch.save({"callbacks": others}, tmp_path / "best.ckpt")
    resumed = checkpoint_in(tmp_path, monitor="val/map")
    resumed.best_value = 0.5
    resumed.load_state_dict(state)
    assert resumed.best_value == expected
    elsewhere = checkpoint_in(tmp_path / "other", monitor="val/map")
    elsewhere.load_state_dict(state)
    assert elsewhere.best_value is None
