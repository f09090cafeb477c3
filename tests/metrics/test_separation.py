"""MSi, 1S, MoMi and the number of estimates, worked out clip by clip in NumPy."""

import math
from itertools import permutations, product

import numpy as np
import pytest
import torch
from torch import Tensor

from sslam.losses import Assignments
from sslam.metrics import MixtureImprovement, SeparationMetrics, SeparationResults


def ratio(reference: np.ndarray, estimate: np.ndarray) -> float:
    """SI-SNR by its formula, in float64."""
    if not (reference.any() and estimate.any()):
        return -80.0
    cosine = (reference @ estimate) ** 2 / ((reference @ reference) * (estimate @ estimate))
    return float(10 * np.log10((cosine + 1e-8) / (1 - cosine + 1e-8)))


def scenes(*counts: int, slots: int = 4, num_samples: int = 500) -> Tensor:
    """Sources (B, slots, T), of which the first ``counts`` of each clip sound."""
    sources = torch.randn(len(counts), slots, num_samples, generator=torch.Generator().manual_seed(0)) * 0.1
    for clip, count in enumerate(counts):
        sources[clip, count:] = 0
    return sources


def estimates_of(sources: Tensor, noise: float = 0.3, seed: int = 1) -> Tensor:
    """Noisy sources in another order; silent ones stay silent."""
    random = torch.Generator().manual_seed(seed)
    estimates = sources + noise * 0.1 * torch.randn(sources.shape, generator=random)
    estimates[~sources.any(-1)] = 0
    return estimates.flip(1)


def separate(estimates: Tensor, sources: Tensor) -> SeparationResults:
    metrics = SeparationMetrics()
    for ids in torch.arange(len(sources)).split(2):
        metrics.update(estimates[ids], sources[ids], sources[ids].sum(1))
    return metrics.compute()


def test_separation_metrics__match_permutations_in_numpy() -> None:
    sources = scenes(2, 3, 1, 4, 1, 0)
    estimates = estimates_of(sources)
    improvements, singles = [], []
    for clip_sources, clip_estimates in zip(sources.double().numpy(), estimates.double().numpy(), strict=True):
        active = [source for source in clip_sources if source.any()]
        mixture = clip_sources.sum(0)
        orders = permutations(range(4), len(active))
        pairs = [[ratio(s, clip_estimates[e]) for s, e in zip(active, order, strict=True)] for order in orders]
        best = max(pairs, key=sum)
        if len(active) > 1:
            improvements += [found - ratio(s, mixture) for s, found in zip(active, best, strict=True)]
        else:
            singles += best
    results = separate(estimates, sources)
    assert (results.num_clips, results.num_one_source_clips) == (5, 2)
    assert results.msi == pytest.approx(np.mean(improvements), abs=1e-4)
    assert results.one_source == pytest.approx(np.mean(singles), abs=1e-4)
    assert len(improvements) == 9
    assert (results.under_separation, results.equal_separation, results.over_separation) == (0, 1, 0)


def test_separation_metrics__order_of_sources_and_estimates_does_not_count() -> None:
    sources = scenes(2, 4, 1)
    estimates = estimates_of(sources)
    reordered = separate(estimates[:, [2, 0, 3, 1]], sources[:, [1, 3, 0, 2]])
    assert reordered.scalars() == pytest.approx(separate(estimates, sources).scalars())


def test_separation_metrics__silent_estimates_are_under_separation_and_no_part_of_msi() -> None:
    sources = scenes(2)
    estimates = estimates_of(sources)
    both = separate(estimates, sources)
    estimates[:, 3] = 0  # of the first source
    results = separate(estimates, sources)
    second = sources[0, 1].double().numpy()
    mixture = sources[0].sum(0).double().numpy()
    expected = ratio(second, estimates[0, 2].double().numpy()) - ratio(second, mixture)
    assert results.msi == pytest.approx(expected, abs=1e-4)
    assert (both.under_separation, results.under_separation) == (0, 1)


def test_separation_metrics__estimates_count_down_to_20_db_below_the_quietest_source() -> None:
    sources = scenes(2, 2)
    estimates = estimates_of(sources)
    quietest_rms = sources[:, :2].square().mean(-1).amin(1).sqrt()
    hum = torch.sin(torch.arange(500.0))
    hum = hum / hum.square().mean().sqrt()
    estimates[0, 0] = 0.11 * quietest_rms[0] * hum
    estimates[1, 0] = 0.09 * quietest_rms[1] * hum
    results = separate(estimates, sources)
    assert (results.equal_separation, results.over_separation) == (0.5, 0.5)


def test_separation_metrics__fewer_estimates_than_sources() -> None:
    sources = scenes(3)
    estimates = estimates_of(sources, noise=0.0)[:, [2, 3]]  # of the second and the first source
    results = separate(estimates, sources)
    mixture = sources[0].sum(0).double().numpy()
    expected = [80 - ratio(sources[0, source].double().numpy(), mixture) for source in (0, 1)]
    assert results.msi == pytest.approx(np.mean(expected), abs=0.1)
    assert results.under_separation == 1


def test_separation_metrics__nothing_but_silence() -> None:
    results = separate(torch.zeros(2, 2, 100), torch.zeros(2, 3, 100))
    assert results.num_clips == 0
    assert all(math.isnan(value) for value in results.scalars().values())
    assert set(results.scalars()) == {"msi", "one_source", "under_separation", "equal_separation", "over_separation"}


def test_mixture_improvement__matches_numpy() -> None:
    mixtures = scenes(2, 2, 2, slots=2)
    estimates = torch.cat([estimates_of(mixtures, 0.5), estimates_of(mixtures, 0.5, seed=2)], dim=1) / 2
    metric = MixtureImprovement()
    metric.update(estimates[:1], mixtures[:1])
    metric.update(estimates[1:], mixtures[1:])
    expected = []
    for clip_mixtures, clip_estimates in zip(mixtures.double().numpy(), estimates.double().numpy(), strict=True):
        remixes = [
            [sum((e for e, a in zip(clip_estimates, order, strict=True) if a == m), np.zeros(500)) for m in range(2)]
            for order in product(range(2), repeat=4)
        ]
        best = min(remixes, key=lambda remix: sum(np.log(((clip_mixtures - remix) ** 2).sum(-1) + 1e-8)))
        expected += [ratio(m, r) - ratio(m, clip_mixtures.sum(0)) for m, r in zip(clip_mixtures, best, strict=True)]
    assert metric.compute() == pytest.approx(np.mean(expected), abs=0.01)


def test_mixture_improvement__keeps_to_the_assignments_that_are_allowed() -> None:
    """Estimates that are the two mixtures, which may be handed out the wrong way round alone."""
    mixtures = 0.1 * torch.randn(1, 2, 400, generator=torch.Generator().manual_seed(0))
    free, bound = MixtureImprovement(), MixtureImprovement(Assignments([[1, 0]]))
    for metric in (free, bound):
        metric.update(mixtures, mixtures)
    first, second = mixtures[0].numpy()
    total = first + second
    swapped = ratio(first, second) - ratio(first, total) + ratio(second, first) - ratio(second, total)
    assert free.compute() > 50
    assert bound.compute() == pytest.approx(swapped / 2, rel=1e-3)


def test_mixture_improvement__the_mixture_itself_improves_nothing() -> None:
    mixtures = scenes(2, 2, slots=2)
    metric = MixtureImprovement()
    # All to one mixture: it is as near as before, and the other one has silence.
    metric.update(mixtures.sum(1, keepdim=True), mixtures)
    assert metric.compute() < 0


def test_mixture_improvement__sets_with_one_sounding_mixture_do_not_count() -> None:
    mixtures = scenes(1, 0, slots=2)
    metric = MixtureImprovement()
    metric.update(estimates_of(mixtures), mixtures)
    assert math.isnan(metric.compute())


def test_mixture_improvement__unevenly_split_clips_give_the_same_mean() -> None:
    mixtures = scenes(2, 2, 1, 2, slots=2)
    estimates = estimates_of(mixtures)
    whole, parts = MixtureImprovement(), MixtureImprovement()
    whole.update(estimates, mixtures)
    for ids in ([0], [1, 2, 3]):
        parts.update(estimates[ids], mixtures[ids])
    assert parts.compute() == pytest.approx(whole.compute())


def test_by_num_sources__is_what_the_official_evaluation_prints() -> None:
    """Means and deviations over the active pairs of clips with 1, 2, 3 and 4 sources, collected one by one."""
    sources = scenes(*[1, 2, 3, 4] * 6)
    estimates = estimates_of(sources)
    estimates[2, 1] = 0  # an estimate that is not active: its source counts nowhere
    by_count: dict[int, list[float]] = {count: [] for count in (1, 2, 3, 4)}
    for clip_sources, clip_estimates in zip(sources.double().numpy(), estimates.double().numpy(), strict=True):
        orders = list(permutations(range(4)))
        best = max(
            orders, key=lambda order: sum(ratio(s, clip_estimates[e]) for s, e in zip(clip_sources, order, strict=True))
        )
        active = [(s, clip_estimates[e]) for s, e in zip(clip_sources, best, strict=True) if s.any()]
        quietest = min((source**2).mean() for source, _ in active)
        mixture = clip_sources.sum(0)
        for source, estimate in active:
            if (estimate**2).mean() > 0.01 * quietest:
                base = 0.0 if len(active) == 1 else ratio(source, mixture)
                by_count[len(active)].append(ratio(source, estimate) - base)
    results = separate(estimates, sources)
    assert [row.num_sources for row in results.by_num_sources] == [1, 2, 3, 4]
    for row in results.by_num_sources:
        values = by_count[row.num_sources]
        assert row.num_pairs == len(values)
        assert row.mean == pytest.approx(np.mean(values), abs=1e-4)
        assert row.deviation == pytest.approx(np.std(values), abs=1e-3)
    several = by_count[2] + by_count[3] + by_count[4]
    lines = results.report().splitlines()
    assert lines[0] == f"SI-SNR for count(s) [1] = {np.mean(by_count[1]):.1f} +/- {np.std(by_count[1]):.1f} dB"
    assert lines[4] == f"SI-SNRi for count(s) [2, 3, 4] = {np.mean(several):.1f} +/- {np.std(several):.1f} dB"
    assert lines[5:] == [
        f"{name} separation: {value:.2f}" for name, value in zip(("Under", "Equal", "Over"), results[4:7], strict=True)
    ]
    assert results.scalars()["msi_3"] == pytest.approx(np.mean(by_count[3]), abs=1e-4)
    assert results.msi == pytest.approx(np.mean(several), abs=1e-4)
