import warnings
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks import CollapseMonitor
from callbacks.collapse_monitor import relative_distance
from sslam.metrics import Moments, PatchLosses, PositionMeans
from tests.callbacks.two_ranks import free_port, join_two_ranks


class ScriptedModule(pl.LightningModule):
    """Hands out targets and predictions of a chosen standard deviation at each step.

    Each rank's vectors are constant unless ``std`` is given; rank r's are r, so that they differ between ranks only.
    """

    def __init__(self, target_stds: list[float], prediction_std: float = 1.0) -> None:
        super().__init__()
        self.student = nn.Linear(4, 4)
        self.teacher = nn.ModuleDict({"encoder": nn.Linear(4, 4).requires_grad_(False)})
        self.target_stds = target_stds
        self.prediction_std = prediction_std

    def patch_losses(self, batch_idx: int) -> PatchLosses | None:
        """None as of a method that measures none; overridden below."""
        return None

    def vectors(self, std: float) -> Tensor:
        rows = torch.tensor([-1.0, 1.0] * 500)[:, None].expand(-1, 4)
        return std * rows + self.global_rank

    def training_step(self, batch: Tensor, batch_idx: int) -> dict[str, Any]:
        return {
            "loss": self.student(batch).sum(),
            "target_moments": moments(self.vectors(self.target_stds[batch_idx])),
            "prediction_moments": moments(self.vectors(self.prediction_std)),
            "patch_losses": self.patch_losses(batch_idx),
        }

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def moments(vectors: Tensor) -> Moments:
    return Moments.of(vectors, torch.ones(len(vectors)))


def train(module: ScriptedModule, monitor: CollapseMonitor, **options: Any) -> tuple[pl.Trainer, list[str]]:
    """Run one epoch with a step for each scripted value; the trainer and the monitor's warnings."""
    rows: Any = torch.zeros(2 * len(module.target_stds), 4)
    batches = DataLoader(rows, batch_size=options.pop("batch_size", 2))
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(callbacks=[monitor], **(settings | options))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, batches)
    known = ("standard deviation", "place")
    return trainer, [str(w.message) for w in caught if any(word in str(w.message) for word in known)]


def monitor(**options: Any) -> CollapseMonitor:
    return CollapseMonitor(**({"patience": 3, "start_step": 0, "every_n_steps": 1} | options))


def test_collapse_monitor__warns_once_per_episode() -> None:
    module = ScriptedModule([1, 0.05, 0.05, 0.05, 0.05, 1, 0.05, 0.05, 0.02])
    trainer, messages = train(module, monitor())
    assert trainer.global_step == 9
    assert len(messages) == 2
    assert "standard deviation of the targets is 0.05" in messages[0]
    assert "at step 4, below min_target_std=0.1 in 3 checks in a row" in messages[0]
    assert "lower learning rate" in messages[0]
    assert "at step 9" in messages[1]


def test_collapse_monitor__a_recovery_restarts_the_patience() -> None:
    _, messages = train(ScriptedModule([0.05, 0.05, 1, 0.05, 0.05, 1]), monitor())
    assert messages == []


def test_collapse_monitor__stops_the_run() -> None:
    trainer, messages = train(ScriptedModule([1] + [0.05] * 9), monitor(stop=True))
    assert trainer.global_step == 4
    assert len(messages) == 1
    assert "The run stops here" in messages[0]


def test_collapse_monitor__watches_predictions_with_their_own_threshold() -> None:
    _, healthy = train(ScriptedModule([1.0] * 4, prediction_std=0.02), monitor())
    _, collapsed = train(ScriptedModule([1.0] * 4, prediction_std=0.002), monitor())
    assert healthy == []
    assert len(collapsed) == 1
    assert "predictions" in collapsed[0]
    assert "min_prediction_std=0.01" in collapsed[0]


def test_collapse_monitor__nan_is_a_collapse() -> None:
    _, messages = train(ScriptedModule([float("nan")] * 3), monitor())
    assert "targets is nan" in messages[0]


def test_collapse_monitor__waits_for_the_start_step_and_checks_every_n_steps() -> None:
    _, too_early = train(ScriptedModule([0.05] * 8), monitor(start_step=9, patience=1))
    _, every_third = train(ScriptedModule([0.05] * 8), monitor(every_n_steps=3, patience=2))
    assert too_early == []
    assert "at step 6" in every_third[0]


def test_collapse_monitor__accumulated_batches_are_one_check() -> None:
    trainer, messages = train(ScriptedModule([0.05] * 8), monitor(patience=4), accumulate_grad_batches=2)
    assert trainer.global_step == 4
    assert "at step 4" in messages[0]


def test_collapse_monitor__a_resumed_run_goes_on_counting() -> None:
    first = monitor()
    train(ScriptedModule([0.05, 0.05]), first)
    resumed = monitor()
    resumed.load_state_dict(first.state_dict())
    _, messages = train(ScriptedModule([0.05]), resumed)
    assert "in 3 checks in a row" in messages[0]


def test_collapse_monitor__outputs_without_moments_are_refused() -> None:
    class Silent(ScriptedModule):
        def training_step(self, batch: Tensor, batch_idx: int) -> dict[str, Any]:
            return {"loss": self.student(batch).sum()}

    with pytest.raises(ValueError, match=r"needs 'target_moments'.*returned \['loss'\].*take the callback out"):
        train(Silent([1.0]), monitor())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("patience", 0),
        ("every_n_steps", 0),
        ("start_step", -1),
        ("min_target_std", -0.1),
        ("position_patience_steps", 0),
    ],
)
def test_collapse_monitor__numbers_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be at least [01], got {value}"):
        CollapseMonitor(**{name: value})  # type: ignore[arg-type]


def test_relative_distance__matches_numpy_and_is_logged() -> None:
    module = ScriptedModule([1.0])
    student = np.concatenate([p.detach().numpy().ravel() for p in module.student.parameters()])
    teacher = np.concatenate([p.detach().numpy().ravel() for p in module.teacher.encoder.parameters()])
    expected = np.linalg.norm(student - teacher) / np.linalg.norm(teacher)
    assert relative_distance(module.student, module.teacher.encoder).item() == pytest.approx(expected, rel=1e-6)
    assert relative_distance(module.student, module.student).item() == 0

    trainer, _ = train(module, monitor())
    distance = relative_distance(module.student, module.teacher.encoder)
    assert trainer.callback_metrics["train/ema_distance"].item() == pytest.approx(distance.item(), rel=1e-6)


class PlacedTargets(ScriptedModule):
    """Targets of a part that belongs to their place and of one that is new in every clip; a student that knows a share.

    Args:
        num_steps: Steps of the run.
        content: Size of the part that is new in every clip.
        known: Share of that part which the student predicts; it knows the places' part.
    """

    def __init__(self, num_steps: int, content: float, known: float) -> None:
        super().__init__([1.0] * num_steps)
        self.content, self.known = content, known
        self.means = PositionMeans()

    def patch_losses(self, batch_idx: int) -> PatchLosses | None:
        generator = torch.Generator().manual_seed(1 + batch_idx + 1000 * self.global_rank)
        places_PD = torch.randn(10, 16, generator=torch.Generator().manual_seed(0))
        content_BPD = self.content * torch.randn(8, 10, 16, generator=generator)
        student = (((1 - self.known) * content_BPD) ** 2).sum() / 4 / 80
        return self.means.compare(student, {"clip": (places_PD + content_BPD, torch.full((8, 10), 1 / 80))})


def test_collapse_monitor__targets_of_positions_alone_are_a_warning_and_ones_with_content_are_none() -> None:
    _, of_positions = train(PlacedTargets(8, content=0.05, known=0.9), monitor(stop=True))
    _, of_content = train(PlacedTargets(8, content=1.0, known=0.5), monitor(stop=True))
    assert of_content == []
    (message,) = of_positions
    assert "The place of a patch alone explains 100% of the variance of the targets at step 4" in message
    assert "above max_position_share=0.9 in 3 checks in a row" in message
    assert "random weights" in message


def test_collapse_monitor__a_student_no_better_than_the_places_mean_is_a_warning_after_long() -> None:
    watch = monitor(position_patience_steps=5)
    trainer, messages = train(PlacedTargets(8, content=1.0, known=-0.5), watch)
    assert trainer.global_step == 8  # a warning alone
    (message,) = messages
    assert "times that of the mean target of each place at step 6, which was no worse in 5 checks in a row" in message
    assert watch.bad_checks["above_position"] == 7  # without a mean, the first step has no verdict


@pytest.mark.parametrize(
    ("steps", "start", "patience"), [(1000, 100, 4), (440, 44, 3), (400_000, 5000, 200), (-1, 5000, 200)]
)
def test_collapse_monitor__start_and_patience_follow_the_length_of_the_run(
    steps: int, start: int, patience: int
) -> None:
    class LastStep(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.should_stop = True

    watch = CollapseMonitor()
    trainer = pl.Trainer(
        callbacks=[watch, LastStep()],
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    rows: Any = torch.zeros(2, 4)
    trainer.fit(ScriptedModule([1.0]), DataLoader(rows))
    assert watch._start_step == start
    assert watch._position_patience == patience


def test_collapse_monitor__sees_a_collapse_in_a_run_of_a_thousand_steps() -> None:
    _, messages = train(ScriptedModule([0.05] * 1000), CollapseMonitor())
    assert "at step 200, below min_target_std=0.1 in 3 checks" in messages[0]


def test_collapse_monitor__the_state_of_earlier_versions_is_gone_on_with() -> None:
    resumed = monitor()
    resumed.load_state_dict({"low_checks": {"target": 2, "prediction": 0}})
    _, messages = train(ScriptedModule([0.05]), resumed)
    assert "in 3 checks in a row" in messages[0]


@pytest.mark.distributed
def test_collapse_monitor__two_ranks_decide_together() -> None:
    """Vectors that are equal within a rank and differ between ranks are no collapse; equal ones stop both ranks."""
    context = torch.multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    torch.multiprocessing.spawn(run_rank, args=(free_port(), results), nprocs=2)
    found = sorted(results.get() for _ in range(2))
    # Rank, pooled standard deviation of {0, 1} in equal numbers, step of the end: the same on both.
    assert [rank for rank, _, _ in found] == [0, 1]
    for _, std, last_step in found:
        assert std == pytest.approx(0.5, abs=1e-2)
        assert last_step == 3


def run_rank(rank: int, port: int, results: Any) -> None:
    join_two_ranks(rank, port)
    # 0.5 across the ranks, 0 within each: above one threshold, below the other.
    module = ScriptedModule([0.0] * 6, prediction_std=0.0)
    watch = monitor(min_target_std=0.4, min_prediction_std=0.6, stop=True)
    # Six batches for each rank.
    trainer, _ = train(module, watch, devices=2, strategy="ddp", batch_size=1)
    results.put((rank, trainer.callback_metrics["train/target_std_all_ranks"].item(), trainer.global_step))
