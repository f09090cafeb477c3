"""Linear probe: a frozen encoder, and a linear or shallow classifier on what it says of a clip.

Shape letters: B clips of a batch, W pooled width, C classes.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from sslam.losses import ClassificationLoss
from sslam.methods.classifier import Classifier
from sslam.networks import Readout
from sslam.networks.heads import Normalisation
from sslam.networks.readout import read_out
from sslam.probe_grid import KeptClips, ProbeGrid, TrainedHeads
from sslam.selection import best, edge


class LinearProbe(Classifier):
    """Trains a linear head on a frozen encoder, or with ``hidden_width`` a shallow network.

    The encoder's view of a clip never changes: training is one pass over the clips, which keeps their pooled tokens,
    and then the heads learn from those alone, all learning rates and seeds of a grid
    (:class:`~sslam.probe_grid.ProbeGrid`). The learning rate is chosen by cross-validation within the training clips,
    never on the clips that are evaluated; excerpts of one recording, where the data knows them, are held out together.
    For a probe on augmented clips (the published recipe for SPASS) see ``freeze_encoder`` of
    :class:`~sslam.methods.FineTune`.

    What is read of the encoder decides what a probe sees. Given several ``readouts``, all of them are kept in the one
    pass, and the same cross-validation chooses one of them together with the learning rate.

    The shallow classifier of Fonseca et al. 2021 (sec. 4.1) is a configuration: a hidden layer of 512 units on
    embeddings of length 1 (``normalisation: l2``, ``standardise: false``), and 5 % of the training clips for choosing.

    Args:
        loss: Loss of logits and labels.
        learning_rates: Highest learning rates to choose from.
        seeds: Seeds of the heads and of the order of the clips; metrics are the mean over them.
        epochs: Passes over the kept tokens.
        batch_size: Clips in a step on the kept tokens.
        warmup_fraction: Share of the training in which the learning rate rises.
        min_learning_rate: Learning rate at which the half cosine ends.
        weight_decay: Decoupled weight decay of Adam.
        weight_decay_exempt_1d: Give biases and norm weights no decay; the published code decays everything.
        betas: Betas of Adam.
        standardise: Let LayerNorm begin with a gain and an offset that standardise the tokens over the training clips,
            without which directions that vary little learn slowly (MAE uses a BatchNorm for this).
        selection_folds: Parts of the training clips that are held out in turn to choose the learning rate; then the
            heads learn from all clips.
        selection_fraction: Instead of parts in turn, the share of the training clips that is held out, from which no
            head ever learns; the heads of the learning rate that does best on it are kept. In (0, 1), or None.
        hidden_width: Units of a hidden layer with ReLU; None for a linear head.
        normalisation: Normalisation of the tokens: LayerNorm, whose gain and offset are learnt, ``l2``, to length 1, or
            ``standardise``: each number by its own mean and deviation over the training clips, for pooled statistics
            of different scales, which LayerNorm would mix.
        readouts: Readouts to choose from, in place of ``pooling`` and ``layers``. Their tokens are kept in the main
            memory, 4 bytes for each number: of the base encoder 68 kB a clip for all five poolings, 49 kB of them for
            ``row_statistics``, which are 1.4 GB for AudioSet-20K.
        **kwargs: Arguments of :class:`~sslam.methods.classifier.Classifier`.

    Raises:
        ValueError: If a value is out of its range, readouts are equal or given beside ``pooling`` or ``layers``, or see
            :class:`~sslam.methods.classifier.Classifier`.
    """

    def __init__(
        self,
        loss: ClassificationLoss,
        learning_rates: Sequence[float] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        seeds: Sequence[int] = (0, 1, 2),
        epochs: int = 100,
        batch_size: int = 64,
        warmup_fraction: float = 0.0,
        min_learning_rate: float = 1e-6,
        weight_decay: float = 0.05,
        weight_decay_exempt_1d: bool = True,
        betas: tuple[float, float] = (0.9, 0.95),
        standardise: bool = True,
        selection_folds: int = 5,
        selection_fraction: float | None = None,
        hidden_width: int | None = None,
        normalisation: Normalisation = "layer_norm",
        readouts: Sequence[Readout] = (),
        **kwargs: Any,
    ) -> None:
        grid = ProbeGrid(
            loss=loss,
            learning_rates=learning_rates,
            seeds=seeds,
            epochs=epochs,
            batch_size=batch_size,
            warmup_fraction=warmup_fraction,
            min_learning_rate=min_learning_rate,
            weight_decay=weight_decay,
            weight_decay_exempt_1d=weight_decay_exempt_1d,
            betas=betas,
            standardise=standardise,
            selection_folds=selection_folds,
            selection_fraction=selection_fraction,
            hidden_width=hidden_width,
            normalisation=normalisation,
        )
        super().__init__(grid.new_head, seeds, loss, **kwargs)
        if readouts and self.readout != Readout():
            raise ValueError(
                f"Give readouts, or pooling and layers, got both: readouts and {self.readout}. Leave pooling and "
                "layers out, or name them as one of the readouts."
            )
        if len(set(readouts)) < len(readouts):
            raise ValueError(f"readouts must be different ones, got {', '.join(map(str, readouts))}.")
        self.readouts = list(readouts) or [self.readout]
        self.widths = [readout.width(self.encoder) for readout in self.readouts]
        self._read_with(self.readouts[0])  # until one is chosen
        self.automatic_optimization = False
        self.freeze_encoder()
        self.grid = grid
        self.learning_rate = learning_rates[0]
        """Learning rate that was chosen."""
        self.warnings: list[str] = []
        """What a reader of the results should know of the choice."""
        self._kept: list[list[Tensor]] = []
        """Of every batch so far, on the CPU: the tokens in each readout, the labels, the indices."""

    @property
    def name(self) -> str:
        return "LinearProbe" if self.grid.hidden_width is None else "ShallowClassifier"

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.trainer.max_epochs != 1:
            raise ValueError(
                f"The trainer's max_epochs must be 1, got {self.trainer.max_epochs}: a linear probe sees every clip "
                "once and keeps its tokens. The probe's epochs counts the passes over the kept tokens."
            )
        if getattr(self.trainer.datamodule, "training_augmentation", False):  # type: ignore[attr-defined]
            raise ValueError(
                "A linear probe keeps the encoder's tokens and needs every training clip once, from its beginning. "
                "Set the data's training_augmentation to false, or take FineTune with freeze_encoder."
            )
        if self.trainer.world_size > 1 and self.trainer.limit_val_batches:
            # Validation begins after the last batch, which is not the same one on all processes: they would wait for
            # each other for ever.
            raise ValueError(
                "With several processes a linear probe cannot validate in its pass over the clips. Set the trainer's "
                "limit_val_batches to 0 and use sslam validate."
            )
        self._check_memory()
        rank_zero_info("Linear probe: one pass through the frozen encoder, whose pooled tokens are kept.")

    def _check_memory(self) -> None:
        """Refuses readouts that no memory of this machine can hold."""
        num_clips = len(self.trainer.datamodule.train_set)  # type: ignore[attr-defined]
        needed = 4 * num_clips * (sum(self.widths) + max(self.widths))  # one is copied when its batches are joined
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if needed > memory:
            shown = ", ".join(f"{readout} {width}" for readout, width in zip(self.readouts, self.widths, strict=True))
            raise ValueError(
                f"The probe would keep {needed / 2**30:.0f} GiB, more than the {memory / 2**30:.0f} GiB of this "
                f"machine, for {num_clips} clips ({shown} numbers each). Leave the widest readouts out, or "
                "take fewer layers."
            )

    def on_train_epoch_start(self) -> None:
        # A process may have no clip at all; what it gives to the others must have their shape.
        no_tokens = [torch.zeros(0, width) for width in self.widths]
        self._kept = [[*no_tokens, torch.zeros(0, len(self.class_names)), torch.zeros(0, dtype=torch.int64)]]

    @torch.no_grad()
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        features_BLF = self.frontend(batch["waveform"], batch.get("num_samples"))
        tokens = read_out(self.encoder, features_BLF, self.readouts)
        columns = [*(tokens_BW.float() for tokens_BW in tokens), batch["labels"], batch["index"]]
        self._kept.append([column.cpu() for column in columns])

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.is_last_batch:
            self._learn_from_kept()  # before Lightning validates

    def on_train_epoch_end(self) -> None:
        # Where the loader has ended early because whole batches could not be read.
        self._learn_from_kept()

    def _learn_from_kept(self) -> None:
        if not self._kept:
            return
        clips = self._all_kept()
        groups = getattr(self.trainer.datamodule, "training_groups", None)  # type: ignore[attr-defined]
        group_N = None if groups is None else torch.from_numpy(groups)[clips[0].index_N]
        trained = self.grid.fit(clips, self.has_one_label, group_N, self.device)
        self._read_with(self.readouts[trained.choice])
        for probe, head in zip(self.probes, trained.heads, strict=True):
            probe.load_state_dict(head.state_dict())
        self.learning_rate = trained.learning_rate
        rank_zero_info(f"{self.name}: {trained.num_clips} clips, {len(trained.heads)} seeds, {self._choice(trained)}.")
        self._warn_of_the_edge(trained)
        self.log("train/learning_rate", self.learning_rate)

    def _choice(self, trained: TrainedHeads) -> str:
        """What was chosen, by which numbers."""
        chosen = f"learning rate {self.learning_rate:g}"
        if not trained.scores:
            return chosen
        shown = ", ".join(f"{rate:g}: {score:.4f}" for rate, score in trained.scores[0].items())
        if len(self.readouts) > 1:
            chosen = f"readout {self.readout}, {chosen}"
            highest = [(scores[rate], rate) for scores in trained.scores for _, rate in [best([scores])]]
            shown = "; ".join(
                f"{readout}: {score:.4f} at {rate:g}"
                for readout, (score, rate) in zip(self.readouts, highest, strict=True)
            )
        metric = "accuracy" if self.has_one_label else "mAP"
        return f"{chosen}, chosen by {metric} on held-out training clips ({shown})"

    def _warn_of_the_edge(self, trained: TrainedHeads) -> None:
        """A best learning rate at the edge of its grid may not be the best one."""
        self.warnings = []
        end = edge(trained.scores[trained.choice], self.learning_rate) if trained.scores else None
        if end is not None:
            self.warnings = [
                f"the best learning rate, {self.learning_rate:g}, is the {end} of the probe's grid, and one further "
                f"out may do better. Add {'lower' if end == 'lowest' else 'higher'} ones to learning_rates."
            ]
            rank_zero_warn(f"{self.name}: {self.warnings[0]}")

    def _read_with(self, readout: Readout) -> None:
        """Read the encoder so, with heads of that width."""
        if readout == self.readout:
            return
        self.readout, self.width = readout, readout.width(self.encoder)
        if self.num_classes is not None:
            num_classes, self.num_classes = self.num_classes, None
            self._make_heads_for(num_classes, self.name)
            self.probes.to(self.device)

    def _all_kept(self) -> list[KeptClips]:
        """For each readout the clips of all processes in the order of their index: their number changes nothing."""
        batches, self._kept = self._kept, []
        index_N = self._joined([batch.pop() for batch in batches])
        order = index_N.argsort()
        labels_NC = self._joined([batch.pop() for batch in batches])[order]
        batches = [batch[::-1] for batch in batches]
        # One after the other, so that not all are held twice.
        tokens = [self._joined([batch.pop() for batch in batches])[order] for _ in self.readouts]
        return [KeptClips(embedding_NW, labels_NC, index_N[order]) for embedding_NW in tokens]

    def _joined(self, batches: Sequence[Tensor]) -> Tensor:
        column = torch.cat(list(batches))
        if self.trainer.world_size > 1:
            column = torch.cat(gather_all_tensors(column.to(self.device))).cpu()
        return column

    def prepare_to_load(self, checkpoint: Mapping[str, Any]) -> None:
        stated = checkpoint.get("architecture", {}).get("head", {})
        chosen = Readout(stated.get("pooling", self.readout.pooling), stated.get("layers"))
        if len(self.readouts) > 1 and chosen in self.readouts:
            self._read_with(chosen)
        super().prepare_to_load(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.learning_rate = checkpoint["training"]["learning_rate"]  # which was chosen
        self.warnings = checkpoint["training"].get("warnings", [])

    def training_facts(self) -> dict[str, Any]:
        """As of every classifier, and ``warnings``."""
        return {"warnings": self.warnings} | super().training_facts()

    def configure_optimizers(self) -> None:
        """The trainer has none: heads learn in the grid."""
