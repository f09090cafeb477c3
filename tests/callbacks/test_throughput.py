from typing import Any

import pytest
import torch

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


def test_throughput__the_share_of_peak_is_flops_over_those_of_a_matrix_product(
    tiny_sslam: Any, clips: Any, fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            self.now += 1
            return self.now

    monkeypatch.setattr(throughput, "time", Clock())
    monkeypatch.setattr(throughput, "matrix_product_flops", lambda *_: 1000.0)
    counted = []

    class Counter:
        def __enter__(self) -> Any:
            counted.append("begun")
            return self

        def __exit__(self, *_: Any) -> None:
            counted.append("ended")

        def get_total_flops(self) -> int:
            return 600

    monkeypatch.setattr(throughput, "flop_counter", Counter)
    callback = Throughput(share_of_peak=True, steps_between_counts=100)
    trainer = fit(tiny_sslam(), clips, [callback], log_every_n_steps=4)
    assert counted == ["begun", "ended"]
    # Windows of four steps last eight seconds: 4 x 600 FLOPs in 8 s are 300 FLOP/s of 1000.
    assert trainer.callback_metrics["train/share_of_peak"].item() == pytest.approx(0.3)
    assert trainer.callback_metrics["train/step_seconds"].item() == pytest.approx(2.0)


def test_throughput__counting_changes_no_weight(tiny_sslam: Any, clips: Any, fit: Any) -> None:
    modules = [tiny_sslam(), tiny_sslam()]
    plain = fit(modules[0], clips, [Throughput()], log_every_n_steps=2)
    counted = fit(modules[1], clips, [Throughput(share_of_peak=True, steps_between_counts=3)], log_every_n_steps=2)
    assert "train/share_of_peak" not in plain.callback_metrics
    assert 0 < counted.callback_metrics["train/share_of_peak"].item() < 1
    for first, second in zip(modules[0].parameters(), modules[1].parameters(), strict=True):
        assert torch.equal(first, second)
