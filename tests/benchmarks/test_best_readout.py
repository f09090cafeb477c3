"""The best readout: its regression against scikit-learn, what is chosen from, and the table of a small folder."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge

from benchmarks import best_readout
from benchmarks.best_readout import PENALTIES, Clips, accuracy_of_singles, predict, ridge
from sslam.metrics.embedding_probe import grouped_folds
from tests.data_modules.official_layouts import write_tone_classes
from tests.embedding.conftest import pre_trained

__all__ = ["pre_trained"]


def made_up(num_clips: int = 60) -> Clips:
    """Four classes; the first readout knows nothing of them, the second something."""
    rng = np.random.default_rng(0)
    labels_NC = np.eye(4, dtype=np.float32)[rng.permutation(num_clips) % 4]
    noise = rng.standard_normal((2, num_clips, 12)).astype(np.float32)
    noise[1, :, :4] += 2 * labels_NC
    return Clips([*noise], labels_NC, np.arange(num_clips) // 2)


def test_ridge__is_that_of_scikit_learn() -> None:
    clips = made_up()
    x_NW = clips.vectors[0].astype(np.float64)
    kernel_NN, y_NC = x_NW @ x_NW.T, clips.labels_NC - 0.25
    learnt, tested = np.arange(40), np.arange(40, 60)
    largest = np.linalg.eigvalsh(kernel_NN[:40, :40]).max()
    for penalty, found_NC in zip(PENALTIES, ridge(kernel_NN, y_NC, learnt, tested), strict=True):
        model = KernelRidge(alpha=penalty * largest, kernel="precomputed").fit(kernel_NN[:40, :40], y_NC[:40])
        np.testing.assert_allclose(found_NC, model.predict(kernel_NN[40:, :40]), rtol=1e-6, atol=1e-9)


def test_predict__chooses_within_the_clips_that_are_learnt_from() -> None:
    """Labels of tested clips change nothing, and the readout that knows something is taken."""
    clips = made_up()
    learnt, tested = np.arange(40), np.arange(40, 60)
    inner = grouped_folds(clips.labels_NC[learnt], clips.groups_N[learnt], 4, 0)
    found_NC = predict(clips, learnt, tested, inner)
    other_labels_NC = clips.labels_NC.copy()
    other_labels_NC[tested] = np.roll(other_labels_NC[tested], 1, axis=1)
    np.testing.assert_array_equal(predict(clips._replace(labels_NC=other_labels_NC), learnt, tested, inner), found_NC)
    known_NC = predict(clips._replace(vectors=clips.vectors[1:]), learnt, tested, inner)
    np.testing.assert_array_equal(found_NC, known_NC)


def test_accuracy__of_clips_whose_recording_gives_them_away_is_not_high() -> None:
    """A vector that tells the recording alone predicts nothing where a recording is on one side."""
    clips = made_up()
    rng = np.random.default_rng(1)
    of_recording = rng.standard_normal((30, 40)).astype(np.float32)[clips.groups_N]
    labels_NC = np.eye(4, dtype=np.float32)[rng.integers(4, size=30)][clips.groups_N]
    samples = accuracy_of_singles(Clips([of_recording], labels_NC, clips.groups_N), divisions=2)
    assert samples.value_UB[0, 0] < 0.5
    assert samples.num_groups == 30
    copied = accuracy_of_singles(Clips([of_recording], labels_NC, np.arange(60)), divisions=2)
    assert copied.value_UB[0, 0] > 0.8


def test_best_readout__of_a_folder(pre_trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recordings = write_tone_classes(tmp_path / "tones", num_recordings=10, seconds=1.0)
    args = ["--root", str(recordings), "--checkpoint", str(pre_trained), str(pre_trained), "--clip_seconds", "1"]
    best_readout.main([*args, "--divisions", "1", "--scenes", "24", "12"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    names = ["in per cent", "log-mel statistics", "MFCC statistics", "random weights", "checkpoints"]
    assert [row[0] for row in rows] == [*names, "checkpoints against", *names[1:4]]
    values = [[float(value) for value in cell.split(", ")] for cell in rows[4][1:]]
    assert [len(value) for value in values] == [2, 2]
    assert all(0 <= value <= 100 for cell in values for value in cell)
    assert values[0][0] == values[0][1]  # one file given twice
