"""What intervals of MSi and 1S are computed from: the sums of each clip."""

import pytest
import torch

from sslam.metrics import SeparationByClip, SeparationMetrics
from tests.metrics.test_separation import estimates_of, scenes


def test_separation_by_clip__sums_make_the_numbers_of_all_clips() -> None:
    sources = scenes(2, 1, 4, 3, 0, 1)
    estimates = estimates_of(sources)
    estimates[3, 1] = 0  # a source without an estimate counts in neither
    by_clip = SeparationByClip()
    order = torch.tensor([3, 0, 5, 2, 4, 1])
    for rows in order.split(4):  # in any order
        by_clip.update(estimates[rows], sources[rows], sources[rows].sum(1), rows)
    clips = by_clip.compute()
    assert clips.index_N.tolist() == list(range(6))
    assert clips.num_sources_N.tolist() == [2, 1, 4, 3, 0, 1]
    assert clips.num_pairs_N.tolist() == [2, 0, 4, 2, 0, 0]
    assert clips.num_singles_N.tolist() == [0, 1, 0, 0, 0, 1]
    together = SeparationMetrics()
    together.update(estimates, sources, sources.sum(1))
    found = together.compute()
    assert clips.improvement_N.sum() / clips.num_pairs_N.sum() == pytest.approx(found.msi, rel=1e-5)
    assert clips.si_snr_N.sum() / clips.num_singles_N.sum() == pytest.approx(found.one_source, rel=1e-5)
    for clip in range(6):
        alone = SeparationMetrics()
        alone.update(estimates[clip : clip + 1], sources[clip : clip + 1], sources[clip : clip + 1].sum(1))
        results = alone.compute()
        if clips.num_pairs_N[clip]:
            assert clips.improvement_N[clip] / clips.num_pairs_N[clip] == pytest.approx(results.msi, rel=1e-5)
        if clips.num_singles_N[clip]:
            assert clips.si_snr_N[clip] == pytest.approx(results.one_source, rel=1e-5)
