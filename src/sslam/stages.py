"""Stages of a pre-training run: how long, how fast, and towards which objectives."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import get_args

from sslam.checks import at_least
from sslam.losses import Combination
from sslam.optim import warmup_cosine


@dataclass
class Objectives:
    """Weights of the losses; 0 turns an objective off (the ablations of SSLAM's tables 2 and 5).

    A local loss compares the hidden patches, a global one the CLS token (SSLAM, algorithm 1).

    Args:
        unmixed: Local loss of masked latent bootstrapping on the unmixed clips (UA).
        mixed: Local loss of masked latent bootstrapping on the mixtures (PMA).
        source_retention: Local loss of both sources' latents predicted from the mixture (SRL). Published: 2.
        unmixed_global: Global loss on the unmixed clips; None for as much as the local one, as published.
        mixed_global: Global loss on the mixtures; None for as much as the local one, as published.
        source_retention_global: Global loss of both sources. The published code computes its target and leaves it out;
            with it the paper has 2, as in the local one.
        clip_contrast: Telling clips apart by masked views (:class:`~sslam.clip_contrast.ClipContrast`), which the
            published methods do not have; alone, a step needs neither decoder nor teacher.
    """

    unmixed: float = 1.0
    mixed: float = 1.0
    source_retention: float = 2.0
    unmixed_global: float | None = None
    mixed_global: float | None = None
    source_retention_global: float = 0.0
    clip_contrast: float = 0.0

    def __post_init__(self) -> None:
        local_weights = [self.unmixed, self.mixed, self.source_retention]
        weights = [*local_weights, self.unmixed_cls, self.mixed_cls, self.source_retention_global, self.clip_contrast]
        if min(weights) < 0 or max(weights) == 0:
            raise ValueError(f"Objective weights must be >= 0 and at least one of them > 0, got {self}.")

    @property
    def unmixed_cls(self) -> float:
        """Weight of the global loss on the unmixed clips."""
        return self.unmixed if self.unmixed_global is None else self.unmixed_global

    @property
    def mixed_cls(self) -> float:
        """Weight of the global loss on the mixtures."""
        return self.mixed if self.mixed_global is None else self.mixed_global

    @property
    def uses_clips(self) -> bool:
        """Whether the student sees the unmixed clips."""
        return self.unmixed > 0 or self.unmixed_cls > 0

    @property
    def bootstraps_mixtures(self) -> bool:
        """Whether the student predicts what the teacher finds in the mixtures."""
        return self.mixed > 0 or self.mixed_cls > 0

    @property
    def retains_sources(self) -> bool:
        """Whether the student predicts what the teacher finds in both sources of the mixtures."""
        return self.source_retention > 0 or self.source_retention_global > 0

    @property
    def uses_mixtures(self) -> bool:
        """Whether the student sees mixtures."""
        return self.bootstraps_mixtures or self.retains_sources

    @property
    def compares_clips(self) -> bool:
        """Whether a batch needs two clips: partners of mixtures, or clips that are told apart."""
        return self.uses_mixtures or self.clip_contrast > 0


@dataclass
class Stage:
    """One stage of pre-training; the defaults are the published second stage.

    Args:
        steps: Optimizer steps.
        learning_rate: Peak learning rate; the schedule is a linear warm-up from 0, then a half cosine to 0.
        warmup_steps: Optimizer steps of the warm-up.
        num_clones: Number of masked views per clip (and per mixture).
        cls_target_layers: Number of last layers of the teacher that the CLS target averages; None for all, as in
            stage 1 (the global target of table 6).
        objectives: Weights of the losses.
        name: Name in the progress bar and the pictures.
        patch_target_layers: Number of last layers that the patch target averages; None for all, as published (the
            local target of table 6).
        source_combination: What the latents of two sources make where both sound: their mean as published, their
            element-wise maximum, or their sum (appendix E).
    """

    steps: int = 200_000
    learning_rate: float = 5e-5
    warmup_steps: int = 25_000
    num_clones: int = 8
    cls_target_layers: int | None = 1
    objectives: Objectives = field(default_factory=Objectives)
    name: str = "mixtures"
    patch_target_layers: int | None = None
    source_combination: Combination = "mean"

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps, num_clones=self.num_clones)
        if self.source_combination not in get_args(Combination):
            raise ValueError(
                f"source_combination must be one of {', '.join(get_args(Combination))}, got "
                f"{self.source_combination!r}."
            )
        at_least(0, learning_rate=self.learning_rate)
        if not 0 <= self.warmup_steps <= self.steps:
            raise ValueError(
                f"warmup_steps must be between 0 and the stage's steps, got warmup_steps={self.warmup_steps} "
                f"and steps={self.steps}."
            )

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of the stage's optimizer step ``step`` (from 0)."""
        return warmup_cosine(step, self.learning_rate, self.warmup_steps, self.steps)


def stage_at(stages: Sequence[Stage], step: int) -> tuple[Stage, int]:
    """The stage that optimizer step ``step`` of a run belongs to, and the step within it; the last stage at the end."""
    for stage in stages[:-1]:
        if step < stage.steps:
            return stage, step
        step -= stage.steps
    return stages[-1], step
