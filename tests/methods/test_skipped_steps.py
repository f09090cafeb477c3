"""Steps whose gradients are not finite: how many may be skipped, and which clips they are said to be of."""

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sslam.methods.skipped_steps import MOST_NAMED, SkippedSteps


def method(step: int = 0) -> Any:
    return SimpleNamespace(global_step=step, trainer=SimpleNamespace(world_size=1, datamodule=None))


def batch(*clips: int) -> dict[str, torch.Tensor]:
    return {"index": torch.tensor(clips)}


@pytest.mark.filterwarnings("ignore:The gradients of step")
def test_skipped_steps__a_finite_step_begins_a_new_row_and_clears_its_clips() -> None:
    skipped = SkippedSteps(3)
    for number, is_finite in enumerate((False, False, True, False, False)):
        skipped.see(batch(number))
        skipped.add(method(number), torch.tensor(is_finite))
    assert skipped.count == 4
    skipped.see(batch(7))
    with pytest.raises(ValueError, match=r"of 3 steps in a row, the last of them step 5.*\(clip 3, clip 4, clip 7\)"):
        skipped.add(method(5), torch.tensor(False))


def test_skipped_steps__ever_rarer_ones_are_warned_of() -> None:
    skipped = SkippedSteps(1000)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(120):
            skipped.add(method(step), torch.tensor(False))
    said = [str(warning.message).split(" are not finite")[0] for warning in caught]
    assert said == [f"The gradients of step {step}" for step in (0, 9, 99)]


def test_skipped_steps__names_files_and_not_too_many() -> None:
    skipped = SkippedSteps(1)
    owner = method()
    owner.trainer.datamodule = SimpleNamespace(train_set=SimpleNamespace(path=lambda index: f"{index:03}.wav"))
    skipped.see(batch(*range(MOST_NAMED + 2)))
    with pytest.raises(ValueError, match=f"000.wav, 001.wav, .*, {MOST_NAMED - 1:03}.wav and 2 more"):
        skipped.add(owner, torch.tensor(False))
