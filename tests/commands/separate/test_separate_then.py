"""`sslam separate --then`: every source with its tags or its embedding."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslam.audio import decode_audio
from sslam.embedding import AudioEmbedder
from tests.commands.separate.conftest import separate
from tests.embedding.conftest import RATE, classifier, pre_trained
from tests.separation.conftest import noise

__all__ = ["classifier", "pre_trained"]


@pytest.fixture
def two_files(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    (folder / "sub").mkdir(parents=True)
    soundfile.write(folder / "a.wav", noise(1.0, RATE, 1, 0).T, RATE)
    soundfile.write(folder / "sub" / "b.flac", noise(1.5, 44_100, 2, 1).T, 44_100)
    return folder


SOURCES = ["a_source1.wav", "a_source2.wav", "sub/b_source1.wav", "sub/b_source2.wav"]


def test_separate__then_tag(two_files: Path, checkpoint: Path, classifier: Path, tmp_path: Path) -> None:
    output = tmp_path / "separated"
    for more in ([], ["--tags", 2]):  # the second time all is separated already
        assert separate(two_files, checkpoint, output, "--then", "tag", "--tagger", classifier, *more) == 0
        with (output / "tags.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        number = 2 if more else 3
        assert [row["file"] for row in rows[::number]] == [str(output / name) for name in SOURCES]
        assert [row["rank"] for row in rows] == [str(rank + 1) for rank in range(number)] * 4
    embedder = AudioEmbedder.from_checkpoint(classifier, device="cpu")
    logits = embedder(decode_audio(output / SOURCES[2]).waveform).logits
    assert logits is not None
    probabilities = embedder.probabilities(logits)[0]
    assert rows[4]["label"] == embedder.class_names[int(probabilities.argmax())]
    assert float(rows[4]["score"]) == pytest.approx(float(probabilities.max()), rel=1e-4)


def test_separate__then_embed(two_files: Path, checkpoint: Path, pre_trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "separated"
    more = ("--then", "embed", "--encoder", pre_trained, "--pictures")
    assert separate(two_files, checkpoint, output, *more) == 0
    embedder = AudioEmbedder.from_checkpoint(pre_trained, device="cpu")
    with np.load(output / "embeddings.npz") as arrays:
        assert arrays["files"].tolist() == [str(output / name) for name in SOURCES]
        for name, vector in zip(SOURCES, arrays["embeddings"], strict=True):
            np.testing.assert_allclose(vector, embedder(decode_audio(output / name).waveform).clip[0], atol=1e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--then", "tag"], "--then tag needs a checkpoint. Give --tagger."),
        (["--then", "embed", "--tagger", "x"], "--then embed needs a checkpoint. Give --encoder."),
        (["--tagger", "x"], "--tagger is of --then tag."),
        (["--then", "embed", "--encoder", "x", "--tags", "2"], "--tags is of --then tag."),
    ],
)
def test_separate__options_that_do_not_go_together(
    two_files: Path, checkpoint: Path, tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert separate(two_files, checkpoint, tmp_path / "separated", *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "separated").exists()


def test_separate__then_a_tagger_without_classes_is_refused_before_the_work(
    two_files: Path, checkpoint: Path, pre_trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert separate(two_files, checkpoint, tmp_path / "separated", "--then", "tag", "--tagger", pre_trained) == 2
    assert f"{pre_trained} has 0 classes, fewer than the 3 tags." in capsys.readouterr().err
    assert not (tmp_path / "separated").exists()
