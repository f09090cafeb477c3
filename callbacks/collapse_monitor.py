"""Watch a self-distillation run for collapse: targets that no longer differ, or differ by their place alone."""

import math
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from sslam.checks import at_least, within
from sslam.metrics import Moments, PatchLosses


@torch.no_grad()
def relative_distance(student: nn.Module, teacher: nn.Module) -> Tensor:
    """``|student - teacher| / |teacher|`` over the parameters of the teacher, by name, in float32; a scalar >= 0."""
    student_parameters = dict(student.named_parameters())
    pairs = [(student_parameters[name].float(), p.float()) for name, p in teacher.named_parameters()]
    difference = torch.stack([torch.linalg.vector_norm(s - t) for s, t in pairs])
    size = torch.stack([torch.linalg.vector_norm(t) for _, t in pairs])
    distance: Tensor = difference.norm() / size.norm()
    return distance


class CollapseMonitor(pl.Callback):
    """Warns when targets or predictions have become (nearly) constant, and stops the run when asked to.

    Every ``every_n_steps`` optimizer steps all ranks add up what they have found, so that they reach the same
    verdict. A standard deviation (per dimension over all tokens of all ranks, then the mean over dimensions) that is
    below its threshold, or nan, in ``patience`` checks in a row starts an episode: one warning and, with ``stop``,
    the end of the run. The episode is over when the value is above the threshold again. The distance between student
    and teacher is logged as ``train/ema_distance``; where there are several ranks, the standard deviations over all
    of them as ``train/target_std_all_ranks`` and ``train/prediction_std_all_ranks``.

    A warning alone, once per episode as well, is for targets that tell little but the place of a patch, and for a
    student whose patch loss stays at or above that of the mean target of each place, which hears nothing.

    The method's ``training_step`` returns ``target_moments`` and ``prediction_moments``
    (:class:`sslam.metrics.Moments`; None where a stage has no targets), and may return ``patch_losses``
    (:class:`sslam.metrics.PatchLosses`); the method has ``student`` and ``teacher.encoder``.

    Args:
        min_target_std: Lowest healthy standard deviation of the targets, >= 0. data2vec's code stops below 0.1.
        min_prediction_std: Lowest healthy standard deviation of the predictions, >= 0. data2vec's code stops below
            0.01.
        max_position_share: Highest healthy share of the targets' variance that position explains, in [0, 1].
        patience: Checks in a row beyond the threshold before the warning, >= 1. data2vec stops at the first.
        position_patience_steps: Optimizer steps in a row in which the student is no better than the mean of each place
            before the warning, >= 1; None for a fifth of the run, and 10 000 at most.
        start_step: Optimizer step of the first verdict, >= 0: at first, predictions are nearly constant. None for a
            tenth of the run, and 5000 at most, for which data2vec waits.
        every_n_steps: Optimizer steps between two checks, >= 1. Values reach the loggers at multiples of the trainer's
            ``log_every_n_steps`` (50 by default).
        stop: Whether the first episode of a standard deviation ends the run.

    Raises:
        ValueError: If a number is out of its range, or if ``training_step`` does not return the moments.
    """

    def __init__(
        self,
        min_target_std: float = 0.1,
        min_prediction_std: float = 0.01,
        max_position_share: float = 0.9,
        patience: int = 3,
        position_patience_steps: int | None = None,
        start_step: int | None = None,
        every_n_steps: int = 50,
        stop: bool = False,
    ) -> None:
        at_least(0, min_target_std=min_target_std, min_prediction_std=min_prediction_std, start_step=start_step)
        at_least(1, patience=patience, every_n_steps=every_n_steps, position_patience_steps=position_patience_steps)
        within(0, 1, max_position_share=max_position_share)
        self.thresholds = {"target": min_target_std, "prediction": min_prediction_std}
        self.max_position_share = max_position_share
        self.patience = patience
        self.position_patience_steps = position_patience_steps
        self.start_step = start_step
        self.every_n_steps = every_n_steps
        self.stop = stop
        # Checks in a row beyond the threshold; at the patience the episode is reported.
        self.bad_checks = {"target": 0, "prediction": 0, "position_share": 0, "above_position": 0}
        self._last_step = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        num_steps = trainer.estimated_stepping_batches  # inf where nothing ends the run
        self._start_step = min(5000, num_steps / 10) if self.start_step is None else self.start_step
        long = self.position_patience_steps or min(10_000, num_steps / 5)
        self._position_patience = max(self.patience, math.ceil(long / self.every_n_steps))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        # Under gradient accumulation several batches end at one step. Whether to check depends on the step alone, so
        # every rank takes part.
        if step in (0, self._last_step) or step % self.every_n_steps != 0:
            return
        self._last_step = step
        module: Any = pl_module
        pl_module.log("train/ema_distance", relative_distance(module.student, module.teacher.encoder))
        if isinstance(outputs, dict) and outputs.get("target_moments", outputs) is None:
            return  # a stage without targets, as where clips are only told apart
        for quantity in self.thresholds:
            std = self._std_of_all_ranks(trainer, outputs, quantity)
            if trainer.world_size > 1:
                pl_module.log(f"train/{quantity}_std_all_ranks", std)
            if step >= self._start_step:
                self._judge_std(trainer, quantity, std.item())
        # All ranks have the same targets' kinds, and so losses at the same steps.
        if step >= self._start_step and outputs.get("patch_losses") is not None:
            self._judge_position(trainer, outputs["patch_losses"])

    def _std_of_all_ranks(self, trainer: pl.Trainer, outputs: Any, quantity: str) -> Tensor:
        key = f"{quantity}_moments"
        if not isinstance(outputs, dict) or key not in outputs:
            found = sorted(outputs) if isinstance(outputs, dict) else type(outputs).__name__
            raise ValueError(
                f"CollapseMonitor needs '{key}' in what training_step returns, and it returned {found}. "
                "Return the moments, or take the callback out of the configuration."
            )
        moments: Moments = outputs[key]
        # The reduction works in place, and the outputs belong to the other callbacks too.
        sums = [
            trainer.strategy.reduce(part.clone(), reduce_op="sum")
            for part in (moments.number, moments.total_D, moments.total_of_squares_D)
        ]
        return Moments(*sums).standard_deviation()

    def _judge_std(self, trainer: pl.Trainer, quantity: str, std: float) -> None:
        threshold = self.thresholds[quantity]
        checks = self._count(quantity, is_healthy=std >= threshold)  # false for nan
        if checks == self.patience or (self.stop and checks > self.patience):
            rank_zero_warn(
                f"The standard deviation of the {quantity}s is {std:.4g} at step {trainer.global_step}, below "
                f"min_{quantity}_std={threshold:g} in {checks} checks in a row: the representation "
                "is collapsing. Go back to an earlier checkpoint, with a lower learning rate, a longer warm-up or an "
                "EMA decay nearer to 1." + (" The run stops here, because of stop=True." if self.stop else "")
            )
            trainer.should_stop = trainer.should_stop or self.stop

    def _judge_position(self, trainer: pl.Trainer, losses: PatchLosses) -> None:
        losses = PatchLosses(*trainer.strategy.reduce(torch.stack(losses), reduce_op="sum"))
        share, above = losses.position_share().item(), losses.above_position().item()
        when = f"at step {trainer.global_step}"
        checks = self._count("position_share", is_healthy=share <= self.max_position_share)
        if checks == self.patience:
            rank_zero_warn(
                f"The place of a patch alone explains {share:.0%} of the variance of the targets {when}, above "
                f"max_position_share={self.max_position_share:g} in {checks} checks in a row: a falling loss is "
                "no evidence that content is learnt. Compare a probe of it with one of random weights, under the same "
                "readout."
            )
        checks = self._count("above_position", is_healthy=above < 1)
        if checks == self._position_patience:
            rank_zero_warn(
                f"The student's patch loss is {above:.2f} times that of the mean target of each place {when}, which "
                f"was no worse in {checks} checks in a row: nothing shows that the student has learnt content. Train "
                "for longer, or with a higher learning rate or a smaller cls_loss_weight."
            )

    def _count(self, quantity: str, is_healthy: bool) -> int:
        self.bad_checks[quantity] = 0 if is_healthy else self.bad_checks[quantity] + 1
        return self.bad_checks[quantity]

    def state_dict(self) -> dict[str, Any]:
        return {"low_checks": dict(self.bad_checks)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.bad_checks |= state_dict["low_checks"]  # of earlier versions without those of the position
