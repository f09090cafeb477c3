"""Linear probe: a frozen encoder, and a linear classifier on what it says of a clip.

Shape letters: N all training clips, B clips of a batch, R probes computed at once, L frames, F mel bins, W pooled
width, C classes.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics.utilities.distributed import gather_all_tensors
from tqdm.auto import tqdm

from sslam.methods.classifier import Classifier, new_head
from sslam.metrics import ClassificationMetrics
from sslam.networks.audio_vit import LAYER_NORM_EPS
from sslam.optim import PEAK, parameter_groups, warmup_cosine
from sslam.transforms import Augmentation, RandomSource


class Probe(nn.Module):
    """LayerNorm and a linear layer: pooled tokens (B, W) to logits (B, C).

    Args:
        width: W.
        num_classes: C.
        seed: Of the initial weights.
    """

    def __init__(self, width: int, num_classes: int, seed: int) -> None:
        super().__init__()
        self.fc_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.head = new_head(width, num_classes, torch.Generator().manual_seed(seed))

    def forward(self, embedding_BW: Tensor) -> Tensor:
        logits_BC: Tensor = self.head(self.fc_norm(embedding_BW))
        return logits_BC


class StackedProbes(nn.Module):
    """R probes that are computed at once, each from clips of its own: (R, B, W) to (R, B, C).

    Args:
        probes: Their initial weights.
    """

    def __init__(self, probes: Sequence[Probe]) -> None:
        super().__init__()
        self.gain_R1W, self.offset_R1W, self.weight_RCW, self.bias_R1C = (
            nn.Parameter(torch.stack([tensor.detach().clone() for tensor in tensors]).unflatten(1, shape))
            for tensors, shape in (
                ([probe.fc_norm.weight for probe in probes], (1, -1)),
                ([probe.fc_norm.bias for probe in probes], (1, -1)),
                ([probe.head.weight for probe in probes], (-1,)),
                ([probe.head.bias for probe in probes], (1, -1)),
            )
        )

    def forward(self, embedding_RBW: Tensor) -> Tensor:
        normed_RBW = normalise(embedding_RBW) * self.gain_R1W + self.offset_R1W
        return torch.baddbmm(self.bias_R1C, normed_RBW, self.weight_RCW.mT)

    @torch.no_grad()
    def standardise(self, replica: int, embedding_NW: Tensor) -> None:
        """Set a norm's gain and offset so that over these clips each of its outputs has mean 0 and deviation 1."""
        deviation_W, mean_W = torch.std_mean(normalise(embedding_NW), dim=0, correction=0)
        # A direction in which clips differ by rounding alone must not be blown up.
        self.gain_R1W[replica] = 1 / deviation_W.clamp(min=1e-5)
        self.offset_R1W[replica] = -mean_W * self.gain_R1W[replica]

    @torch.no_grad()
    def copy_to(self, probes: Iterable[nn.Module]) -> None:
        """Give single probes the weights that were learnt here."""
        for replica, probe in enumerate(probes):
            assert isinstance(probe, Probe)
            probe.fc_norm.weight.copy_(self.gain_R1W[replica, 0])
            probe.fc_norm.bias.copy_(self.offset_R1W[replica, 0])
            probe.head.weight.copy_(self.weight_RCW[replica])
            probe.head.bias.copy_(self.bias_R1C[replica, 0])


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


def normalise(embedding: Tensor) -> Tensor:
    """LayerNorm without gain and offset over the last dimension."""
    return nn.functional.layer_norm(embedding, embedding.shape[-1:], eps=LAYER_NORM_EPS)


class FrozenClips(NamedTuple):
    """Pooled tokens (N, W), labels (N, C) and indices (N,) of the training clips."""

    embedding: Tensor
    labels: Tensor
    ids: Tensor


class LinearProbe(Classifier):
    """Trains a linear head on a frozen encoder.

    Without augmentation the encoder's view of a clip never changes: training is one pass over the clips, which keeps
    their pooled tokens, and then the heads learn from those alone, all learning rates and seeds of the grid. The
    learning rate is chosen by cross-validation within the training clips, never on the clips that are evaluated. With
    augmentation (the published recipe for SPASS) the encoder sees every clip anew, and there is one learning rate.

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
        selection_folds: Parts of the training clips that are held out in turn to choose the learning rate.
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
        self.encoder.requires_grad_(False).train(drop_path > 0)
        width = self.fc_norm.normalized_shape[0]
        probes = [Probe(width, self.num_classes, seed) for seed in self.seeds]
        self.probes = nn.ModuleList(probes)
        # The first probe is the classifier that is embedded, tagged and exported with.
        self.fc_norm, self.head = probes[0].fc_norm, probes[0].head
        self.learning_rate = self.learning_rates[0]
        """The one that was chosen."""
        self._kept: list[FrozenClips] = []

    @property
    def num_heads(self) -> int:
        return len(self.seeds)

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
        width = self.fc_norm.normalized_shape[0]
        no_ids = torch.zeros(0, dtype=torch.int64)
        self._kept = [FrozenClips(torch.zeros(0, width), torch.zeros(0, self.num_classes), no_ids)]

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
        if grid > 1:
            self.learning_rate = self.choose_learning_rate(clips)
        everything = torch.arange(len(clips.embedding)).expand(len(self.seeds), -1)
        (trained,) = self.train_probes(clips, everything, [self.learning_rate], self.seeds)
        trained.copy_to(self.probes)
        chosen = f"learning rate {self.learning_rate:g}" + (f", chosen from {grid}" if grid > 1 else "")
        rank_zero_info(f"Linear probe: {len(clips.embedding)} clips, {len(self.seeds)} seeds, {chosen}.")
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
        single_label = getattr(self.trainer.datamodule, "single_label", False)  # type: ignore[attr-defined]
        order_N = torch.randperm(num_clips, generator=torch.Generator().manual_seed(0))
        held_out = [order_N[part::parts] for part in range(parts)]
        fewest = num_clips - len(held_out[0])  # parts differ by a clip
        others = torch.stack([order_N[torch.arange(num_clips) % parts != part][:fewest] for part in range(parts)])
        scores = []
        for probes in self.train_probes(clips, others, self.learning_rates, [0] * parts):
            # Every process has all clips already: nothing to gather.
            metrics = ClassificationMetrics(self.num_classes, single_label, sync_on_compute=False)
            singles = [Probe(clips.embedding.shape[1], self.num_classes, 0).to(self.device) for _ in range(parts)]
            probes.copy_to(singles)
            for probe, ids in zip(singles, held_out, strict=True):
                with torch.no_grad():
                    scores_BC = self.loss.log_probabilities(probe(clips.embedding[ids]))
                metrics.update(scores_BC, clips.labels[ids], clips.ids[ids])
            scores.append(metrics.compute().scalars()["accuracy" if single_label else "map"])
        shown = ", ".join(f"{rate:g}: {score:.4f}" for rate, score in zip(self.learning_rates, scores, strict=True))
        rank_zero_info(
            f"Linear probe: {'accuracy' if single_label else 'mAP'} on held-out training clips by learning rate: "
            f"{shown}."
        )
        return self.learning_rates[scores.index(max(scores))]

    def train_probes(
        self, clips: FrozenClips, ids_RN: Tensor, learning_rates: Sequence[float], seeds: Sequence[int]
    ) -> list[StackedProbes]:
        """R probes for each learning rate; probe r learns from the clips ``ids_RN[r]`` and has seed ``seeds[r]``."""
        replicas, num_clips = ids_RN.shape
        width = clips.embedding.shape[1]
        with torch.enable_grad(), one_thread():
            initial = [Probe(width, self.num_classes, seed).to(self.device) for seed in seeds]
            stacks = [StackedProbes(initial) for _ in learning_rates]
            if self.standardise:
                for stack in stacks:
                    for replica in range(replicas):
                        stack.standardise(replica, clips.embedding[ids_RN[replica]])
            groups = [
                {"params": parameters, "lr": rate, PEAK: rate, "weight_decay": decay}
                for stack, rate in zip(stacks, learning_rates, strict=True)
                for parameters, decay in (
                    ([stack.weight_RCW], self.weight_decay),
                    (
                        [stack.gain_R1W, stack.offset_R1W, stack.bias_R1C],
                        0.0 if self.weight_decay_exempt_1d else self.weight_decay,
                    ),
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
