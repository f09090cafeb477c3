"""What the callbacks that draw a picture now and then have in common."""

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from sslam.checks import at_least
from sslam.run_folder import required_run_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def as_warning(what: str) -> Iterator[None]:
    """A picture that cannot be drawn or written is a warning: a run does not end for it."""
    try:
        yield
    except Exception as error:
        reason = str(error).partition("\n")[0]
        warnings.warn(f"{what} could not be made ({type(error).__name__}: {reason}). The run goes on.", stacklevel=3)


class RunPicture(pl.Callback):
    """Saves ``pictures/step_XXXXXXXX.png`` in the run folder.

    Drawn by rank 0 of clips that it keeps; sent to TensorBoard and Weights & Biases where they log the run. Training is
    not touched: no gradient, and every global random state is put back.

    Args:
        every_n_steps: Optimizer steps between two pictures, >= 1; None for none before the end.
        at_end: One more picture at the end of the run.

    Attributes:
        tag: Name of the pictures in TensorBoard and Weights & Biases.

    Raises:
        ValueError: If ``every_n_steps`` is less than 1.
    """

    tag: str

    def __init__(self, every_n_steps: int | None = 5000, at_end: bool = True) -> None:
        at_least(1, every_n_steps=every_n_steps)
        self.every_n_steps = every_n_steps
        self.at_end = at_end
        self._last_step = 0
        self._clips: dict[str, Tensor] = {}

    @abstractmethod
    def keep(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copies of what a picture needs of a training batch; the end of the run has no batch."""

    @abstractmethod
    def explain(self, pl_module: Any, clips: dict[str, Tensor]) -> dict[str, Any]:
        """What the method does with the clips, at the run's precision."""

    @abstractmethod
    def draw(self, pl_module: Any, explained: dict[str, Any], step: int) -> "Figure":
        """The picture."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._folder = required_run_folder(trainer, self) / "pictures"
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.is_global_zero:
            return
        self._clips = self.keep(batch)
        step = trainer.global_step
        if self.every_n_steps is not None and step % self.every_n_steps == 0 and step != self._last_step:
            with as_warning(f"The picture of step {step}"):
                self._save(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.at_end and self._clips and trainer.global_step != self._last_step:
            with as_warning(f"The picture of step {trainer.global_step}"):
                self._save(trainer, pl_module)
        self._clips = {}

    def _save(self, trainer: pl.Trainer, pl_module: Any) -> None:
        step = self._last_step = trainer.global_step
        with isolate_rng(), torch.no_grad(), trainer.precision_plugin.forward_context():
            explained = self.explain(pl_module, self._clips)
        figure = self.draw(pl_module, explained, step)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"step_{step:08d}.png"
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes a second

        canvas: Any = FigureCanvasAgg(figure)
        canvas.print_png(path)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                image = np.asarray(canvas.buffer_rgba())[..., :3]
                logger.experiment.add_image(self.tag, image, step, dataformats="HWC")
            elif isinstance(logger, WandbLogger):
                logger.log_image(self.tag, [str(path)], step)
