"""Folds that are made: copies found by their samples, groups joined, classes spread."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_modules.folds import hash_audio, joint_groups, stratified_folds
from data_modules.listing import label_matrix
from tests.data_modules.official_layouts import RATE
from tests.mp3 import write_mp3


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * RATE))


def test_hash_audio__copies_are_equal_whatever_they_are_called_and_however_encoded(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(0.5), RATE, subtype="PCM_16")
    quantised, _ = soundfile.read(tmp_path / "a.wav")
    soundfile.write(tmp_path / "a.flac", quantised, RATE, subtype="PCM_16")
    soundfile.write(tmp_path / "float.wav", quantised, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "two_channels.wav", np.stack([quantised, quantised], axis=1), RATE)
    (tmp_path / "b.wav").write_bytes((tmp_path / "a.wav").read_bytes())
    other = quantised.copy()
    other[-1] += 2**-15
    soundfile.write(tmp_path / "one_bit.wav", other, RATE, subtype="PCM_16")
    soundfile.write(tmp_path / "longer.wav", np.append(quantised, 0), RATE, subtype="PCM_16")
    write_mp3(tmp_path / "a.mp3", quantised, RATE)
    equal = ["a.wav", "b.wav", "a.flac", "float.wav", "two_channels.wav"]
    others = ["one_bit.wav", "longer.wav", "a.mp3"]
    digests, problems = hash_audio([str(tmp_path / name) for name in (*equal, *others)])
    assert problems == []
    assert len(set(digests[: len(equal)])) == 1
    assert len(set(digests)) == 1 + len(others)


def test_hash_audio__ten_seconds_are_compared(tmp_path: Path) -> None:
    sound = noise(12)
    soundfile.write(tmp_path / "a.wav", sound, RATE)
    changed = sound.copy()
    changed[10 * RATE :] = 0.1
    soundfile.write(tmp_path / "other_end.wav", changed, RATE)
    changed[10 * RATE - 1] = 0.1
    soundfile.write(tmp_path / "other.wav", changed, RATE)
    digests, _ = hash_audio([str(tmp_path / name) for name in ("a.wav", "other_end.wav", "other.wav")])
    assert digests[0] == digests[1] != digests[2]
    longer, _ = hash_audio([str(tmp_path / "a.wav")], num_seconds=12.0)
    assert longer == digests[:1]


def test_hash_audio__bad_files_are_named_and_have_no_hash(tmp_path: Path, write_bad_files) -> None:  # type: ignore[no-untyped-def]
    actions = write_bad_files(tmp_path)
    digests, problems = hash_audio([str(tmp_path / name) for name in actions])
    assert {Path(problem.path).name: problem.action for problem in problems} == actions
    assert [digest is None for digest in digests] == [action == "skipped" for action in actions.values()]


def test_hash_audio__a_file_that_is_silent_for_ten_seconds_can_have_longer_clips(tmp_path: Path) -> None:
    path = tmp_path / "late.wav"
    soundfile.write(path, np.append(np.zeros(10 * RATE), noise(1)), RATE)
    assert hash_audio([str(path)]).digests == [None]
    assert hash_audio([str(path)], num_seconds=11.0).digests != [None]


def test_joint_groups__clips_that_are_linked_by_others_are_one_group() -> None:
    group = ["x", "x", None, None, "y", None, "x2"]
    audio = [None, b"1", b"1", None, b"2", b"2", b"3"]
    assert joint_groups(group, audio).tolist() == [0, 0, 0, 1, 2, 2, 3]
    assert joint_groups([None, None]).tolist() == [0, 1]
    assert joint_groups(["x", None], [None, "x"]).tolist() == [0, 1]  # the lists' names do not mix


def test_stratified_folds__shares_of_every_class_are_equal_and_groups_whole() -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(6), (10, 15, 50, 100, 33, 7))
    groups = np.unique(classes * 1000 + rng.integers(0, 60, len(classes)), return_inverse=True)[1]
    folds = stratified_folds(label_matrix([[column] for column in classes], 6), groups, 5)
    assert set(folds.tolist()) == {1, 2, 3, 4, 5}
    assert all(len(set(folds[groups == group].tolist())) == 1 for group in groups)
    for column in range(6):
        shares = np.bincount(folds[classes == column], minlength=6)[1:]
        most = np.bincount(groups[classes == column]).max()  # of a group, by which shares may have to differ
        assert shares.max() - shares.min() <= max(1, most)
    alone = stratified_folds(label_matrix([[column] for column in classes], 6), np.arange(len(classes)), 5)
    for column in range(6):
        shares = np.bincount(alone[classes == column], minlength=6)[1:]
        assert shares.max() - shares.min() <= 1
    sizes = np.bincount(alone)[1:]
    assert sizes.max() - sizes.min() <= 2


def test_stratified_folds__of_clips_with_several_classes_the_rarest_is_spread() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random((600, 20)) < 0.5 / np.arange(1, 21)
    labels[~labels.any(axis=1), 0] = True
    matrix = label_matrix([np.flatnonzero(row).tolist() for row in labels], 20)
    expected = labels.sum(axis=0) / 5

    def deviation(folds: np.ndarray) -> float:
        return float(np.mean([np.abs(labels[folds == fold].sum(axis=0) - expected) for fold in range(1, 6)]))

    folds = stratified_folds(matrix, np.arange(600), 5)
    drawn = [deviation(1 + rng.permutation(600) % 5) for _ in range(20)]
    assert deviation(folds) < 0.8 * min(drawn)
    rarest = int(expected.argmin())
    shares = [labels[folds == fold, rarest].sum() for fold in range(1, 6)]
    assert max(shares) - min(shares) <= 1


def test_stratified_folds__the_seed_decides() -> None:
    labels = label_matrix([[column % 4] for column in range(80)], 4)
    folds = [stratified_folds(labels, np.arange(80), 4, seed).tolist() for seed in (0, 0, 1)]
    assert folds[0] == folds[1] != folds[2]


@pytest.mark.parametrize(
    ("classes", "groups", "num_folds", "message"),
    [
        ([0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 4, 5], 4, "num_folds is 4, and the 6 usable recordings make at most 3 folds"),
        ([0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1], 3, "they are 2 recordings or groups that .* Pass --data.num_folds 2"),
        ([0, 1], [0, 1], 2, "make at most 1 folds: .* and no class has more than 1. Add recordings."),
    ],
)
def test_stratified_folds__too_few_clips_are_an_error_with_a_remedy(
    classes: list[int], groups: list[int], num_folds: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        stratified_folds(label_matrix([[column] for column in classes], 2), np.array(groups), num_folds)


def test_stratified_folds__a_fold_that_would_be_empty_is_an_error() -> None:
    sizes = (32, 34, 21, 23, 19, 18)
    groups = np.repeat(np.arange(6), sizes)
    labels = label_matrix([[group] for group in groups.tolist()], 6)
    with pytest.raises(ValueError, match=r"num_folds is 6, and fold \d would be empty: .* --data.num_folds 5 or less"):
        stratified_folds(labels, groups, 6)
