"""When processes agree on a signal; `sslam fit` under real signals is in tests/commands/test_fit_signals.py."""

import signal
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks.stop_on_signal import StopOnSignal, StoppedBySignal


class Keeper:
    """As the callback that keeps the run's checkpoints."""

    def __init__(self) -> None:
        self.saved = 0

    def save_now(self, trainer: Any) -> None:
        self.saved += 1


def trainer_of(world_size: int, keeper: Keeper) -> Any:
    return SimpleNamespace(
        world_size=world_size,
        accumulate_grad_batches=2,
        is_last_batch=False,
        global_step=3,
        local_rank=0,
        checkpoint_callbacks=[keeper],
        _accelerator_connector=SimpleNamespace(cluster_environment=None),
    )


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Backends of the groups that are made, in a process that is one of several."""
    made: list[str] = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "new_group", lambda backend: made.append(backend) or object())
    return made


@pytest.mark.parametrize("automatic", [True, False])
def test_on_train_start__only_processes_that_step_together_agree(groups: list[str], automatic: bool) -> None:
    StopOnSignal().on_train_start(trainer_of(2, Keeper()), SimpleNamespace(automatic_optimization=automatic))  # type: ignore[arg-type]
    assert groups == (["gloo"] if automatic else [])
    StopOnSignal().on_train_start(trainer_of(1, Keeper()), SimpleNamespace(automatic_optimization=automatic))  # type: ignore[arg-type]
    assert len(groups) <= 1


@pytest.mark.parametrize(("world_size", "saved"), [(1, 1), (2, 0)])
def test_on_train_batch_end__without_agreement_several_processes_save_nothing(
    groups: list[str], world_size: int, saved: int
) -> None:
    """Of a linear probe's pass the others may be elsewhere, and saving would wait for them."""
    keeper, callback = Keeper(), StopOnSignal()
    trainer, module = trainer_of(world_size, keeper), SimpleNamespace(automatic_optimization=False)
    callback.on_train_start(trainer, module)  # type: ignore[arg-type]
    callback.signum = signal.SIGTERM
    callback.on_train_batch_end(trainer, module, None, None, batch_idx=0)  # type: ignore[arg-type]  # half a step
    with pytest.raises(StoppedBySignal):
        callback.on_train_batch_end(trainer, module, None, None, batch_idx=1)  # type: ignore[arg-type]
    assert keeper.saved == saved
