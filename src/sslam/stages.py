"""Stages of a pre-training run: how long, how fast, and towards which objectives."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sslam.checks import at_least
from sslam.optim import warmup_cosine


@dataclass
class Objectives:
    """Weights of the losses; 0 turns an objective off (the ablations of SSLAM's table 2).

    Args:
        unmixed: Masked latent bootstrapping on the unmixed clips (UA).
        mixed: Masked latent bootstrapping on the partial mixtures (PMA).
        source_retention: Mean of the two sources' latents predicted from the mixture (SRL). Published: 2.
    """

    unmixed: float = 1.0
    mixed: float = 1.0
    source_retention: float = 2.0

    def __post_init__(self) -> None:
        if min(self.unmixed, self.mixed, self.source_retention) < 0 or not self.uses_clips | self.uses_mixtures:
            raise ValueError(f"Objective weights must be >= 0 and at least one of them > 0, got {self}.")

    @property
    def uses_clips(self) -> bool:
        """Whether the student sees the unmixed clips."""
        return self.unmixed > 0

    @property
    def uses_mixtures(self) -> bool:
        """Whether the student sees mixtures."""
        return self.mixed > 0 or self.source_retention > 0


@dataclass
class Stage:
    """One stage of pre-training; the defaults are the published second stage.

    Args:
        steps: Optimizer steps.
        learning_rate: Peak learning rate; the schedule is a linear warm-up from 0, then a half cosine to 0.
        warmup_steps: Optimizer steps of the warm-up.
        num_clones: Number of masked views per clip (and per mixture).
        cls_target_layers: Number of last layers of the teacher that the CLS target averages; None for all, as in
            stage 1.
        objectives: Weights of the losses.
        name: Name in the progress bar and the pictures.
    """

    steps: int = 200_000
    learning_rate: float = 5e-5
    warmup_steps: int = 25_000
    num_clones: int = 8
    cls_target_layers: int | None = 1
    objectives: Objectives = field(default_factory=Objectives)
    name: str = "mixtures"

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps, num_clones=self.num_clones)
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
