"""How well sounds are separated, with known sources (MSi, 1S, by number of sources) and without (MoMi).

Shape letters: B clips, N estimates, S sources, M mixtures, T samples.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from sslam.losses import best_assignment, pairwise_si_snr, permutation_invariant, remix, si_snr
from sslam.losses.mixit import ALL_ASSIGNMENTS, Assignments

# Root mean square above which a source counts. An estimate counts up to 20 dB below the clip's quietest source.
ACTIVE_RMS = 1e-8
ACTIVE_ESTIMATE = 0.01
MOST_SOURCES = 8  # clips with more are counted with them


class SourcesRow(NamedTuple):
    """Pairs of source and estimate in clips with as many active sources: mean and deviation (ddof 0) over the pairs.

    Of SI-SNR where one source sounds (1S), else of its improvement over the mixture (2Si, 3Si, ...), in dB.
    """

    num_sources: int
    num_pairs: int
    mean: float
    deviation: float


class SeparationResults(NamedTuple):
    """Separation of clips whose sources are known; nan where there is no clip to tell from.

    Attributes:
        num_clips: Clips with an active source; silent ones are left out.
        num_one_source_clips: Clips with one active source.
        msi: Improvement of SI-SNR over the mixture, in dB, mean over the sources of clips with two and more.
        one_source: SI-SNR of clips with one source, in dB, mean over the clips (1S).
        under_separation: Share of clips with fewer active estimates than active sources.
        equal_separation: Share of clips with as many active estimates as active sources.
        over_separation: Share of clips with more active estimates than active sources.
        by_num_sources: One row for each number of active sources that occurs, ascending.
    """

    num_clips: int
    num_one_source_clips: int
    msi: float
    one_source: float
    under_separation: float
    equal_separation: float
    over_separation: float
    by_num_sources: tuple[SourcesRow, ...]

    def scalars(self) -> dict[str, float]:
        """For logging: all but the numbers of clips; by number of sources `msi_2`, `msi_3` and so on."""
        values = {name: value for name, value in self._asdict().items() if not name.startswith(("num_", "by_"))}
        return values | {f"msi_{row.num_sources}": row.mean for row in self.by_num_sources if row.num_sources > 1}

    def report(self) -> str:
        """The lines that the official evaluation of FUSS ends with, of the numbers of sources that occur."""
        rows = {row.num_sources: row for row in self.by_num_sources}
        several = [row for row in self.by_num_sources if row.num_sources > 1]
        groups = [[row] for row in rows.values()] + ([several] if len(several) > 1 else [])
        lines = []
        for group in groups:
            number = sum(row.num_pairs for row in group)
            mean = sum(row.num_pairs * row.mean for row in group) / number
            square = sum(row.num_pairs * (row.deviation**2 + row.mean**2) for row in group) / number
            name = "SI-SNR" if group[0].num_sources == 1 else "SI-SNRi"
            counts = [row.num_sources for row in group]
            lines.append(f"{name} for count(s) {counts} = {mean:.1f} +/- {_root(square - mean**2):.1f} dB")
        for name in ("under", "equal", "over"):
            lines.append(f"{name.capitalize()} separation: {getattr(self, f'{name}_separation'):.2f}")
        return "\n".join(lines)


class Pairs(NamedTuple):
    """Sources (B, S) paired with estimates so that the mean SI-SNR is largest.

    Attributes:
        si_snr_BS: SI-SNR of a source's estimate.
        improvement_BS: By how much it exceeds that of the mixture.
        paired_BS: Whether both the source and its estimate are active.
        num_sources_B: Active sources.
        num_estimates_B: Active estimates.
    """

    si_snr_BS: Tensor
    improvement_BS: Tensor
    paired_BS: Tensor
    num_sources_B: Tensor
    num_estimates_B: Tensor

    def of_several(self) -> Tensor:
        """Which pairs (B, S) count for MSi: of clips with two active sources and more."""
        return self.paired_BS & (self.num_sources_B > 1).unsqueeze(1)

    def of_singles(self) -> Tensor:
        """Which pairs (B, S) count for 1S."""
        return self.paired_BS & (self.num_sources_B == 1).unsqueeze(1)


def pair(estimates_BNT: Tensor, sources_BST: Tensor, mixture_BT: Tensor) -> Pairs:
    """Pair the sources (B, S, T) of clips (B, T), silent ones included, with estimates (B, N, T), fewer or more."""
    num_missing = max(0, sources_BST.shape[1] - estimates_BNT.shape[1])
    estimates_BNT = F.pad(estimates_BNT, (0, 0, 0, num_missing))
    matched = permutation_invariant(pairwise_si_snr(sources_BST, estimates_BNT).neg())
    si_snr_BS = matched.loss_BN.neg()
    improvement_BS = si_snr_BS - si_snr(sources_BST, mixture_BT.unsqueeze(1))
    source_power_BS = sources_BST.square().mean(dim=-1)
    active_BS = source_power_BS > ACTIVE_RMS**2
    quietest_B = source_power_BS.masked_fill(~active_BS, torch.inf).amin(dim=1)
    active_BN = estimates_BNT.square().mean(dim=-1) > ACTIVE_ESTIMATE * quietest_B.unsqueeze(1)
    paired_BS = active_BS & active_BN.gather(1, matched.permutation_BN)
    return Pairs(si_snr_BS, improvement_BS, paired_BS, active_BS.sum(dim=1), active_BN.sum(dim=1))


class SeparationMetrics(Metric):
    """MSi, 1S, and whether there are as many estimates as sources (Wisdom et al. 2020 and 2021, as published).

    Sources and estimates are paired so that the mean SI-SNR is largest. A source whose estimate is not active counts
    towards under-separation, not towards MSi or 1S; read the three together.

    Args:
        **kwargs: Arguments of :class:`torchmetrics.Metric`.
    """

    full_state_update = False
    totals: Tensor
    by_count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Number of pairs, sum and sum of squares, by the number of sources less 1.
        self.add_state("by_count", torch.zeros(MOST_SOURCES, 3), dist_reduce_fx="sum")
        # Clips, one-source clips; sum and number for MSi, for 1S; clips under-, equally and over-separated.
        self.add_state("totals", torch.zeros(9), dist_reduce_fx="sum")

    def update(self, estimates_BNT: Tensor, sources_BST: Tensor, mixture_BT: Tensor) -> None:
        """Add clips.

        Args:
            estimates_BNT: Shape (B, N, T); with fewer estimates than sources, some sources go without.
            sources_BST: Shape (B, S, T); silent ones may stand for none.
            mixture_BT: Clips that were separated, shape (B, T).
        """
        pairs = pair(estimates_BNT, sources_BST, mixture_BT)
        si_snr_BS, improvement_BS, paired_BS, num_sources_B, num_estimates_B = pairs
        several_BS, single_BS = pairs.of_several(), pairs.of_singles()
        sounding_B, one_source_B = num_sources_B > 0, num_sources_B == 1
        totals = [
            sounding_B,
            one_source_B,
            improvement_BS[several_BS],
            several_BS,
            si_snr_BS[single_BS],
            single_BS,
            (num_estimates_B < num_sources_B) & sounding_B,
            (num_estimates_B == num_sources_B) & sounding_B,
            (num_estimates_B > num_sources_B) & sounding_B,
        ]
        self.totals += torch.stack([total.sum().to(self.totals) for total in totals])
        score_BS = torch.where(one_source_B.unsqueeze(1), si_snr_BS, improvement_BS).to(self.by_count)
        rows_BS = num_sources_B.clamp(1, MOST_SOURCES).sub(1).unsqueeze(1).expand_as(score_BS)
        scores_X, rows_X = score_BS[paired_BS], rows_BS[paired_BS]
        found_X3 = torch.stack([torch.ones_like(scores_X), scores_X, scores_X.square()], dim=1)
        self.by_count.index_add_(0, rows_X, found_X3)

    def compute(self) -> SeparationResults:
        """Means over all clips so far, of all processes."""
        clips, one_source_clips, improvement, pairs, si_snr_sum, singles, under, equal, over = self.totals.tolist()
        return SeparationResults(
            num_clips=int(clips),
            num_one_source_clips=int(one_source_clips),
            msi=_mean(improvement, pairs),
            one_source=_mean(si_snr_sum, singles),
            under_separation=_mean(under, clips),
            equal_separation=_mean(equal, clips),
            over_separation=_mean(over, clips),
            by_num_sources=tuple(_sources_rows(self.by_count.tolist())),
        )


class MixtureImprovement(Metric):
    """MoMi: how much nearer the best remix of the estimates is to the mixtures than their sum is, in dB of SI-SNR.

    Needs no sources. Mean over the mixtures; sets of which fewer than two mixtures sound are left out, since their sum
    already is the mixture.

    Args:
        assignments: Which mixtures an estimate may belong to.
        **kwargs: Arguments of :class:`torchmetrics.Metric`.
    """

    full_state_update = False
    total: Tensor
    number: Tensor

    def __init__(self, assignments: Assignments = ALL_ASSIGNMENTS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.assignments = assignments
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("number", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, estimates_BNT: Tensor, mixtures_BMT: Tensor) -> None:
        """Add estimates (B, N, T) of the sources in the sums of mixtures (B, M, T)."""
        assignment = best_assignment(mixtures_BMT, estimates_BNT, assignments=self.assignments)
        remixed_BMT = remix(estimates_BNT, assignment, mixtures_BMT.shape[1])
        mixture_of_mixtures_B1T = mixtures_BMT.sum(dim=1, keepdim=True)
        improvement_BM = si_snr(mixtures_BMT, remixed_BMT) - si_snr(mixtures_BMT, mixture_of_mixtures_B1T)
        active_BM = mixtures_BMT.square().mean(dim=-1) > ACTIVE_RMS**2
        counted_BM = active_BM & (active_BM.sum(dim=1, keepdim=True) > 1)
        self.total += improvement_BM[counted_BM].sum()
        self.number += counted_BM.sum()

    def compute(self) -> float:
        """The mean so far, of all processes; nan where there was nothing to tell from."""
        return _mean(self.total.item(), self.number.item())


def _sources_rows(by_count: Iterable[list[float]]) -> Iterable[SourcesRow]:
    for count, (number, total, squares) in enumerate(by_count, start=1):
        if number:
            mean = total / number
            yield SourcesRow(count, int(number), mean, _root(squares / number - mean**2))


def _root(square: float) -> float:
    return math.sqrt(max(0.0, square))  # rounding may leave a little less than nothing


def _mean(total: float, number: float) -> float:
    return total / number if number else float("nan")
