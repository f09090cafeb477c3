"""What every method repeats, so that a method's own file holds the paper."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torchmetrics import Metric

from sslam.audio import SAMPLE_RATE
from sslam.checkpoints.architecture import state_networks
from sslam.frontends import Frontend
from sslam.methods.measured_frontend import measured
from sslam.methods.skipped_steps import SkippedSteps
from sslam.networks import Encoder
from sslam.optim import PEAK, clip_finite_gradients
from sslam.rebuildable import Rebuildable
from sslam.transforms import RandomSource

PRECISIONS = ("32-true", "bf16-mixed")


class Method(pl.LightningModule):
    """Base of all methods: evaluation, learning rate, clipping, random draws by step, and what a checkpoint states.

    A subclass has a ``training_step`` and ``configure_optimizers`` as in Lightning, and says

    - :meth:`evaluation_step` and :meth:`finish_evaluation`, which are the same for validation and test;
    - :meth:`learning_rate_at`, where the learning rate follows the step;
    - :meth:`load_initial_weights`, where a run may begin with those of a file: the constructor says of which, in
      ``weights_to_start_from``;
    - :meth:`stated_networks`, from which a checkpoint can be read without the run's configuration.

    What the command line must know of a method it asks the class: :attr:`needs_training`,
    :meth:`arguments_for_resuming`, :meth:`what_is_random`.
    """

    needs_training = True
    """Whether ``sslam fit`` is for it; ``sslam evaluate`` runs ``sslam test`` alone where it is not."""
    non_finite_steps_to_stop = 5
    """So many steps in a row whose gradients are not finite end the run; fewer are skipped, counted and warned of."""
    weights_to_start_from: str | None = None
    """File that is read before the first use of the model, unless the trainer goes on from a checkpoint."""

    # ---- what the command line asks ------------------------------------------------

    @classmethod
    def arguments_for_resuming(cls, arguments: Mapping[str, Any], checkpoint: str) -> dict[str, Any]:
        """The constructor arguments that differ where a run goes on from a checkpoint.

        Weights that the run began with (``initial_checkpoint``) are not read again: their file may be gone.

        Args:
            arguments: Configured arguments by name.
            checkpoint: File that the run goes on from.
        """
        return {"initial_checkpoint": None} if "initial_checkpoint" in arguments else {}

    @classmethod
    def what_is_random(cls, arguments: Mapping[str, Any]) -> str | None:
        """What has random weights in an evaluation without ``ckpt_path``, as a sentence; None if nothing has."""
        if arguments.get("initial_checkpoint") is not None:
            return None
        return "The model has random weights: no checkpoint was given."

    # ---- evaluation: the same for validation and test ------------------------------------------------

    def start_evaluation(self) -> None:
        """Before the first batch: forget the last evaluation; resets every metric that is a module of the method."""
        for module in self.modules():
            if isinstance(module, Metric):
                module.reset()

    def evaluation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Adds a batch to what is evaluated."""
        raise NotImplementedError

    def finish_evaluation(self, split: str) -> None:
        """After the last batch, on every process: compute and log ``val/...`` or ``test/...``."""
        raise NotImplementedError

    def log_results(self, split: str, values: Mapping[str, Any], **kwargs: Any) -> None:
        """Log what every process has found of all clips, as ``val/...`` or ``test/...``."""
        # Equal on all processes already; sync_dist says so to Lightning.
        self.log_dict({f"{split}/{name}": value for name, value in values.items()}, sync_dist=True, **kwargs)

    def on_validation_epoch_start(self) -> None:
        self._require_statistics()
        self.start_evaluation()

    def on_test_epoch_start(self) -> None:
        self._require_statistics()
        self.start_evaluation()

    def on_predict_start(self) -> None:
        self._require_statistics()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluation_step(batch, batch_idx)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        self.finish_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self.finish_evaluation("test")

    # ---- training ------------------------------------------------

    def setup(self, stage: str) -> None:
        if self.trainer.precision not in PRECISIONS:
            raise ValueError(
                f"trainer.precision must be {' or '.join(PRECISIONS)}, got {self.trainer.precision}: front ends and "
                "losses need float32."
            )
        for name, module in self.named_children():
            if isinstance(module, Frontend) and module.sample_rate != SAMPLE_RATE:
                raise ValueError(
                    f"model.{name}: sample_rate must be {SAMPLE_RATE}, the rate of the data's batches, got "
                    f"{module.sample_rate}. Leave it out."
                )
        if stage == "fit":
            state_networks(self.stated_networks())  # which would else fail at the first checkpoint
        # Read once: a test that follows a fit is of what was learnt.
        path, self.weights_to_start_from = self.weights_to_start_from, None
        if path is not None and self.trainer.ckpt_path is None:
            self.load_initial_weights(path)

    def on_fit_start(self) -> None:
        # Here, where a run that goes on has those of its checkpoint.
        for name, frontend in self._frontends_without_statistics().items():
            setattr(self, name, measured(frontend, self.trainer).to(self.device))

    def _require_statistics(self) -> None:
        for name in self._frontends_without_statistics():
            raise ValueError(
                f"model.{name}: statistics auto are measured in training. Give mean and std, which `sslam data stats` "
                "prints, or the checkpoint of a run (ckpt_path)."
            )

    def _frontends_without_statistics(self) -> dict[str, Frontend]:
        return {
            name: module
            for name, module in self.named_children()
            if isinstance(module, Frontend) and module.awaits_statistics
        }

    def random_source(self, batch_idx: int) -> RandomSource:
        """Generators of one training batch: other draws on every rank and batch, the same after a resume."""
        return RandomSource.seeded(self.device, torch.initial_seed(), self.global_rank, self.global_step, batch_idx)

    def learning_rate_at(self, step: int, peak: float) -> float:
        """Learning rate of optimizer step ``step`` (from 0) of the parameters whose highest one is ``peak``."""
        return peak

    def on_train_start(self) -> None:
        self.skipped_steps = SkippedSteps(self.non_finite_steps_to_stop)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if not self.automatic_optimization:
            return  # the method steps its optimizers itself
        self.skipped_steps.see(batch)
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate_at(self.global_step, group.get(PEAK, optimizer.defaults["lr"]))
        highest = max(group["lr"] for group in optimizer.param_groups)
        # A tensor made on the device: a number would be copied there, which waits for it.
        self.log("train/learning_rate", torch.full((), highest, device=self.device))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        gradient_norm: Tensor = clip_finite_gradients(
            self.parameters(), gradient_clip_val, gradient_clip_algorithm, optimizer
        )
        self.log("train/gradient_norm", gradient_norm)
        self.skipped_steps.add(self, gradient_norm.isfinite())

    def log_training_loss(self, loss: Tensor) -> None:
        """Log ``train/loss``: in the logs the mean over all processes, whose batches have one size.

        Args:
            loss: Scalar of this process.
        """
        loss = loss.detach()
        # Only where it is written, which is at the same steps on all processes.
        if self.trainer.world_size > 1 and self.trainer._logger_connector.should_update_logs:
            loss = self.trainer.strategy.reduce(loss, reduce_op="mean")
        self.log("train/loss", loss, prog_bar=True)

    # ---- checkpoints ------------------------------------------------

    def load_initial_weights(self, path: str | Path) -> None:
        """Take the networks' weights from a file.

        Raises:
            ValueError: If the file cannot be used, or its networks are not of the same sizes.
        """
        raise NotImplementedError

    def stated_networks(self) -> dict[str, Rebuildable]:
        """Networks and front end by their role, see :func:`~sslam.checkpoints.architecture.state_networks`."""
        raise NotImplementedError

    def prepare_to_load(self, checkpoint: Mapping[str, Any]) -> None:
        """Makes what has the shapes that a checkpoint tells, before its tensors are compared or loaded."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name, frontend in self._frontends_without_statistics().items():
            stated = checkpoint["architecture"]["frontend"]  # measured once, when the run began
            known = stated.get("init_args", stated)  # as checkpoints of version 0.1 have them
            setattr(self, name, frontend.with_statistics(known["mean"], known["std"]).to(self.device))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Plain values, so that the networks can be rebuilt from the file alone.
        checkpoint["architecture"] = state_networks(self.stated_networks())


def require_same_mel_bins(frontend: Frontend, encoder: Encoder) -> None:
    """Refuse a front end whose features the encoder does not take.

    Raises:
        ValueError: If they differ in the number of mel bins.
    """
    if frontend.num_mel_bins != encoder.num_mel_bins:
        raise ValueError(
            f"The front end's num_mel_bins must be the encoder's {encoder.num_mel_bins}, got {frontend.num_mel_bins}. "
            "Give both the same."
        )
