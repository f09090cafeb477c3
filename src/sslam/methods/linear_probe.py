"""Linear probe: a frozen encoder, and a linear or shallow classifier on what it says of a clip.

Shape letters: N all training clips, B clips of a batch, R probes computed at once, L frames, F mel bins, W pooled
width, C classes.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics.utilities.distributed import gather_all_tensors
from tqdm.auto import tqdm

from sslam.methods.classifier import Classifier
from sslam.methods.probes import Normalisation, Probe, StackedProbes
from sslam.metrics import ClassificationMetrics
from sslam.networks.pooling import pooled_width
from sslam.optim import PEAK, parameter_groups, warmup_cosine
from sslam.transforms import Augmentation, RandomSource


@contextmanager
def one_thread() -> Iterator[None]:
    """Computes on one processor core: for matrices this small threads cost more than they give.

    Measured with two threads on a machine that has other work: 112 s for a probe that takes 33 s on one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class FrozenClips(NamedTuple):
    """Pooled tokens (N, W), labels (N, C) and indices (N,) of the training clips."""

    embedding: Tensor
    labels: Tensor
    ids: Tensor


class LinearProbe(Classifier):
    """Trains a linear head on a frozen encoder, or with ``hidden_width`` a shallow network.

    Without augmentation the encoder's view of a clip never changes: training is one pass over the clips, which keeps
    their pooled tokens, and then the heads learn from those alone, all learning rates and seeds of the grid. The
    learning rate is chosen by cross-validation within the training clips, never on the clips that are evaluated. With
    augmentation (the published recipe for SPASS) the encoder sees every clip anew, and there is one learning rate.

    The shallow classifier of Fonseca et al. 2021 (sec. 4.1) is a configuration: a hidden layer of 512 units on
    embeddings of length 1 (``normalisation: l2``, ``standardise: false``), and 5 % of the training clips for choosing.

    Args:
        augmentation: Of the training clips; none by default.
        learning_rates: Highest learning rates to choose from.
        seeds: Of heads and order of the clips; metrics are the mean over them.
        epochs: Passes over the kept tokens. With augmentation ``trainer.max_epochs`` counts instead.
        batch_size: Clips in a step on the kept tokens. With augmentation the data module's counts instead.
        warmup_fraction: Share of the training in which the learning rate rises.
        min_learning_rate: Where the half cosine ends.
        weight_decay: Decoupled weight decay of Adam.
        weight_decay_exempt_1d: Give biases and norm weights no decay; the published code decays everything.
        betas: Of Adam.
        standardise: Start from tokens that are standardised over the training clips, without which directions that
            vary little learn slowly (MAE uses a BatchNorm for this); not with augmentation.
        selection_folds: Parts of the training clips that are held out in turn to choose the learning rate; then the
            heads learn from all clips.
        selection_fraction: Instead of parts in turn, the share of the training clips that is held out, from which no
            head ever learns; the heads of the learning rate that does best on it are kept. In (0, 1), or None.
        hidden_width: Units of a hidden layer with ReLU; None for a linear head.
        normalisation: Of the tokens: LayerNorm, whose gain and offset are learnt, or ``l2``, to length 1.
        drop_path: Stochastic depth of the frozen encoder in training. The published code leaves it on; 0 by default.
        **kwargs: Of :class:`~sslam.methods.classifier.Classifier`.

    Raises:
        ValueError: If a value is out of its range, or see :class:`~sslam.methods.classifier.Classifier`.
    """

    def __init__(
        self,
        augmentation: Augmentation | None = None,
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
        drop_path: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(drop_path=drop_path, **kwargs)
        if not learning_rates or min(learning_rates) <= 0:
            raise ValueError(f"learning_rates must be one or more positive numbers, got {list(learning_rates)}.")
        if augmentation is not None and len(learning_rates) > 1:
            raise ValueError(
                f"With augmentation there is one learning rate, got {list(learning_rates)}: the grid needs tokens that "
                "are kept. Pass --model.learning_rates [1e-3], or leave the augmentation out."
            )
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must be one or more different numbers, got {list(seeds)}.")
        for name, value, least in (
            ("epochs", epochs, 1),
            ("batch_size", batch_size, 1),
            ("selection_folds", selection_folds, 2),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}.")
        if hidden_width is not None and hidden_width < 1:
            raise ValueError(f"hidden_width must be at least 1, or null for a linear head, got {hidden_width}.")
        if selection_fraction is not None and not 0 < selection_fraction < 1:
            raise ValueError(f"selection_fraction must be between 0 and 1, both excluded, got {selection_fraction}.")
        if selection_fraction is not None and augmentation is not None:
            raise ValueError(
                "With augmentation there is one learning rate and nothing to choose. Leave --model.selection_fraction "
                "or the augmentation out."
            )
        if standardise and normalisation == "l2" and augmentation is None:
            raise ValueError(
                "standardise needs LayerNorm, whose gain and offset it sets, and normalisation is l2. Pass "
                "--model.standardise false, or --model.normalisation layer_norm."
            )
        self.automatic_optimization = False
        self.augmentation = augmentation
        self.learning_rates = list(learning_rates)
        self.seeds = list(seeds)
        self.epochs = epochs
        self.batch_size = batch_size
        self.warmup_fraction = warmup_fraction
        self.min_learning_rate = min_learning_rate
        self.weight_decay = weight_decay
        self.weight_decay_exempt_1d = weight_decay_exempt_1d
        self.betas = betas
        self.standardise = standardise
        self.selection_folds = selection_folds
        self.selection_fraction = selection_fraction
        self.hidden_width = hidden_width
        self.normalisation = normalisation
        self.encoder.requires_grad_(False).train(drop_path > 0)
        self.width = pooled_width(self.encoder.width, self.pooling)
        probes = [self.new_probe(seed) for seed in self.seeds]
        self.probes = nn.ModuleList(probes)
        # The first probe is the classifier that is embedded, tagged and exported with, if it is a linear one.
        if isinstance(probes[0].fc_norm, nn.LayerNorm) and hidden_width is None:
            self.fc_norm, self.head = probes[0].fc_norm, probes[0].head
        else:
            del self.fc_norm, self.head
        self.learning_rate = self.learning_rates[0]
        """The one that was chosen."""
        self._kept: list[FrozenClips] = []

    def new_probe(self, seed: int) -> Probe:
        """One that has not learnt."""
        return Probe(self.width, self.num_classes, seed, self.hidden_width, self.normalisation)

    @property
    def name(self) -> str:
        return "LinearProbe" if self.hidden_width is None else "ShallowClassifier"

    @property
    def num_heads(self) -> int:
        return len(self.seeds)

    def embed(self, features_BLF: Tensor) -> Tensor:
        # What follows is in the head's precision also under autocast.
        return self.pooled(features_BLF).to(next(self.probes.parameters()).dtype)

    def classify(self, embedding_BW: Tensor) -> Tensor:
        logits_BC: Tensor = self.probes[0](embedding_BW)
        return logits_BC

    def all_logits(self, features_BLF: Tensor) -> list[Tensor]:
        embedding_BW = self.embed(features_BLF)
        return [probe(embedding_BW) for probe in self.probes]

    # ---- one pass over the clips ------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        if self.augmentation is not None:
            return
        if self.trainer.max_epochs != 1:
            raise ValueError(
                f"trainer.max_epochs must be 1, got {self.trainer.max_epochs}: without augmentation a linear probe "
                "sees every clip once and keeps its tokens. Pass --trainer.max_epochs 1; --model.epochs counts the "
                "passes over the kept tokens."
            )
        if getattr(self.trainer.datamodule, "training_augmentation", False):  # type: ignore[attr-defined]
            raise ValueError(
                "A linear probe that keeps the encoder's tokens needs every training clip once, from its beginning. "
                "Pass --data.training_augmentation false."
            )
        if self.trainer.world_size > 1 and self.trainer.limit_val_batches:
            # Validation begins after the last batch, which is not the same one on all processes: they would wait for
            # each other for ever.
            raise ValueError(
                "With several processes a linear probe that keeps the encoder's tokens cannot validate in its pass "
                "over the clips. Pass --trainer.limit_val_batches 0 and use sslam validate."
            )
        rank_zero_info(
            "Linear probe without augmentation: one pass through the frozen encoder, whose pooled tokens are kept."
        )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        if self.augmentation is None:
            self._keep(batch)
        else:
            self._augmented_step(batch, batch_idx, self.augmentation)

    def on_train_epoch_start(self) -> None:
        # A process may have no clip at all; what it gives to the others must have their shape.
        no_ids = torch.zeros(0, dtype=torch.int64)
        self._kept = [FrozenClips(torch.zeros(0, self.width), torch.zeros(0, self.num_classes), no_ids)]

    @torch.no_grad()
    def _keep(self, batch: dict[str, Any]) -> None:
        embedding_BW = self.embed(self.frontend(batch["waveform"], batch["num_samples"])).float()
        clips = FrozenClips(embedding_BW, batch["labels"], batch["index"])
        self._kept.append(FrozenClips(*(tensor.cpu() for tensor in clips)))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.is_last_batch:
            self._learn_from_kept()  # before Lightning validates

    def on_train_epoch_end(self) -> None:
        # Where the loader has ended early because whole batches could not be read.
        self._learn_from_kept()

    def _learn_from_kept(self) -> None:
        if self.augmentation is not None or not self._kept:
            return
        clips = self._all_kept()
        grid = len(self.learning_rates)
        if self.selection_fraction is not None:
            num_clips = self._learn_and_choose(clips, self.selection_fraction)
        else:
            if grid > 1:
                self.learning_rate = self.choose_learning_rate(clips)
            num_clips = len(clips.embedding)
            everything = torch.arange(num_clips).expand(len(self.seeds), -1)
            (trained,) = self.train_probes(clips, everything, [self.learning_rate], self.seeds)
            trained.copy_to(self.probes)
        chosen = f"learning rate {self.learning_rate:g}" + (f", chosen from {grid}" if grid > 1 else "")
        rank_zero_info(f"{self.name}: {num_clips} clips, {len(self.seeds)} seeds, {chosen}.")
        self.log("train/learning_rate", self.learning_rate)

    def _all_kept(self) -> FrozenClips:
        """The clips of all processes in the order of their index, so that their number changes nothing."""
        columns = [torch.cat(column).to(self.device) for column in zip(*self._kept, strict=True)]
        self._kept = []
        if self.trainer.world_size > 1:
            columns = [torch.cat(gather_all_tensors(column)) for column in columns]
        clips = FrozenClips(*columns)
        order = clips.ids.argsort()
        return FrozenClips(*(column[order] for column in clips))

    def choose_learning_rate(self, clips: FrozenClips) -> float:
        """The one whose heads do best on training clips that they have not seen: accuracy, or mAP."""
        num_clips = len(clips.embedding)
        parts = min(self.selection_folds, num_clips)
        order_N = torch.randperm(num_clips, generator=torch.Generator().manual_seed(0))
        held_out = [order_N[part::parts] for part in range(parts)]
        fewest = num_clips - len(held_out[0])  # parts differ by a clip
        others = torch.stack([order_N[torch.arange(num_clips) % parts != part][:fewest] for part in range(parts)])
        scores = []
        for trained in self.train_probes(clips, others, self.learning_rates, [0] * parts):
            probes = self._singles(trained, parts)
            scores.append(self._score(clips, list(zip(probes, held_out, strict=True))))
        return self._best_learning_rate(scores)

    def _learn_and_choose(self, clips: FrozenClips, fraction: float) -> int:
        """Heads of every learning rate from all but the held-out clips, which choose; returns how many they are."""
        num_clips = len(clips.embedding)
        num_held_out = max(1, round(fraction * num_clips))
        if num_held_out >= num_clips:
            raise ValueError(
                f"selection_fraction {fraction:g} holds out all of {num_clips} training clips. Give more clips or a "
                "smaller --model.selection_fraction."
            )
        order_N = torch.randperm(num_clips, generator=torch.Generator().manual_seed(0))
        held_out, others = order_N[:num_held_out], order_N[num_held_out:].expand(len(self.seeds), -1)
        stacks = self.train_probes(clips, others, self.learning_rates, self.seeds)
        scores = []
        for trained in stacks:
            probes = self._singles(trained, len(self.seeds))
            scores.append(sum(self._score(clips, [(probe, held_out)]) for probe in probes) / len(probes))
        self.learning_rate = self._best_learning_rate(scores)
        stacks[self.learning_rates.index(self.learning_rate)].copy_to(self.probes)
        return num_clips - num_held_out

    def _singles(self, trained: StackedProbes, number: int) -> list[Probe]:
        probes = [self.new_probe(0).to(self.device) for _ in range(number)]
        trained.copy_to(probes)
        return probes

    @property
    def _has_one_label(self) -> bool:
        return getattr(self.trainer.datamodule, "single_label", False)  # type: ignore[attr-defined]

    def _score(self, clips: FrozenClips, held_out: Sequence[tuple[Probe, Tensor]]) -> float:
        """Accuracy, or mAP, of all these clips, each part scored by its probe."""
        # Every process has all clips already: nothing to gather.
        metrics = ClassificationMetrics(self.num_classes, self._has_one_label, sync_on_compute=False)
        for probe, ids in held_out:
            with torch.no_grad():
                scores_BC = self.loss.log_probabilities(probe(clips.embedding[ids]))
            metrics.update(scores_BC, clips.labels[ids], clips.ids[ids])
        return metrics.compute().scalars()["accuracy" if self._has_one_label else "map"]

    def _best_learning_rate(self, scores: list[float]) -> float:
        shown = ", ".join(f"{rate:g}: {score:.4f}" for rate, score in zip(self.learning_rates, scores, strict=True))
        rank_zero_info(
            f"{self.name}: {'accuracy' if self._has_one_label else 'mAP'} on held-out training clips by learning "
            f"rate: {shown}."
        )
        ranked = [-math.inf if math.isnan(score) else score for score in scores]
        return self.learning_rates[ranked.index(max(ranked))]

    def train_probes(
        self, clips: FrozenClips, ids_RN: Tensor, learning_rates: Sequence[float], seeds: Sequence[int]
    ) -> list[StackedProbes]:
        """R probes for each learning rate; probe r learns from the clips ``ids_RN[r]`` and has seed ``seeds[r]``."""
        replicas, num_clips = ids_RN.shape
        with torch.enable_grad(), one_thread():
            initial = [self.new_probe(seed).to(self.device) for seed in seeds]
            stacks = [StackedProbes(initial) for _ in learning_rates]
            if self.standardise:
                for stack in stacks:
                    for replica in range(replicas):
                        stack.standardise(replica, clips.embedding[ids_RN[replica]])
            groups = [
                {"params": parameters, "lr": rate, PEAK: rate, "weight_decay": decay}
                for stack, rate in zip(stacks, learning_rates, strict=True)
                for parameters, decay in (
                    (stack.matrices(), self.weight_decay),
                    (stack.vectors(), 0.0 if self.weight_decay_exempt_1d else self.weight_decay),
                )
            ]
            optimizer = torch.optim.AdamW(groups, betas=self.betas, eps=1e-8, fused=True)
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            steps_per_epoch = -(-num_clips // self.batch_size)
            total_steps = self.epochs * steps_per_epoch
            warmup_steps = int(self.warmup_fraction * total_steps)
            progress = tqdm(total=total_steps, desc="probes", disable=None, leave=False)
            for epoch in range(self.epochs):
                shuffled = [
                    ids[torch.randperm(num_clips, generator=g)] for ids, g in zip(ids_RN, generators, strict=True)
                ]
                batches = torch.stack(shuffled).to(self.device).split(self.batch_size, dim=1)
                for step, ids_RB in enumerate(batches, start=epoch * steps_per_epoch):
                    for group in optimizer.param_groups:
                        group["lr"] = warmup_cosine(
                            step, group[PEAK], warmup_steps, total_steps, self.min_learning_rate
                        )
                    embedding_RBW, labels_RBC = clips.embedding[ids_RB], clips.labels[ids_RB]
                    optimizer.zero_grad()
                    loss = torch.stack([self.loss(stack(embedding_RBW), labels_RBC) for stack in stacks]).sum()
                    loss.backward()
                    optimizer.step()
                progress.update(steps_per_epoch)
            progress.close()
        return stacks

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self.augmentation is None:
            self.learning_rate = checkpoint["training"]["learning_rate"]  # which was chosen

    # ---- with augmentation ------------------------------------------------------------------------------------------

    def _augmented_step(self, batch: dict[str, Any], batch_idx: int, augmentation: Augmentation) -> None:
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        step, total_steps = self.global_step, self.total_steps()
        warmup_steps = int(self.warmup_fraction * total_steps)
        rate = warmup_cosine(step, self.learning_rate, warmup_steps, total_steps, self.min_learning_rate)
        for group in optimizer.param_groups:
            group["lr"] = rate
        random = RandomSource.seeded(self.device, torch.initial_seed(), self.global_rank, step, batch_idx)
        with torch.no_grad():
            waveform_BT = augmentation.waveforms(batch["waveform"], batch["num_samples"], random)
            features_BLF = self.frontend(waveform_BT, batch["num_samples"])
            features_BLF, labels_BC = augmentation.features(features_BLF, batch["labels"], random)
            with random.as_global():  # which stochastic depth draws from
                embedding_BW = self.embed(features_BLF)
        # A sum, so that every probe has the gradient it would have alone.
        loss = torch.stack([self.loss(probe(embedding_BW), labels_BC) for probe in self.probes]).sum()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.log_dict({"train/loss": loss.detach() / len(self.seeds), "train/learning_rate": rate})

    def configure_optimizers(self) -> torch.optim.Optimizer | None:
        if self.augmentation is None:
            return None
        groups = parameter_groups(self.probes, self.weight_decay, self.weight_decay_exempt_1d)
        return torch.optim.AdamW(groups, lr=self.learning_rate, betas=self.betas, eps=1e-8, fused=True)
