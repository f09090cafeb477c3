"""Inverse block masks: exact counts, and the statistics of the published code over 2000 draws."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import label

from sslam.transforms import InverseBlockMasking

REFERENCE = Path(__file__).parents[1] / "reference"
PUBLISHED = json.loads((REFERENCE / "sslam_misc.json").read_text())["mask"]
DRAWS = 8000


@pytest.fixture(scope="module")
def kept() -> np.ndarray:
    masks = InverseBlockMasking()(DRAWS, (64, 8), torch.Generator().manual_seed(1))
    return (~masks.masked).view(DRAWS, 64, 8).numpy()


def test_masking__every_mask_keeps_the_same_number(kept: np.ndarray) -> None:
    assert set(kept.sum(axis=(1, 2))) == {102}


def test_masking__kept_ids_are_ascending_and_agree_with_the_mask() -> None:
    masks = InverseBlockMasking()(50, (64, 8), torch.Generator().manual_seed(2))
    assert (masks.kept_ids.diff(dim=1) > 0).all()
    assert not masks.masked.gather(1, masks.kept_ids).any()
    assert (masks.masked.sum(1) == 410).all()


def test_masking__probability_to_be_kept_by_place(kept: np.ndarray) -> None:
    probability = kept.mean(axis=0)
    published = np.load(REFERENCE / "sslam_misc.npz")["mask_keep_prob_map_64x8"]
    # Five standard errors of the difference between our mean and one over 2000 published draws.
    error = 5 * np.sqrt(0.2 * 0.8 * (1 / DRAWS + 1 / 2000))
    assert np.abs(probability - published).max() < error
    np.testing.assert_allclose(probability.mean(axis=0), PUBLISHED["keep_prob_per_freq"], atol=0.006)
    assert probability.std() == pytest.approx(PUBLISHED["keep_prob_map_std"], abs=0.003)


def test_masking__connected_components(kept: np.ndarray) -> None:
    components = [label(mask)[1] for mask in kept[:4000]]
    assert np.mean(components) == pytest.approx(PUBLISHED["components_4conn"]["mean"], abs=0.6)
    assert np.std(components) == pytest.approx(PUBLISHED["components_4conn"]["std"], abs=0.4)
    rows = kept.any(axis=2).sum(axis=1)
    assert rows.mean() == pytest.approx(PUBLISHED["occupied_time_rows"]["mean"], abs=0.4)


def test_masking__masks_differ_and_follow_the_generator() -> None:
    masking = InverseBlockMasking()
    first = masking(20, (32, 8), torch.Generator().manual_seed(3)).masked
    again = masking(20, (32, 8), torch.Generator().manual_seed(3)).masked
    assert torch.equal(first, again)
    assert len({tuple(mask.tolist()) for mask in first}) == 20


@pytest.mark.parametrize("block_size", [1, 2, 3, 4, 5])
def test_masking__blocks_grow_around_their_centre(block_size: int) -> None:
    masking = InverseBlockMasking(mask_ratio=1 - block_size**2 / 400 - 1e-9, block_size=block_size, adjust=1e-6)
    kept = ~masking(200, (20, 20), torch.Generator().manual_seed(4)).masked.view(200, 20, 20)
    # One block and as many kept patches as it has: where it does not touch the border, the mask is that block.
    squares = 0
    for mask in kept:
        columns, rows = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        if len(columns) == len(rows) == block_size == columns[-1] - columns[0] + 1 == rows[-1] - rows[0] + 1:
            squares += 1
    assert squares > 100


def test_masking__bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="mask_ratio must be between 0 and 1, both excluded, got 1.0"):
        InverseBlockMasking(mask_ratio=1.0)
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        InverseBlockMasking(block_size=0)
    with pytest.raises(ValueError, match="keeps 0 of 4 patches"):
        InverseBlockMasking()(1, (2, 2), torch.Generator())
