"""`sslam embed --level frame --tags`: when what is heard."""

import csv
from pathlib import Path

import numpy as np
import pytest

from sslam.audio import decode_audio
from sslam.commands.embed import TAG_SECONDS
from sslam.embedding import AudioEmbedder, tags_over_time
from tests.commands.embed.conftest import embed


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_tag_seconds__is_that_of_the_library() -> None:
    assert TAG_SECONDS == tags_over_time.TAG_SECONDS


@pytest.mark.parametrize(("name", "num_windows"), [("b.wav", 1), ("d.ogg", 3), ("long.flac", 129)])
def test_embed__tags_of_windows(
    recordings: Path, classifier: Path, tmp_path: Path, name: str, num_windows: int
) -> None:
    """Short files are one window; a window's tags are those of its samples alone, also in a file that is streamed."""
    output = tmp_path / "tags.csv"
    assert embed(recordings / name, classifier, output, "--level", "frame", "--tags", 2) == 0
    rows = rows_of(output)
    assert list(rows[0]) == ["file", "start", "end", "rank", "label", "score"]
    assert [row["rank"] for row in rows] == ["1", "2"] * num_windows
    waveform = decode_audio(recordings / name).waveform
    assert float(rows[-1]["end"]) == pytest.approx(len(waveform) / 16_000, abs=1e-3)
    embedder = AudioEmbedder.from_checkpoint(classifier, device="cpu")
    for row in (rows[0], rows[-2]):
        start, end = float(row["start"]), float(row["end"])
        embeddings = embedder(waveform[round(start * 16_000) : round(end * 16_000)])
        assert embeddings.logits is not None
        probabilities = embedder.probabilities(embeddings.logits)[0]
        assert row["label"] == embedder.class_names[int(probabilities.argmax())]
        assert float(row["score"]) == pytest.approx(float(probabilities.max()), rel=1e-3)


def test_embed__windows_of_tags_have_the_length_that_is_asked_for(
    recordings: Path, classifier: Path, tmp_path: Path
) -> None:
    output = tmp_path / "tags.csv"
    more = ("--level", "frame", "--tags", 1, "--window_seconds", 1)
    assert embed(recordings / "d.ogg", classifier, output, *more) == 0
    starts = [float(row["start"]) for row in rows_of(output)]
    np.testing.assert_allclose(starts, [0, 0.5, 1, 1.5, 2, 2.3], atol=1e-3)


def test_tags_over_time__finds_when_a_sound_is_heard(classifier: Path) -> None:
    """Probabilities of windows that hear the same are the same, and others are others."""
    embedder = AudioEmbedder.from_checkpoint(classifier, device="cpu")
    waveform = np.zeros(10 * 16_000, np.float32)
    waveform[4 * 16_000 : 6 * 16_000] = 0.3 * np.random.default_rng(0).standard_normal(2 * 16_000)
    tags = tags_over_time.tags_over_time(embedder, [waveform], 2.0)
    assert tags.start.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    change = np.abs(tags.probabilities - tags.probabilities[0]).max(axis=1)
    assert (change > 1e-3).tolist() == [False] * 3 + [True] * 3 + [False] * 3


def test_tags_over_time__needs_a_classifier_and_some_length(pre_trained: Path, classifier: Path) -> None:
    waveform = np.zeros(16_000, np.float32)
    with pytest.raises(ValueError, match="Tags need a classifier"):
        tags_over_time.tags_over_time(AudioEmbedder.from_checkpoint(pre_trained, device="cpu"), [waveform])
    with pytest.raises(ValueError, match="window_seconds must be at least 0.1 and finite, got 0.01"):
        tags_over_time.tags_over_time(AudioEmbedder.from_checkpoint(classifier, device="cpu"), [waveform], 0.01)
