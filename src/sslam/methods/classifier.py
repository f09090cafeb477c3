"""What linear probe and fine-tuning share: classifiers on an encoder's pooled tokens, and how they are evaluated.

Shape letters: B clips, L frames, F mel bins, W pooled width, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from sslam.checkpoints.architecture import Network, statement
from sslam.checks import at_least
from sslam.losses import ClassificationLoss
from sslam.methods.evaluated_encoder import EvaluatedEncoder
from sslam.metrics import ClassificationMetrics, ClassificationResults
from sslam.networks.heads import ClassifierHead, UnitLength


class Classifier(EvaluatedEncoder):
    """A pre-trained encoder whose pooled tokens go through one classifier head, or through one for each seed.

    Args:
        new_head: Makes a head of what :meth:`embed` gives from its width, the number of classes and a seed.
        seeds: Seeds of several heads, whose metrics are averaged; None for one head from torch's global generator.
        loss: Loss of logits and labels.
        num_classes: Number of classes; None takes that of the data module, or of a checkpoint that is loaded.
        **kwargs: Arguments of :class:`~sslam.methods.evaluated_encoder.EvaluatedEncoder`.

    Raises:
        ValueError: If there are fewer than two classes, other classes than in the data, or seeds are equal; or see
            :class:`~sslam.methods.evaluated_encoder.EvaluatedEncoder`.
    """

    fc_norm: nn.Module
    head: nn.Linear
    results: list[ClassificationResults]
    """What the last evaluation found on all clips of all processes, for each head."""

    def __init__(
        self,
        new_head: Callable[[int, int, int | None], nn.Module],
        seeds: Sequence[int] | None,
        loss: ClassificationLoss,
        num_classes: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if seeds is not None and (not seeds or len(set(seeds)) < len(seeds)):
            raise ValueError(f"seeds must be one or more different numbers, got {list(seeds)}.")
        self.new_head = new_head
        self.seeds = None if seeds is None else list(seeds)
        self.loss = loss
        self.num_classes: int | None = None
        self.learning_rate = 0.0
        """Highest learning rate of the head; a method sets it."""
        self._loaded_training: dict[str, Any] = {}
        self.results = []
        self._metrics: list[ClassificationMetrics] = []
        # The weights of a head that is made later are those that it would have had if it had been made here.
        self._random_state = torch.get_rng_state()
        if num_classes is not None:
            self._make_heads(num_classes)

    # ---- the heads --------------------------------------------------------------------------------------------------

    def _make_heads(self, num_classes: int) -> None:
        at_least(2, num_classes=num_classes)
        self.num_classes = num_classes
        seeds: list[int] | list[None] = self.seeds or [None]
        first, *others = (self.new_head(self.width, num_classes, seed) for seed in seeds)
        is_linear = False
        self.stated_head: Network | None = None
        if isinstance(first, ClassifierHead):  # another one a checkpoint does not state
            self.stated_head = Network(type(first), first.architecture())
            # A linear one has the names of published classifiers, by which it is tagged and exported with; but a norm
            # without tensors has none.
            is_linear = len(first) == 2 and not isinstance(first.fc_norm, UnitLength)
            if is_linear:
                self.fc_norm, self.head = first.fc_norm, first.head
        if self.seeds is not None or not is_linear:
            self.probes = nn.ModuleList([first, *others])

    def _make_heads_for(self, num_classes: int, source: str) -> None:
        """Make the heads unless they are there, of as many classes.

        Raises:
            ValueError: If they have another number of classes.
        """
        if self.num_classes is None:
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(self._random_state)
                self._make_heads(num_classes)
        elif self.num_classes != num_classes:
            raise ValueError(
                f"{source} has {num_classes} classes and the model {self.num_classes}. Leave num_classes out, and give "
                "data and a checkpoint of the same classes."
            )

    @property
    def heads(self) -> list[nn.Module]:
        """The heads that are trained and evaluated: pooled tokens (B, W) to logits (B, C)."""
        if self.num_classes is None:
            raise ValueError("The number of classes is not known. Give num_classes, or load a checkpoint.")
        return list(self.probes) if hasattr(self, "probes") else [nn.Sequential(self.fc_norm, self.head)]

    def forward(self, features_BLF: Tensor) -> Tensor:
        """Logits (B, C) of normalised features (B, L, F), by the first head."""
        logits_BC: Tensor = self.heads[0](self.embed(features_BLF))
        return logits_BC

    # ---- evaluation -------------------------------------------------------------------------------------------------

    @classmethod
    def what_is_random(cls, arguments: Mapping[str, Any]) -> str | None:
        return super().what_is_random(arguments) or "The classifier's head has random weights: no ckpt_path was given."

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "predict":
            self._make_heads_for(len(self.class_names), type(self.trainer.datamodule).__name__)  # type: ignore[attr-defined]

    @property
    def has_one_label(self) -> bool:
        """Whether every clip of the data has exactly one class."""
        return getattr(self.trainer.datamodule, "single_label", False)  # type: ignore[attr-defined]

    def start_evaluation(self) -> None:
        self._metrics = [ClassificationMetrics(len(self.class_names), self.has_one_label) for _ in self.heads]

    def evaluation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        embedding_BW = self.embed_clips(batch)
        for metrics, head in zip(self._metrics, self.heads, strict=True):
            scores_BC = self.loss.log_probabilities(head(embedding_BW))
            metrics.update(scores_BC, batch["labels"], batch["index"], batch.get("polyphony"))

    def finish_evaluation(self, split: str) -> None:
        # Every process gathers the scores of all and computes the same numbers.
        self.results = [metrics.compute() for metrics in self._metrics]
        self._metrics = []
        scalars = [results.scalars() for results in self.results]
        for name in scalars[0]:
            mean = sum(values[name] for values in scalars) / len(scalars)
            # The mean over processes is of equal numbers.
            self.log(f"{split}/{name}", mean, prog_bar=name == "map", sync_dist=True)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Probabilities (B, C) and the vectors ``embedding`` (B, W) that they are of, with the clips' ``index``."""
        embedding_BW = self.embed_clips(batch)
        probabilities_BC = self.loss.log_probabilities(self.heads[0](embedding_BW)).exp()
        return {"index": batch["index"], "probabilities": probabilities_BC, "embedding": embedding_BW}

    # ---- training ---------------------------------------------------------------------------------------------------

    def training_facts(self) -> dict[str, Any]:
        """``epoch``, ``step``, ``seed`` and highest ``learning_rate`` of the training that the weights come from."""
        if self.trainer.ckpt_path and self.trainer.state.fn != TrainerFn.FITTING:
            return self._loaded_training
        return super().training_facts() | {"learning_rate": self.learning_rate}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.stated_head is not None:
            classifier = self.readout.stated() | {"activation": self.loss.activation}
            checkpoint["architecture"] |= statement({"head": self.stated_head}, classifier)
        checkpoint["class_names"] = self.class_names
        checkpoint["provenance"] = self.provenance
        checkpoint["training"] = self.training_facts()

    def prepare_to_load(self, checkpoint: Mapping[str, Any]) -> None:
        if "class_names" in checkpoint:
            self._make_heads_for(len(checkpoint["class_names"]), "The checkpoint")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.prepare_to_load(checkpoint)
        self.provenance = checkpoint["provenance"]
        self._loaded_training = checkpoint["training"]
