"""What a probe finds in the encoder as it trains, beside random weights: the evidence that a falling loss is not.

Shape letters: B and N clips, T samples, C classes, L frames, F mel bins.
"""

from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from callbacks.loss_curves import LossCurves
from callbacks.probed_clips import ProbedClips
from sslam.checks import at_least
from sslam.metrics.embedding_probe import probe_embeddings
from sslam.networks import Encoder, Readout
from sslam.networks.pooling import Pooling


class OnlineProbe(pl.Callback):
    """Logs ``online/knn_accuracy`` and ``online/probe_accuracy``, of data with several labels ``..._map``.

    Clips of the data's training split go through the encoder, in evaluation mode and at the run's precision, and
    neighbours and a linear probe predict the labels of each from clips of other recordings
    (:func:`~sslam.metrics.embedding_probe.probe_embeddings`); validation and test stay unseen, so that a checkpoint may
    be chosen by it (``ModelCheckpoint(monitor="online/probe_accuracy", mode="max", every_n_train_steps=...)``).
    ``online/random_...`` is the same of a new encoder with random weights, computed once.

    Rank 0 computes and tells the others. Training is not touched: no gradient, and modes and every random state are put
    back. Scores go to all loggers at their step and into :class:`~callbacks.LossCurves`.

    Args:
        data: Labelled data, such as :class:`data_modules.ESC50DataModule`: ``class_names``, ``single_label``, a
            ``train_set`` after ``setup("fit")`` whose samples have ``waveform``, ``num_samples`` and ``labels``, and
            ``training_groups``, where known, of clips that belong to one recording.
        weights: Encoder that is probed: the one that learns, or its moving average, where the method has one.
        every_n_steps: Optimizer steps between two probes, >= 1. There is one at the beginning and at the end, too.
        readout: Pooling of the tokens, see :func:`~sslam.networks.pooling.pool_tokens`. It decides what a probe sees.
        max_clips: Clips that are drawn, and kept in memory (0.3 MB for 5 s), >= 1.
        batch_size: Clips that go through the encoder at once, >= 1.
        num_folds: Parts of the clips, each of which is predicted from the others, >= 2.
        seed: Seed of the clips that are drawn, the folds and the random weights.

    Raises:
        ValueError: If a number is out of its range, and before training, if the data has no labels or too few clips,
            or the method no such encoder.
    """

    def __init__(
        self,
        data: pl.LightningDataModule,
        weights: Literal["student", "teacher"] = "student",
        every_n_steps: int = 1000,
        readout: Pooling = "row_statistics",
        max_clips: int = 400,
        batch_size: int = 16,
        num_folds: int = 4,
        seed: int = 0,
    ) -> None:
        at_least(1, every_n_steps=every_n_steps, max_clips=max_clips, batch_size=batch_size)
        at_least(2, num_folds=num_folds)
        at_least(0, seed=seed)
        self.data: Any = data
        self.weights = weights
        self.every_n_steps = every_n_steps
        self.readout = Readout(readout)
        self.max_clips = max_clips
        self.batch_size = batch_size
        self.num_folds = num_folds
        self.seed = seed
        self.random_scores: dict[str, float] = {}
        self.scores: dict[str, float] = {}
        self._last_step = -1
        self._clips: ProbedClips | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not getattr(self.data, "class_names", None):
            raise ValueError(
                f"OnlineProbe needs labelled clips, and {type(self.data).__name__} has no classes. Give it labelled "
                "data, such as data_modules.ESC50DataModule or data_modules.ClassFolderDataModule."
            )
        try:
            with isolate_rng():
                self.data.setup("fit")
        except ValueError as error:  # which takes it for the run's own data
            raise ValueError(f"The data of OnlineProbe in trainer.callbacks: {error}") from error
        if getattr(self.data, "train_set", None) is None:
            raise ValueError(f"{type(self.data).__name__} has no training clips to probe with. Give it some.")
        self.readout.width(self.encoder_of(pl_module))

    def encoder_of(self, pl_module: Any) -> Encoder:
        """The encoder that is probed.

        Raises:
            ValueError: If the method has none with such weights.
        """
        student = pl_module.stated_networks().get("encoder")
        teacher = getattr(getattr(pl_module, "teacher", None), "encoder", None)
        found = student if self.weights == "student" else teacher
        if not isinstance(found, Encoder):
            remedy = "Take the callback out of the configuration." if student is None else "Give weights student."
            raise ValueError(f"OnlineProbe finds no {self.weights} in {type(pl_module).__name__}. {remedy}")
        return found

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        refusal = ""
        if trainer.is_global_zero:
            try:
                with isolate_rng():
                    self._clips = ProbedClips.read(self.data, self.max_clips, self.num_folds, self.seed)
            except ValueError as error:
                refusal = str(error)
        if refusal := trainer.strategy.broadcast(refusal):  # all processes end, and none waits for the first
            raise ValueError(refusal)
        if not self.scores or self._is_due(trainer):
            self._probe(trainer, pl_module)
        else:
            self._offer(trainer)  # a run that goes on has those of its last probe

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._is_due(trainer):
            self._probe(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step != self._last_step:
            self._probe(trainer, pl_module)
            for curves in self._curves(trainer):
                curves.draw(trainer)  # which may have been drawn before
        self._clips = None

    def _is_due(self, trainer: pl.Trainer) -> bool:
        # Under gradient accumulation a step has several batches.
        return trainer.global_step % self.every_n_steps == 0 and trainer.global_step != self._last_step

    def score(self, encoder: Encoder, pl_module: Any) -> dict[str, float]:
        """What the probes find in an encoder; its modes are put back."""
        assert self._clips is not None
        waveform_NT, num_samples_N, labels_NC, groups_N, splits, single_label = self._clips
        frontend = pl_module.stated_networks()["frontend"].of_length(waveform_NT.shape[1]).to(pl_module.device)
        modes = [(module, module.training) for module in encoder.modules()]
        encoder.eval()
        embeddings = []
        for start in range(0, len(waveform_NT), self.batch_size):
            batch = slice(start, start + self.batch_size)
            features_BLF = frontend(waveform_NT[batch].to(pl_module.device), num_samples_N[batch].to(pl_module.device))
            embeddings.append(self.readout(encoder, features_BLF).float().cpu())
        for module, mode in modes:
            module.training = mode
        return probe_embeddings(torch.cat(embeddings).numpy(), labels_NC, groups_N, splits, single_label)

    def _probe(self, trainer: pl.Trainer, pl_module: Any) -> None:
        step = self._last_step = trainer.global_step
        if trainer.is_global_zero:
            encoder = self.encoder_of(pl_module)
            with isolate_rng(), torch.no_grad(), trainer.precision_plugin.forward_context():
                found = self.score(encoder, pl_module)
                if not self.random_scores:
                    torch.manual_seed(self.seed)
                    new = type(encoder)(**encoder.architecture()).to(pl_module.device)
                    of_random = self.score(new, pl_module)
                    self.random_scores = {f"online/random_{name}": value for name, value in of_random.items()}
            self.scores = {f"online/{name}": value for name, value in found.items()} | self.random_scores
        self.scores = trainer.strategy.broadcast(self.scores)
        self._offer(trainer)
        for logger in trainer.loggers:
            logger.log_metrics(self.scores, step=step)
        for curves in self._curves(trainer):
            curves.add_points(step, self.scores)

    def _offer(self, trainer: pl.Trainer) -> None:
        # As Lightning's LearningRateMonitor does: the values are there for a checkpoint of this very step.
        device = trainer.strategy.root_device
        scores = {name: torch.tensor(value, device=device) for name, value in self.scores.items()}
        trainer.callback_metrics.update(scores)

    def _curves(self, trainer: pl.Trainer) -> list[LossCurves]:
        return [callback for callback in trainer.callbacks if isinstance(callback, LossCurves)]  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._last_step, "scores": self.scores, "random_scores": self.random_scores}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._last_step = state_dict["step"]
        self.scores = dict(state_dict["scores"])
        self.random_scores = dict(state_dict["random_scores"])
