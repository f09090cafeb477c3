from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks import StepCheckpoints


def test_step_checkpoints__are_kept_once_each(tiny_sslam: Any, clips: Any, fit: Any, tmp_path: Path) -> None:
    fit(tiny_sslam(), clips, [StepCheckpoints([0, 3, 8, 100])])  # eight steps in all
    files = sorted((tmp_path / "checkpoints" / "kept").iterdir())
    assert [file.name for file in files] == ["end.ckpt", *(f"step=0000000{step}.ckpt" for step in (0, 3, 8))]
    assert [torch.load(file, weights_only=True)["global_step"] for file in files] == [8, 0, 3, 8]


def test_step_checkpoints__the_end_may_be_left_out(tiny_sslam: Any, clips: Any, fit: Any, tmp_path: Path) -> None:
    fit(tiny_sslam(), clips, [StepCheckpoints([2], at_end=False)])
    assert [file.name for file in (tmp_path / "checkpoints" / "kept").iterdir()] == ["step=00000002.ckpt"]


def test_step_checkpoints__of_accumulated_batches_are_kept_at_the_step(
    tiny_sslam: Any, clips: Any, fit: Any, tmp_path: Path
) -> None:
    saved: list[int] = []

    class Counting(StepCheckpoints):
        def _keep(self, trainer: Any, name: str) -> None:
            saved.append(trainer.global_step)
            super()._keep(trainer, name)

    fit(tiny_sslam(), clips, [Counting([1, 2], at_end=False)], accumulate_grad_batches=2, max_steps=2)
    assert saved == [1, 2]


def test_step_checkpoints__refuses_steps_before_the_start() -> None:
    with pytest.raises(ValueError, match="steps must be at least 0, got -1"):
        StepCheckpoints([0, -1])
