"""MixIT: sound separation from mixtures of mixtures, with known sources, or both (Wisdom et al., NeurIPS 2020).

Shape letters: B clips, G sums of mixtures, M mixtures in a sum, N estimates, S sources, T samples.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from sslam.audio import SAMPLE_RATE
from sslam.checkpoints import load_separator
from sslam.checks import at_least, positive, within
from sslam.losses import Assignments, mixit_loss, supervised_separation_loss
from sslam.methods.method import Method
from sslam.metrics import LossMeans, MixtureImprovement, SeparationMetrics, SeparationResults
from sslam.networks import Separator
from sslam.optim import add_epsilon_before_correction
from sslam.rebuildable import Rebuildable


class MixIT(Method):
    """Mixture invariant training: clips are added up, the sum is separated, the estimates are judged by the clips.

    Adjacent clips of a batch are added up as they are. Of all ways to hand the estimates out to the clips the best one
    counts, so neither the sources nor their number need to be known. Where they are (``stems``), a share of every batch
    may be learnt from them, by permutation-invariant training: all of it, or some (sec. 3.3).

    Args:
        separator: Network that learns to separate; it takes the data's 16 kHz. None takes the network of
            ``initial_checkpoint``.
        mixtures_per_sum: Number M of clips that are added up. The batch size must be a multiple of it. Published: 2.
        max_snr: SNR in dB; an estimate this close to its mixture has little more to gain.
        learning_rate: Learning rate of Adam's first step.
        halving_steps: Optimizer steps in which the learning rate falls, step by step, to its half.
        initial_checkpoint: Weights to start from: a run's checkpoint or a file that ``sslam convert`` wrote. Not read
            again where the trainer goes on from a checkpoint (``ckpt_path``).
        user_classes: Import paths of separators of your own that ``initial_checkpoint`` may name.
        supervised_share: Share of the examples, from 0 to 1, that are clips with known sources. A sum of clips is one
            example, and the clips that would have been added up are one together; where the share of a batch is no
            whole number, it is drawn anew for each batch, so that it holds on average.
        absent_max_snr: SNR in dB below a clip's level, at which the estimate of an absent source has little more to
            gain. Published: 20.
        absent_weight: Weight of absent sources. Published: 1.
        allowed_assignments: Assignments that are tried, each the number of a clip for every estimate; None for all. For
            enhancement, where the second clip is noise: [[0, 0, 1], [0, 1, 0]] (sec. 4.2).
        denied_assignments: Assignments that are not tried.

    Raises:
        ValueError: If a value is out of its range or the separator has another sample rate.
    """

    separated: SeparationResults
    """What the last evaluation found of the clips whose sources are known."""

    def __init__(
        self,
        separator: Separator | None,
        mixtures_per_sum: int = 2,
        max_snr: float = 30.0,
        learning_rate: float = 1e-4,
        halving_steps: int = 2_000_000,
        initial_checkpoint: str | None = None,
        user_classes: Sequence[str] = (),
        supervised_share: float = 0.0,
        absent_max_snr: float = 20.0,
        absent_weight: float = 1.0,
        allowed_assignments: list[list[int]] | None = None,
        denied_assignments: Sequence[list[int]] = (),
    ) -> None:
        super().__init__()
        at_least(2, mixtures_per_sum=mixtures_per_sum)
        within(0, 1, supervised_share=supervised_share)
        at_least(0, absent_weight=absent_weight)
        positive(learning_rate=learning_rate)
        at_least(1, halving_steps=halving_steps)
        if separator is None and initial_checkpoint is None:
            raise ValueError(
                "There is no separator. Give separator, such as sslam.networks.TDCN, or initial_checkpoint to take the "
                "network of a checkpoint."
            )
        if separator is None:
            separator = load_separator(str(initial_checkpoint), user_classes).train()
        if separator.sample_rate != SAMPLE_RATE:
            raise ValueError(
                f"The separator's sample_rate must be the data's {SAMPLE_RATE} Hz, got {separator.sample_rate}. A "
                "separator of another rate can be used by `sslam separate`."
            )
        self.separator = separator
        self.mixtures_per_sum = mixtures_per_sum
        self.max_snr = max_snr
        self.supervised_share = supervised_share
        self.absent_max_snr = absent_max_snr
        self.absent_weight = absent_weight
        self.assignments = Assignments(allowed_assignments, denied_assignments)
        if allowed_assignments is not None or denied_assignments:  # wrong ones are refused here
            silence = torch.zeros(1, mixtures_per_sum, 1), torch.zeros(1, separator.num_sources, 1)
            mixit_loss(*silence, assignments=self.assignments)
        self.learning_rate = learning_rate
        self.halving_steps = halving_steps
        self.weights_to_start_from = initial_checkpoint
        self.mean_losses = LossMeans(["loss", "supervised_loss"])
        self.mixture_improvement = MixtureImprovement(self.assignments)
        self.separation = SeparationMetrics()

    @classmethod
    def arguments_for_resuming(cls, arguments: Mapping[str, Any], checkpoint: str) -> dict[str, Any]:
        # A separator that was taken from the file of the run's beginning is the same in the checkpoint.
        return {"initial_checkpoint": checkpoint if arguments.get("separator") is None else None}

    # ---- the method -------------------------------------------------------------------------------------------------

    def mixtures(self, waveform_BT: Tensor, partner_BT: Tensor | None = None) -> Tensor:
        """Clips (B, T) in the groups that are added up, (G, M, T); what is left over is left out.

        Where every clip has a partner of its own (B, T), such as noise, they are the groups.
        """
        if partner_BT is not None:
            return torch.stack([waveform_BT, partner_BT], dim=1)
        num_sums = len(waveform_BT) // self.mixtures_per_sum
        return waveform_BT[: num_sums * self.mixtures_per_sum].unflatten(0, (num_sums, self.mixtures_per_sum))

    def loss(self, mixtures_GMT: Tensor, estimates_GNT: Tensor) -> Tensor:
        """In dB, mean over the sums of mixtures."""
        return mixit_loss(mixtures_GMT, estimates_GNT, self.max_snr, self.assignments).mean()

    def supervised_loss(self, waveform_BT: Tensor, stems_BST: Tensor) -> Tensor:
        """In dB, mean over clips whose sources are known."""
        estimates_BNT = self.separator(waveform_BT)
        return supervised_separation_loss(
            stems_BST, estimates_BNT, waveform_BT, self.max_snr, self.absent_max_snr, self.absent_weight
        ).mean()

    def draw_supervised(self, num_sums: int, batch_idx: int) -> int:
        """Number of examples, of ``num_sums``, that are learnt from known sources."""
        drawn = float(torch.rand((), generator=self.random_source(batch_idx).cpu)) if self.supervised_share else 0.0
        return math.floor(self.supervised_share * num_sums + drawn)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        mixtures_GMT = self.mixtures(batch["waveform"], batch.get("partner"))
        num_supervised = self.draw_supervised(len(mixtures_GMT), batch_idx)
        mixed_GMT, terms = mixtures_GMT[num_supervised:], {}
        if len(mixed_GMT):
            terms["unsupervised"] = self.loss(mixed_GMT, self.separator(mixed_GMT.sum(dim=1)))
        if num_supervised:
            clips = slice(num_supervised * (1 if "partner" in batch else self.mixtures_per_sum))
            terms["supervised"] = self.supervised_loss(batch["waveform"][clips], known_sources(batch)[clips])
        weights = {"unsupervised": len(mixed_GMT) / len(mixtures_GMT), "supervised": num_supervised / len(mixtures_GMT)}
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        self.log_training_loss(loss)
        if self.supervised_share:
            self.log_dict({f"train/{name}_loss": term.detach() for name, term in terms.items()})
        return loss

    # ---- evaluation -------------------------------------------------------------------------------------------------

    def evaluation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Loss and MoMi of sums of mixtures; where the sources are known (``stems``), how the clips are separated.

        ``loss`` is the unsupervised one whatever the supervised share is, so that runs of all shares compare.

        Which clips are added up depends on their order, and so on the number of processes.
        """
        mixtures_GMT = self.mixtures(batch["waveform"], batch.get("partner"))
        if len(mixtures_GMT):
            estimates_GNT = self.separator(mixtures_GMT.sum(dim=1))
            if not estimates_GNT.isfinite().all():
                raise ValueError("The separator's estimates are not finite: its weights have diverged. Take others.")
            self.mean_losses.update({"loss": self.loss(mixtures_GMT, estimates_GNT)}, len(mixtures_GMT))
            self.mixture_improvement.update(estimates_GNT, mixtures_GMT)
        if "stems" in batch:
            self.separation_step(self.separator(batch["waveform"]), batch)
            if self.supervised_share:
                supervised = self.supervised_loss(batch["waveform"], batch["stems"])
                self.mean_losses.update({"supervised_loss": supervised}, len(batch["waveform"]))

    def separation_step(self, estimates_BNT: Tensor, batch: Mapping[str, Any]) -> None:
        """Adds estimates (B, N, T) of the clips of a batch, whose sources are known, to what is evaluated."""
        self.separation.update(estimates_BNT, batch["stems"], batch["waveform"])

    def finish_evaluation(self, split: str) -> None:
        """Log what could be told, over all clips of all processes; a test also prints it as FUSS's evaluation does."""
        self.separated = separated = self.separation.compute()
        found = {"momi": self.mixture_improvement.compute(), **separated.scalars()}
        known = {name: value for name, value in found.items() if not math.isnan(value)}
        self.log_results(split, self.mean_losses.compute() | known)
        if split == "test" and separated.num_clips:
            rank_zero_info(separated.report())

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Estimates (B, N, T) of clips with their padding, and their ``index``; ``sslam separate`` is for files."""
        return {"index": batch["index"], "estimates": self.separator(batch["waveform"])}

    # ---- training ---------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        super().setup(stage)
        batch_size = getattr(getattr(self.trainer, "datamodule", None), "batch_size", self.mixtures_per_sum)
        if batch_size % self.mixtures_per_sum:
            raise ValueError(
                f"The batch size must be a multiple of mixtures_per_sum {self.mixtures_per_sum}, got {batch_size}: the "
                "clips of a batch are added up. Change the data's batch_size."
            )

    def load_initial_weights(self, path: str | Path) -> None:
        """Take the separator's weights from a file.

        Raises:
            ValueError: If the file cannot be used, or has a separator of other sizes.
        """
        loaded = load_separator(path, [type(self.separator)])  # which the configuration names
        ours, theirs = self.separator.architecture(), loaded.architecture()
        differing = [
            f"{name} is {theirs.get(name)} in the file and {ours.get(name)} here"
            for name in sorted(ours | theirs)
            if ours.get(name) != theirs.get(name)
        ]
        if differing:
            raise ValueError(
                f"The separator in {path} does not fit this model: {'; '.join(differing)}. Give the separator the "
                "sizes that the file was made with."
            )
        self.separator.load_state_dict(loaded.state_dict())

    def learning_rate_at(self, step: int, peak: float) -> float:
        """Learning rate of optimizer step ``step`` (from 0), which starts at ``peak``."""
        return float(peak * 0.5 ** (step / self.halving_steps))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        add_epsilon_before_correction(optimizer, self.global_step)  # as TensorFlow does

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.separator.parameters(), lr=self.learning_rate, fused=True)

    def stated_networks(self) -> dict[str, Rebuildable]:
        return {"separator": self.separator}


def known_sources(batch: Mapping[str, Any]) -> Tensor:
    """The clips' sources (B, S, T).

    Raises:
        ValueError: If the data gives none.
    """
    if "stems" not in batch:
        raise ValueError(
            "supervised_share is more than 0, and the clips come without sources. Give --data.return_stems true, or "
            "data that has them."
        )
    stems_BST: Tensor = batch["stems"]
    return stems_BST
