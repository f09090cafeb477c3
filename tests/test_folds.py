"""Clips in folds, whatever they are of: the rarest class, how many folds there can be, what is divided how."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from sslam.folds import divide, most_folds, rarest_classes


def test_rarest_classes__of_each_clip_the_class_with_the_fewest_clips() -> None:
    labels = [[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0], [0, 1, 1], [1, 0, 1]]  # 4, 3 and 3 clips
    # Of two equally rare classes the first one; a clip without a class counts for the first of all.
    assert rarest_classes(csr_array(np.array(labels, np.float32))).tolist() == [1, 0, 1, 0, 1, 2]


@pytest.mark.parametrize(
    ("classes", "groups", "expected"),
    [([0, 0, 0, 1], [0, 1, 2, 3], 3), ([0, 0, 0, 0], [0, 0, 1, 1], 2), ([], [], 0)],
)
def test_most_folds__no_more_than_groups_or_clips_of_a_class(
    classes: list[int], groups: list[int], expected: int
) -> None:
    assert most_folds(np.array(classes, np.int64), np.array(groups, np.int64)) == expected


def test_divide__groups_stay_whole_and_classes_are_spread() -> None:
    class_N = np.tile([0, 0, 0, 1], 15)
    groups_N = np.arange(60) // 2
    folds_N = divide(class_N, groups_N, 3, seed=0)
    assert sorted(set(folds_N.tolist())) == [1, 2, 3]
    assert (folds_N[::2] == folds_N[1::2]).all()
    assert [np.count_nonzero(folds_N[class_N == 1] == fold) for fold in (1, 2, 3)] == [5, 5, 5]


def test_divide__the_seed_decides() -> None:
    class_N, groups_N = np.arange(40) % 2, np.arange(40)
    first, same, other = (divide(class_N, groups_N, 4, seed).tolist() for seed in (0, 0, 1))
    assert first == same != other


def test_divide__an_empty_fold_is_refused_by_the_name_of_the_option() -> None:
    class_N = np.repeat(np.arange(6), (32, 34, 21, 23, 19, 18))
    message = r"num_folds is 6, and fold \d would be empty: the 6 recordings .*Pass --mine 5 or less"
    with pytest.raises(ValueError, match=message):
        divide(class_N, class_N, 6, 0, option="--mine")
