"""One picture of what a separator does with a clip.

Shape letters: N estimates, S sources, T samples.
"""

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from callbacks.run_picture import RunPicture
from sslam.losses import pairwise_si_snr, permutation_invariant, si_snr
from sslam.metrics.separation import ACTIVE_RMS
from sslam.separation.picture import separation_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class SeparationPicture(RunPicture):
    """Saves ``pictures/step_XXXXXXXX.png`` in the run folder: spectrograms of a clip, of the estimates and the sources.

    The clip is the first one of the validation set, or of training where there is no validation, so that the pictures
    of a run can be compared; it goes through ``pl_module.separator`` as a whole, at its true length. Sources are drawn
    beside their estimates where the batch has ``stems``.
    """

    tag = "separation"

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.is_global_zero and batch_idx == 0 and dataloader_idx == 0:
            self._clips = first_clip(batch)

    def keep(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._clips or first_clip(batch)

    def explain(self, pl_module: Any, clips: dict[str, Tensor]) -> dict[str, Any]:
        estimates_NT = pl_module.separator(clips["waveform"].unsqueeze(0))[0]
        return {**clips, "estimates": estimates_NT.float()}

    def draw(self, pl_module: Any, explained: dict[str, Any], step: int) -> "Figure":
        mixture_T, estimates_NT = explained["waveform"], explained["estimates"]
        title, sources_ST = f"Step {step}", explained.get("stems")
        if sources_ST is not None:
            estimates_NT, improvement_S = beside_sources(estimates_NT, sources_ST, mixture_T)
            gains = ", ".join(f"{gain:.1f}" for gain in improvement_S.tolist())
            title += f", improvement of the sources' SI-SNR: {gains or '-'} dB"
        return separation_picture(mixture_T, estimates_NT, pl_module.separator.sample_rate, title, sources_ST)


def first_clip(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A copy of a batch's first clip without its padding: ``waveform`` (T,), and ``stems`` (S, T) that sound."""
    num_samples = int(batch["num_samples"][0])
    clip = {"waveform": batch["waveform"][0, :num_samples].clone()}
    if "stems" in batch:
        stems_ST = batch["stems"][0, :, :num_samples]
        clip["stems"] = stems_ST[stems_ST.square().mean(dim=-1) > ACTIVE_RMS**2].clone()
    return clip


def beside_sources(estimates_NT: Tensor, sources_ST: Tensor, mixture_T: Tensor) -> tuple[Tensor, Tensor]:
    """Estimates in the order of the sources that they fit best, then the others; and how much nearer they are.

    Returns:
        Estimates (N, T), with silent ones where there are fewer than sources, and for each source the improvement of
        SI-SNR over the mixture, (S,), in dB.
    """
    num_sources = len(sources_ST)
    estimates_NT = F.pad(estimates_NT, (0, 0, 0, max(0, num_sources - len(estimates_NT))))
    matched = permutation_invariant(pairwise_si_snr(sources_ST[None], estimates_NT[None]).neg())
    chosen = matched.permutation_BN[0].tolist()
    others = [number for number in range(len(estimates_NT)) if number not in chosen]
    improvement_S = matched.loss_BN[0].neg() - si_snr(sources_ST, mixture_T)
    return estimates_NT[torch.tensor([*chosen, *others], device=estimates_NT.device)], improvement_S
