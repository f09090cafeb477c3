"""Heads on the kept tokens of a frozen encoder: all learning rates and seeds at once, and the choice between the rates.

Where the tokens are kept in several readouts, these are chosen between as well.

Shape letters: R replicas of a head that are computed at once, B clips of a batch, N clips, W pooled width, H hidden
units, C classes.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from sslam.checks import at_least, within
from sslam.losses import ClassificationLoss
from sslam.metrics import ClassificationMetrics
from sslam.networks.audio_vit import LAYER_NORM_EPS
from sslam.networks.heads import ClassifierHead, Normalisation, Standardise
from sslam.optim import PEAK, warmup_cosine
from sslam.selection import ONE_RECORDING, best, first_recordings, parts_of, random_order


class KeptClips(NamedTuple):
    """Pooled tokens (N, W), float32, labels (N, C) and indices (N,) of the training clips."""

    embedding_NW: Tensor
    labels_NC: Tensor
    index_N: Tensor

    def to(self, device: torch.device | str | None) -> "KeptClips":
        """The same on a device."""
        return KeptClips(*(column.to(device) for column in self))


class TrainedHeads(NamedTuple):
    """What :meth:`ProbeGrid.fit` gives.

    Attributes:
        heads: Trained head of each seed.
        choice: Position of the readout that was chosen.
        learning_rate: Learning rate that was chosen with it.
        num_clips: Number of clips that the heads have learnt from.
        scores: For each readout, accuracy or mAP on held-out training clips of each learning rate; empty where nothing
            was chosen.
    """

    heads: list[ClassifierHead]
    choice: int
    learning_rate: float
    num_clips: int
    scores: list[dict[float, float]]


@dataclass(frozen=True)
class ProbeGrid:
    """Trains heads for every learning rate and seed, and keeps those of the rate that does best on held-out clips.

    Several readouts of the clips are tried one after the other, and the best one is taken with its best rate. All heads
    on a readout learn at once, each as it would alone. Random parts depend on the seeds only: initial weights and order
    of the clips on each head's, the clips that are held out on none.

    Args:
        loss: Loss of logits and labels.
        learning_rates: Highest learning rates to choose from.
        seeds: Seeds of the heads and of the order of the clips.
        epochs: Passes over the clips.
        batch_size: Clips in a step.
        warmup_fraction: Share of the training in which the learning rate rises.
        min_learning_rate: Learning rate at which the half cosine ends.
        weight_decay: Decoupled weight decay of Adam.
        weight_decay_exempt_1d: Give biases and norm weights no decay.
        betas: Betas of Adam.
        standardise: Start from tokens that are standardised over the training clips.
        selection_folds: Parts of the clips that are held out in turn to choose the rate; then all clips are learnt.
        selection_fraction: Instead, the share of the clips, in (0, 1), that is held out and never learnt.
        hidden_width: Units H of a hidden layer; None for linear heads.
        normalisation: Normalisation of the tokens: ``layer_norm``, ``l2`` or ``standardise``, with which the argument
            of this name says nothing more.

    Raises:
        ValueError: If a value is out of its range.
    """

    loss: ClassificationLoss
    learning_rates: Sequence[float]
    seeds: Sequence[int]
    epochs: int
    batch_size: int
    warmup_fraction: float
    min_learning_rate: float
    weight_decay: float
    weight_decay_exempt_1d: bool
    betas: tuple[float, float]
    standardise: bool
    selection_folds: int
    selection_fraction: float | None
    hidden_width: int | None
    normalisation: Normalisation

    def __post_init__(self) -> None:
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise ValueError(f"learning_rates must be one or more positive numbers, got {list(self.learning_rates)}.")
        at_least(1, epochs=self.epochs, batch_size=self.batch_size, hidden_width=self.hidden_width)
        at_least(2, selection_folds=self.selection_folds)
        within(0, 1, "()", selection_fraction=self.selection_fraction)
        if self.standardise and self.normalisation == "l2":
            raise ValueError(
                "standardise needs LayerNorm, whose gain and offset it sets, and normalisation is l2. Set standardise "
                "to false, or normalisation to layer_norm or standardise."
            )

    def new_head(self, width: int, num_classes: int, seed: int | None) -> ClassifierHead:
        """A head that has not learnt."""
        return ClassifierHead(width, num_classes, seed, self.hidden_width, self.normalisation)

    def fit(
        self,
        readouts: Sequence[KeptClips],
        single_label: bool,
        group_N: Tensor | None = None,
        device: torch.device | str | None = None,
    ) -> TrainedHeads:
        """Heads trained on the readout of these clips, and with the learning rate, that do best on held-out clips.

        Args:
            readouts: The training clips as one readout or several have them, in the same order.
            single_label: Whether a clip has one class. Then accuracy chooses, otherwise mAP.
            group_N: Number of the recording (N,) that each clip is an excerpt of; all clips of one are held out
                together. None where every clip is a recording.
            device: Device to learn on, where one readout at a time is; None for that of the clips.

        Raises:
            ValueError: If there are too few clips or recordings to hold some out.
        """
        if self.selection_fraction is not None:
            return self._fit_without_held_out(readouts, single_label, group_N, device)
        scores, choice, rate = [], 0, self.learning_rates[0]
        if len(readouts) * len(self.learning_rates) > 1:
            scores = [self.cross_validate(clips.to(device), single_label, group_N) for clips in readouts]
            choice, rate = best(scores)
        clips = readouts[choice].to(device)
        num_clips = len(clips.index_N)
        (trained,) = self.train(clips, torch.arange(num_clips).expand(len(self.seeds), -1), [rate], self.seeds)
        return TrainedHeads(trained.heads(), choice, rate, num_clips, scores)

    def _fit_without_held_out(
        self,
        readouts: Sequence[KeptClips],
        single_label: bool,
        group_N: Tensor | None,
        device: torch.device | str | None,
    ) -> TrainedHeads:
        """As :meth:`fit`, with the same clips held out for good."""
        assert self.selection_fraction is not None
        num_clips, num_seeds = len(readouts[0].index_N), len(self.seeds)
        num_held_out = max(1, round(self.selection_fraction * num_clips))
        if num_held_out >= num_clips:
            raise ValueError(
                f"selection_fraction {self.selection_fraction:g} holds out all of {num_clips} training clips. Give "
                "more clips or a smaller selection_fraction."
            )
        held_out, others = first_recordings(num_held_out, random_order(num_clips), group_N)
        if not len(others):
            raise ValueError(ONE_RECORDING)
        scores: list[dict[float, float]] = []
        chosen: list[ClassifierHead] = []
        for position, kept in enumerate(readouts):
            clips = kept.to(device)
            stacks = self.train(clips, others.expand(num_seeds, -1), self.learning_rates, self.seeds)
            heads = {rate: stack.heads() for rate, stack in zip(self.learning_rates, stacks, strict=True)}
            scores.append(
                {
                    rate: sum(self._score(clips, [(head, held_out)], single_label) for head in of_rate) / num_seeds
                    for rate, of_rate in heads.items()
                }
            )
            choice, rate = best(scores)
            if choice == position:
                chosen = heads[rate]
        return TrainedHeads(chosen, choice, rate, len(others), scores)

    def cross_validate(self, clips: KeptClips, single_label: bool, group_N: Tensor | None = None) -> dict[float, float]:
        """Accuracy or mAP of each learning rate on all clips, each scored by a head that has not learnt it."""
        num_clips = len(clips.index_N)
        order_N = random_order(num_clips)
        part_N = parts_of(self.selection_folds, order_N, group_N)
        parts = int(part_N.max()) + 1
        held_out = [order_N[part_N == part] for part in range(parts)]
        fewest = num_clips - max(map(len, held_out))  # parts differ by a clip, or by a recording
        if not fewest:
            raise ValueError(ONE_RECORDING)
        others = torch.stack([order_N[part_N != part][:fewest] for part in range(parts)])
        stacks = self.train(clips, others, self.learning_rates, [0] * parts)
        return {
            rate: self._score(clips, list(zip(stack.heads(), held_out, strict=True)), single_label)
            for rate, stack in zip(self.learning_rates, stacks, strict=True)
        }

    def train(
        self, clips: KeptClips, rows_RN: Tensor, learning_rates: Sequence[float], seeds: Sequence[int]
    ) -> list["StackedHeads"]:
        """R heads for each learning rate; head r learns from the clips ``rows_RN[r]`` and has seed ``seeds[r]``."""
        num_clips, device = rows_RN.shape[1], clips.embedding_NW.device
        width, num_classes = clips.embedding_NW.shape[1], clips.labels_NC.shape[1]
        with torch.enable_grad(), one_thread():
            initial = [self.new_head(width, num_classes, seed).to(device) for seed in seeds]
            stacks = [StackedHeads(initial) for _ in learning_rates]
            if self.standardise or self.normalisation == "standardise":
                for stack in stacks:
                    for replica, rows_N in enumerate(rows_RN):
                        stack.standardise(replica, clips.embedding_NW[rows_N])
            groups = [
                group | {"lr": rate, PEAK: rate}
                for stack, rate in zip(stacks, learning_rates, strict=True)
                for group in stack.groups(self.weight_decay, self.weight_decay_exempt_1d)
            ]
            optimizer = torch.optim.AdamW(groups, betas=self.betas, eps=1e-8, fused=True)
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            steps_per_epoch = -(-num_clips // self.batch_size)
            total_steps = self.epochs * steps_per_epoch
            warmup_steps = int(self.warmup_fraction * total_steps)
            progress = tqdm(total=total_steps, desc="probes", disable=None, leave=False)
            for epoch in range(self.epochs):
                shuffled = [
                    rows_N[torch.randperm(num_clips, generator=generator)]
                    for rows_N, generator in zip(rows_RN, generators, strict=True)
                ]
                batches = torch.stack(shuffled).to(device).split(self.batch_size, dim=1)
                for step, rows_RB in enumerate(batches, start=epoch * steps_per_epoch):
                    for group in optimizer.param_groups:
                        group["lr"] = warmup_cosine(
                            step, group[PEAK], warmup_steps, total_steps, self.min_learning_rate
                        )
                    embedding_RBW, labels_RBC = clips.embedding_NW[rows_RB], clips.labels_NC[rows_RB]
                    optimizer.zero_grad()
                    loss = torch.stack([self.loss(stack(embedding_RBW), labels_RBC) for stack in stacks]).sum()
                    loss.backward()
                    optimizer.step()
                progress.update(steps_per_epoch)
            progress.close()
        return stacks

    def _score(self, clips: KeptClips, held_out: Sequence[tuple[ClassifierHead, Tensor]], single_label: bool) -> float:
        """Accuracy, or mAP, of all these clips, each part scored by its head."""
        # Every process has all clips already: nothing to gather.
        metrics = ClassificationMetrics(clips.labels_NC.shape[1], single_label, sync_on_compute=False)
        for head, rows_B in held_out:
            with torch.no_grad():
                scores_BC = self.loss.log_probabilities(head(clips.embedding_NW[rows_B]))
            metrics.update(scores_BC, clips.labels_NC[rows_B], clips.index_N[rows_B])
        return metrics.compute().scalars()["accuracy" if single_label else "map"]


class StackedHeads:
    """R heads of one shape that are computed at once, each on clips of its own.

    Args:
        heads: Heads whose weights it begins with.
    """

    def __init__(self, heads: Sequence[ClassifierHead]) -> None:
        self.initial = heads
        self.parameters, self.statistics = torch.func.stack_module_state(list(heads))
        """Matrices (R, ...) and vectors (R, ...) by their name in a head; what learns, and what does not."""

    def __call__(self, embedding_RBW: Tensor) -> Tensor:
        """Logits (R, B, C) of pooled tokens (R, B, W)."""
        # Vectors broadcast over clips.
        own = {name: stack if stack.ndim > 2 else stack.unsqueeze(1) for name, stack in self.parameters.items()}
        if "fc_norm.weight" in own:
            inputs_RBW = normalise(embedding_RBW) * own["fc_norm.weight"] + own["fc_norm.bias"]
        elif self.statistics:
            mean_RW, std_RW = self.statistics["fc_norm.mean"], self.statistics["fc_norm.std"]
            inputs_RBW = (embedding_RBW - mean_RW.unsqueeze(1)) / std_RW.unsqueeze(1)
        else:
            inputs_RBW = F.normalize(embedding_RBW, dim=-1)
        if "hidden.weight" in own:
            inputs_RBW = F.relu(torch.baddbmm(own["hidden.bias"], inputs_RBW, own["hidden.weight"].mT))
        return torch.baddbmm(own["head.bias"], inputs_RBW, own["head.weight"].mT)

    def groups(self, weight_decay: float, exempt_1d: bool) -> list[dict[str, Any]]:
        """Matrices, and gains, offsets and biases, which ``exempt_1d`` leaves without weight decay."""
        matrices = [stack for stack in self.parameters.values() if stack.ndim > 2]
        vectors = [stack for stack in self.parameters.values() if stack.ndim == 2]
        vector_decay = 0.0 if exempt_1d else weight_decay
        return [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": vectors, "weight_decay": vector_decay},
        ]

    @torch.no_grad()
    def standardise(self, replica: int, embedding_NW: Tensor) -> None:
        """Set a norm so that over these clips each of its outputs has mean 0 and deviation 1.

        Of LayerNorm these are gain and offset, which then learn; of ``Standardise`` its mean and deviation.
        """
        if self.statistics:
            mean_RW, std_RW = self.statistics["fc_norm.mean"], self.statistics["fc_norm.std"]
            mean_RW[replica], std_RW[replica] = Standardise.statistics(embedding_NW)
            return
        deviation_W, mean_W = torch.std_mean(normalise(embedding_NW), dim=0, correction=0)
        gain_RW, offset_RW = self.parameters["fc_norm.weight"], self.parameters["fc_norm.bias"]
        # A direction in which clips differ by rounding alone must not be blown up.
        gain_RW[replica] = 1 / deviation_W.clamp(min=1e-5)
        offset_RW[replica] = -mean_W * gain_RW[replica]

    def heads(self) -> list[ClassifierHead]:
        """Single heads with the weights that were learnt here."""
        heads = [copy.deepcopy(head) for head in self.initial]
        for replica, head in enumerate(heads):
            stacks = self.parameters | self.statistics
            head.load_state_dict({name: stack[replica] for name, stack in stacks.items()})
        return heads


def normalise(embedding: Tensor) -> Tensor:
    """LayerNorm without gain and offset over the last dimension."""
    return F.layer_norm(embedding, embedding.shape[-1:], eps=LAYER_NORM_EPS)


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
