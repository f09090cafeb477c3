"""One picture of what the method does with a clip of the current batch.

Shape letters: L frames, F mel bins, P patches, D width.
"""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from callbacks.run_picture import RunPicture
from sslam.methods import SSLAM
from sslam.stages import stage_at
from sslam.transforms import RandomSource, partner_of


class PretrainingPicture(RunPicture):
    """Saves ``pictures/step_XXXXXXXX.png`` in the run folder: clip, partner, mixture, mask, target against prediction.

    Of the first two clips of the current batch.
    """

    tag = "pretraining"

    def keep(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: batch[key][:2].clone() for key in ("waveform", "num_samples")}  # a clip and its partner

    def explain(self, pl_module: SSLAM, clips: dict[str, Tensor]) -> dict[str, Any]:
        """What the method does with the first clip, on the CPU; draws nothing from the run's generators.

        Returns:
            ``clip``, ``partner``, ``mixture`` (L, F); ``mixed_frames`` (L,), True where both sound; ``kept`` (columns,
            rows), True where the student sees the patch; ``target`` and ``prediction`` (P, D) of the mixture (of the
            clip in a stage without mixtures); ``position_mean`` (P, D) of such targets over earlier
            clips, None before the first step; ``grid`` (columns, rows).
        """
        stage, _ = stage_at(pl_module.stages, pl_module.global_step)
        random = RandomSource.seeded(pl_module.device, pl_module.global_step)
        waveform_BT, num_samples_B = clips["waveform"], clips["num_samples"]
        if len(waveform_BT) < 2:
            waveform_BT, num_samples_B = waveform_BT.repeat(2, 1), num_samples_B.repeat(2)
        features_BLF, summed_BLF = pl_module.features(waveform_BT, num_samples_B, stage)
        grid = pl_module.student.grid(features_BLF.shape[1])
        masks = pl_module.draw_masks(features_BLF, 1, random)
        mixture = pl_module.mixing(features_BLF, pl_module.student.patch_size, random.cpu, summed_BLF)
        seen_BLF = mixture.features if stage.objectives.uses_mixtures else features_BLF
        if stage.objectives.retains_sources:
            kind = "sources"
            target_BPD, _ = pl_module.retain_sources(pl_module.teach(features_BLF, stage), mixture, stage)
        else:
            kind = "mixture" if stage.objectives.uses_mixtures else "clip"
            target_BPD = pl_module.teach(seen_BLF, stage).patch_BPD
        position_mean_PD = pl_module.position_means.mean_of(kind, target_BPD)
        _, prediction_BKPD = pl_module.predict_latents(seen_BLF, masks, random)
        mixed_columns = torch.zeros(grid[0], dtype=torch.bool).index_fill_(0, mixture.mixed_columns, True)
        return {
            "clip": features_BLF[0].cpu(),
            "partner": partner_of(features_BLF)[0].cpu(),
            "mixture": mixture.features[0].cpu(),
            "mixed_frames": mixed_columns.repeat_interleave(pl_module.student.patch_size),
            "kept": ~masks.masked[0, 0].view(grid).cpu(),
            "target": target_BPD[0].cpu(),
            "prediction": prediction_BKPD[0, 0].float().cpu(),
            "position_mean": None if position_mean_PD is None else position_mean_PD.cpu(),
            "grid": grid,
        }

    def draw(self, pl_module: SSLAM, explained: dict[str, Any], step: int) -> Figure:
        frontend = pl_module.frontend
        stage, _ = stage_at(pl_module.stages, step)
        return draw_pretraining(
            explained,
            title=f"Step {step}, stage: {stage.name}",
            student_sees="mixture" if stage.objectives.uses_mixtures else "clip",
            seconds_per_frame=frontend.hop_length / frontend.sample_rate,
            sample_rate=frontend.sample_rate,
        )


def principal_colors(target_PD: Tensor, prediction_PD: Tensor) -> tuple[Tensor, Tensor]:
    """The three main directions in which the target's patches differ, as red, green and blue.

    Both are projected on the target's principal components, so that equal vectors have equal colors.

    Returns:
        Colors of target and prediction, both (P, 3), in [0, 1]; 2 % of the target's values are cut at either end.
    """
    mean_D = target_PD.mean(dim=0)
    _, _, components_KD = torch.linalg.svd(target_PD - mean_D, full_matrices=False)
    projections = [(vectors_PD - mean_D) @ components_KD[:3].T for vectors_PD in (target_PD, prediction_PD)]
    low = projections[0].quantile(0.02, dim=0)
    high = projections[0].quantile(0.98, dim=0)
    colors = [((projection - low) / (high - low).clamp(min=1e-6)).clamp(0, 1) for projection in projections]
    return colors[0], colors[1]


def centred_similarity(target_PD: Tensor, prediction_PD: Tensor, position_mean_PD: Tensor | None = None) -> Tensor:
    """Cosine of target and prediction, each less a mean that hears nothing of the clip: (P,), in [-1, 1].

    Without the subtraction a prediction of the mean target of each place would look almost perfect.

    Args:
        target_PD: Targets of one clip.
        prediction_PD: Predictions of one clip.
        position_mean_PD: Mean target of each place over other clips; None for the target's mean over the patches.
    """
    mean = target_PD.mean(dim=0) if position_mean_PD is None else position_mean_PD
    return torch.cosine_similarity(target_PD - mean, prediction_PD - mean, dim=-1)


def describe_hidden(explained: dict[str, Any]) -> tuple[Tensor, Tensor, str, str]:
    """How alike target and prediction are at each patch, and titles with what the mean of each place reaches.

    Returns:
        Similarities and mean squared errors, both (P,), and a title of either, with means over the hidden patches.
    """
    target_PD, prediction_PD = explained["target"].float(), explained["prediction"].float()
    hidden_P, position_mean_PD = ~explained["kept"].flatten(), explained["position_mean"]
    similarity_P = centred_similarity(target_PD, prediction_PD, position_mean_PD)
    error_P = (prediction_PD - target_PD).square().mean(dim=-1)
    what, error = "Cosine similarity of target and prediction", f"Mean squared error {error_P[hidden_P].mean():.2f}"
    if position_mean_PD is None:
        return similarity_P, error_P, f"{what} {similarity_P[hidden_P].mean():.2f}", error
    by_position_P = centred_similarity(target_PD, position_mean_PD)
    of_student_P = centred_similarity(target_PD, prediction_PD)
    return (
        similarity_P,
        error_P,
        f"Cosine similarity less each place's mean {similarity_P[hidden_P].mean():.2f} "
        f"(with it: student {of_student_P[hidden_P].mean():.2f}, the mean {by_position_P[hidden_P].mean():.2f})",
        f"{error} (of the mean of each place {(position_mean_PD - target_PD).square().mean(-1)[hidden_P].mean():.2f})",
    )


def draw_pretraining(
    explained: dict[str, Any], title: str, student_sees: str, seconds_per_frame: float, sample_rate: int
) -> Figure:
    """Eight panels over the same axes (seconds, kHz): the inputs on the left, the latents on the right.

    Args:
        explained: Tensors that :meth:`PretrainingPicture.explain` returns.
        title: Title of the whole figure.
        student_sees: ``clip`` or ``mixture``: the input that target and prediction belong to.
        seconds_per_frame: Hop of the front end.
        sample_rate: Sample rate in Hz; the mel bins end at half of it.
    """
    clip_LF, partner_LF, mixture_LF = explained["clip"], explained["partner"], explained["mixture"]
    num_frames, num_mel_bins = clip_LF.shape
    grid, kept = explained["grid"], explained["kept"]
    target_PD, prediction_PD = explained["target"].float(), explained["prediction"].float()
    patch_frames = num_frames // grid[0]
    extents = {
        "features": (0, num_frames * seconds_per_frame, 0, num_mel_bins),
        "patches": (0, grid[0] * patch_frames * seconds_per_frame, 0, num_mel_bins),
    }
    figure = Figure(figsize=(14, 10), layout="constrained")
    figure.suptitle(title, fontsize=13)
    axes = figure.subplots(4, 2, sharex=True, sharey=True)

    def show(axis: Axes, values: Tensor, kind: str, title: str, **style: Any) -> Any:
        axis.set_title(title, loc="left", fontsize=10)
        image = values.transpose(0, 1)  # frequency upwards
        return axis.imshow(image, origin="lower", aspect="auto", interpolation="none", extent=extents[kind], **style)

    loudest = max(clip_LF.max().item(), partner_LF.max().item())
    mel_style = {"cmap": "magma", "vmin": clip_LF.min().item(), "vmax": loudest}
    show(axes[0, 0], clip_LF, "features", "Clip", **mel_style)
    show(axes[1, 0], partner_LF, "features", "Partner", **mel_style)
    mixture_title = "Mixture: element-wise maximum; between the lines the clip stays alone"
    show(axes[2, 0], mixture_LF, "features", mixture_title, **mel_style)
    _mark_unmixed(axes[2, 0], explained["mixed_frames"], seconds_per_frame, num_mel_bins)
    seen_LF = explained[student_sees]
    kept_LF = kept.repeat_interleave(patch_frames, 0).repeat_interleave(num_mel_bins // grid[1], 1)
    hidden_LF = F.pad(~kept_LF, (0, 0, 0, num_frames - len(kept_LF)), value=True)
    axes[3, 0].set_facecolor("0.85")
    share = kept.float().mean().item()
    seen_title = f"What the student sees: {share:.0%} of the patches of the {student_sees}"
    mel = show(axes[3, 0], seen_LF.masked_fill(hidden_LF, float("nan")), "features", seen_title, **mel_style)
    figure.colorbar(mel, ax=list(axes[:, 0]), label="normalised log-mel", pad=0.01, aspect=60)

    target_color, prediction_color = (color.view(*grid, 3) for color in principal_colors(target_PD, prediction_PD))
    show(axes[0, 1], target_color, "patches", "Target of the teacher: three principal components as red, green, blue")
    show(axes[1, 1], prediction_color, "patches", "Prediction of the student, in the colors of the target")
    # Only hidden patches count in the loss.
    similarity_P, error_P, similarity_title, error_title = describe_hidden(explained)
    for axis, values_P, title, style in (
        (axes[2, 1], similarity_P, similarity_title, {"cmap": "RdBu", "vmin": -1, "vmax": 1}),
        (axes[3, 1], error_P, error_title, {"cmap": "viridis", "vmin": 0, "vmax": error_P.quantile(0.98).item()}),
    ):
        axis.set_facecolor("0.85")
        shown = values_P.masked_fill(kept.flatten(), float("nan")).view(grid)
        image = show(axis, shown, "patches", title, **style)
        figure.colorbar(image, ax=axis, pad=0.01)

    _label_axes(axes, num_mel_bins, sample_rate)
    return figure


def _mark_unmixed(axis: Axes, mixed_frames: Tensor, seconds_per_frame: float, num_mel_bins: int) -> None:
    alone = np.concatenate([[0], (~mixed_frames).int().numpy(), [0]])
    starts, ends = np.flatnonzero(np.diff(alone) == 1), np.flatnonzero(np.diff(alone) == -1)
    for start, end in zip(starts * seconds_per_frame, ends * seconds_per_frame, strict=True):
        for edge in (start, end):
            axis.axvline(edge, color="white", linewidth=1.5)
        axis.annotate(
            "clip alone", ((start + end) / 2, 0.97 * num_mel_bins), color="white", fontsize=9, ha="center", va="top"
        )


def _label_axes(axes: np.ndarray, num_mel_bins: int, sample_rate: int) -> None:
    # Kaldi's mel scale from 20 Hz to half the sample rate.
    low, high = (1127 * math.log1p(hertz / 700) for hertz in (20, sample_rate / 2))
    ticks = {khz: (1127 * math.log1p(1000 * khz / 700) - low) / (high - low) for khz in (0.2, 0.5, 1, 2, 4, 8)}
    shown = {khz: share * num_mel_bins for khz, share in ticks.items() if share <= 1}
    axes[0, 0].set_yticks(list(shown.values()), [f"{khz:g}" for khz in shown])
    for axis in axes[:, 0]:
        axis.set_ylabel("kHz")
    for axis in axes[-1]:
        axis.set_xlabel("seconds")
