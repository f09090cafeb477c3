"""What would wait for the device in every step, as far as a CPU can show it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sslam.finished_files import InputFile
from sslam.methods import skipped_steps
from sslam.methods.method import Method
from sslam.methods.skipped_steps import SkippedSteps
from sslam.optim import clip_finite_gradients
from sslam.separation.cache import ChannelCache


def train(fused: bool, spoilt: set[int], steps: int = 6) -> tuple[list[torch.Tensor], Any]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, fused=fused)
    norms = []
    for step in range(steps):
        optimizer.zero_grad()
        network(torch.randn(4, 5, generator=torch.Generator().manual_seed(step))).square().mean().backward()
        if step in spoilt:
            next(network.parameters()).grad[0, 0] = float("nan")
        norms.append(clip_finite_gradients(network.parameters(), 0.5, None, optimizer if fused else None))
        optimizer.step()
    return [parameter.detach().clone() for parameter in network.parameters()], (norms, optimizer.state_dict())


@pytest.mark.parametrize("spoilt", [set(), {0}, {2, 3}])
def test_clip_finite_gradients__a_fused_optimizer_leaves_the_step_out_by_itself(spoilt: set[int]) -> None:
    weights, (norms, state) = train(True, spoilt)
    expected, (_, expected_state) = train(False, spoilt)
    for first, second in zip(weights, expected, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)
    assert {step for step, norm in enumerate(norms) if not norm.isfinite()} == spoilt
    for number, values in expected_state["state"].items():
        assert float(state["state"][number]["step"]) == float(values["step"]) == 6 - len(spoilt)


def test_clip_finite_gradients__of_a_fused_optimizer_no_value_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    network(torch.ones(1, 3)).sum().backward()

    def read(_: torch.Tensor) -> bool:
        raise AssertionError("a value was read, which waits for the device")

    monkeypatch.setattr(torch.Tensor, "__bool__", read)
    monkeypatch.setattr(torch.Tensor, "item", read)
    clip_finite_gradients(network.parameters(), 1.0, None, optimizer)


class OnDevice:
    """Stands for a truth value on a GPU."""

    device = SimpleNamespace(type="cuda")

    def __init__(self, value: bool) -> None:
        self.value = value


def test_skipped_steps__on_a_gpu_a_step_is_looked_at_one_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skipped_steps, "read_later", lambda flag: lambda: flag.value)
    steps = SkippedSteps(3)
    paths = SimpleNamespace(path=lambda index: f"clip {index}.wav")
    method: Any = SimpleNamespace(
        global_step=0, trainer=SimpleNamespace(world_size=1, datamodule=SimpleNamespace(train_set=paths))
    )
    counts = []
    for step, is_finite in enumerate([True, False, True, False, False, False]):
        method.global_step = step
        steps.see({"index": torch.tensor([step])})
        with pytest.warns(UserWarning, match="step 1 ") if step == 2 else pytest.MonkeyPatch.context():
            steps.add(method, OnDevice(is_finite))  # type: ignore[arg-type]
        counts.append(steps.count)
    assert counts == [0, 0, 1, 1, 2, 3]
    steps.see({"index": torch.tensor([6])})
    with pytest.raises(ValueError, match=r"last of them step 5.*clip 3.wav, clip 4.wav, clip 5.wav\)"):
        steps.add(method, OnDevice(True))  # type: ignore[arg-type]


def test_channel_cache__asks_the_disk_once_for_each_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ChannelCache.__new__(ChannelCache)
    cache.folder, cache.remedy, cache.skipped = tmp_path, "", set()
    paths = [str(tmp_path / f"{number}.wav") for number in range(5)]
    cache.files = {path: InputFile(path, Path(path).name, 1, 1) for path in paths}
    for path in paths:
        np.save(Path(path).with_suffix(".npy"), np.zeros((2, 100), np.float32))
    asked: list[Path] = []
    original = Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **options: asked.append(self) or original(self, **options))
    cache.check(paths, 100)
    # And once more for the longest, which is opened.
    assert len([path for path in asked if path.suffix == ".npy"]) <= 5 + 1
    with pytest.raises(ValueError, match="Channels are of whole files"):
        cache.check(paths, 50)


@pytest.mark.parametrize(("processes", "is_written", "logged"), [(2, True, 5.0), (2, False, 3.0), (1, True, 3.0)])
def test_log_training_loss__is_the_mean_of_all_processes_where_it_is_written(
    processes: int, is_written: bool, logged: float
) -> None:
    found = {}

    def reduce(value: torch.Tensor, reduce_op: str) -> torch.Tensor:
        assert reduce_op == "mean"
        return (value + 7) / 2  # another process has 7

    method: Any = SimpleNamespace(
        trainer=SimpleNamespace(
            world_size=processes,
            strategy=SimpleNamespace(reduce=reduce),
            _logger_connector=SimpleNamespace(should_update_logs=is_written),
        ),
        log=lambda name, value, prog_bar: found.update({name: value}),
    )
    loss = torch.tensor(3.0, requires_grad=True)
    Method.log_training_loss(method, loss)
    assert float(found["train/loss"]) == logged
    assert not found["train/loss"].requires_grad
