from typing import Any

import pytest

from callbacks import Throughput, throughput


def test_throughput__counts_clips_and_waiting(
    tiny_sslam: Any, clips: Any, fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that ticks one second at a time, a step and the wait before it take a second each."""

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            self.now += 1
            return self.now

    monkeypatch.setattr(throughput, "time", Clock())
    trainer = fit(tiny_sslam(), clips, [Throughput()], log_every_n_steps=4)
    # Window: its start, then 4 x (start, end): 8 s, in which 4 s were training and 8 clips were seen.
    assert trainer.callback_metrics["train/clips_per_second"].item() == pytest.approx(1.0)
    assert trainer.callback_metrics["train/wait_fraction"].item() == pytest.approx(0.5)


def test_throughput__accumulated_batches_count(
    tiny_sslam: Any, clips: Any, fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Frozen:
        now = 0.0

        def monotonic(self) -> float:
            self.now += 1
            return self.now

    monkeypatch.setattr(throughput, "time", Frozen())
    trainer = fit(tiny_sslam(), clips, [Throughput()], log_every_n_steps=2, accumulate_grad_batches=2)
    assert trainer.global_step == 8
    assert trainer.callback_metrics["train/clips_per_second"].item() == pytest.approx(1.0)
