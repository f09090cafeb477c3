"""How well a separator that is there separates clips whose sources are known: a record with a score of each clip.

Shape letters: B clips, N estimates, T samples.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from sslam.checkpoints.provenance import separator_provenance
from sslam.checkpoints.separators import read_separator
from sslam.methods.mixit import MixIT
from sslam.metrics import SeparatedClips, SeparationByClip, SeparationResults


class SeparationScores(NamedTuple):
    """The numbers of an evaluation, and the clips that they are of."""

    results: SeparationResults
    clips: SeparatedClips


class SeparationEvaluation(MixIT):
    """The evaluation of :class:`MixIT` for ``sslam test`` and ``sslam evaluate``: MSi and 1S with all clips' scores.

    Nothing is trained.

    Args:
        initial_checkpoint: A MixIT run's checkpoint or a file that ``sslam convert`` wrote.
        weights: ``separator``, or ``random`` for new weights of its architecture.
        label: Name of the weights in tables; by default ``separator of`` and the file's name.
        user_classes: Import paths of separators of your own that ``initial_checkpoint`` may name.

    Raises:
        ValueError: If the file cannot be used, or see :class:`MixIT`.
    """

    needs_training = False
    class_names: tuple[str, ...] = ()
    """None: sources are not named."""

    def __init__(
        self,
        initial_checkpoint: str,
        weights: Literal["separator", "random"] = "separator",
        label: str | None = None,
        user_classes: Sequence[str] = (),
    ) -> None:
        read = read_separator(initial_checkpoint, user_classes)
        super().__init__(read.network.build() if weights == "random" else read.build())
        self.provenance = separator_provenance(initial_checkpoint, weights, label)
        self.by_clip = SeparationByClip()
        self.results: SeparationScores | None = None

    @property
    def name(self) -> str:
        """Name of the method in tables, written like a class."""
        return "Separation"

    @classmethod
    def arguments_for_resuming(cls, arguments: Mapping[str, Any], checkpoint: str) -> dict[str, Any]:
        return {"initial_checkpoint": checkpoint}

    def separation_step(self, estimates_BNT: Tensor, batch: Mapping[str, Any]) -> None:
        super().separation_step(estimates_BNT, batch)
        self.by_clip.update(estimates_BNT, batch["stems"], batch["waveform"], batch["index"])

    def finish_evaluation(self, split: str) -> None:
        """As of MixIT.

        Raises:
            ValueError: If no clip has known sources.
        """
        super().finish_evaluation(split)
        if not self.separated.num_clips:
            raise ValueError(
                "No clip came with its sources, so that nothing can be said of the separation. Give "
                "--data.return_stems true, or data that has them."
            )
        self.results = SeparationScores(self.separated, self.by_clip.compute())

    def training_facts(self) -> dict[str, Any]:
        """``epoch``, ``step`` and ``seed`` of this run, which trains nothing."""
        return {"epoch": 0, "step": 0, "seed": torch.initial_seed()}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        raise ValueError("SeparationEvaluation trains nothing. Use sslam test instead of sslam fit.")
