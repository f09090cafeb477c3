import math

import pytest
import torch

from sslam.metrics import LossMeans


def test_loss_means__are_over_clips_not_batches() -> None:
    metric = LossMeans(["loss", "patch_loss"])
    metric.update({"loss": torch.tensor(1.0), "patch_loss": torch.tensor(4.0)}, 3)
    metric.update({"loss": torch.tensor(5.0), "patch_loss": torch.tensor(0.0)}, 1)
    means = metric.compute()
    assert {name: mean.item() for name, mean in means.items()} == {"loss": 2.0, "patch_loss": 3.0}


def test_loss_means__leave_out_what_was_never_seen_and_nothing_else() -> None:
    metric = LossMeans(["loss", "patch_loss"])
    with pytest.warns(UserWarning, match="called before"):
        assert metric.compute() == {}
    metric.update({"loss": torch.tensor(math.nan)}, 2)
    means = metric.compute()
    assert list(means) == ["loss"]
    assert means["loss"].isnan()


def test_loss_means__start_anew_and_are_no_weights() -> None:
    metric = LossMeans(["loss"])
    metric.update({"loss": torch.tensor(7.0)}, 2)
    metric.reset()
    metric.update({"loss": torch.tensor(1.0)}, 1)
    assert metric.compute()["loss"].item() == 1.0
    assert not metric.state_dict()
