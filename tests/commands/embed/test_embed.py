"""``sslam embed`` over good and bad files: rows, list of bad files, which files, refusals."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from sslam.audio import decode_audio
from sslam.commands.embed import main
from sslam.embedding import AudioEmbedder
from tests.commands.embed.conftest import BAD, GOOD_SECONDS, bad_files, embed, load, noise
from tests.embedding.conftest import RATE

GOOD = sorted(GOOD_SECONDS)


# ---- what comes out -------------------------------------------------------------------------------------------------


def test_embed__one_row_per_good_file_and_a_list_of_the_bad_ones(
    recordings: Path, pre_trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "all.npz"
    assert embed(recordings, pre_trained, output) == 0
    arrays = load(output)
    assert arrays["files"].tolist() == [str(recordings / name) for name in GOOD]
    np.testing.assert_allclose(arrays["seconds"], [GOOD_SECONDS[name] for name in GOOD], atol=1e-3)
    assert arrays["embeddings"].shape == (len(GOOD), 32)
    assert np.isfinite(arrays["embeddings"]).all()
    listed = bad_files(output)
    assert {path for path, (_, action) in listed.items() if action == "skipped"} == {str(recordings / n) for n in BAD}
    for name, reason in BAD.items():
        assert listed[str(recordings / name)][0].startswith(reason)
    assert listed[str(recordings / "truncated.wav")][1] == "repaired"
    assert list(listed) == sorted(listed)
    printed = capsys.readouterr().out
    assert f"10 files embedded: {output}" in printed
    assert "6 bad files skipped, 1 repaired:" in printed
    assert not output.with_name("all.npz.parts").exists()
    about = json.loads(str(arrays["about"]))
    assert (about["level"], about["weights"], about["mean"], about["std"]) == ("clip", "student", -5.0, 3.0)
    assert len(about["checkpoint_sha256"]) == 64


def test_embed__rows_are_those_of_the_python_entry(recordings: Path, pre_trained: Path, tmp_path: Path) -> None:
    assert embed(recordings, pre_trained, tmp_path / "all.npz", "--pooling", "both", "--weights", "teacher") == 0
    arrays = load(tmp_path / "all.npz")
    embedder = AudioEmbedder.from_checkpoint(pre_trained, "teacher", "cpu", "both")
    for path, row in zip(arrays["files"], arrays["embeddings"], strict=True):
        if not path.endswith(("long.flac", "truncated.wav")):
            np.testing.assert_allclose(row, embedder(decode_audio(path).waveform).clip[0], rtol=1e-4, atol=1e-5)


def test_embed__reads_what_is_asked_for(recordings: Path, pre_trained: Path, tmp_path: Path) -> None:
    file = recordings / "long.flac"
    output = tmp_path / "rows.npz"
    assert embed(file, pre_trained, output, "--num_frames", 64, "--pooling", "row_statistics", "--layers", "2,1") == 0
    arrays = load(output)
    about = json.loads(str(arrays["about"]))
    assert (about["pooling"], about["layers"]) == ("row_statistics", [2, 1])
    embedder = AudioEmbedder.from_checkpoint(
        pre_trained, device="cpu", pooling="row_statistics", num_frames=64, layers=[2, 1]
    )
    assert arrays["embeddings"].shape == (1, 2 * 4 * 2 * 32)
    np.testing.assert_allclose(arrays["embeddings"], embedder(decode_audio(file).waveform).clip, rtol=1e-4, atol=1e-5)


def test_embed__a_long_recording_is_the_mean_of_pieces_of_equal_length(
    recordings: Path, pre_trained: Path, tmp_path: Path
) -> None:
    path = recordings / "long.flac"
    embedder = AudioEmbedder.from_checkpoint(pre_trained, device="cpu")
    halves = embedder(decode_audio(path).waveform.reshape(2, 65 * RATE))
    assert embed(path, pre_trained, tmp_path / "clip.npz") == 0
    clip = load(tmp_path / "clip.npz")
    np.testing.assert_allclose(clip["embeddings"][0], halves.clip.mean(dim=0), rtol=1e-4, atol=1e-5)
    assert embed(path, pre_trained, tmp_path / "frame.npz", "--level", "frame") == 0
    frame = load(tmp_path / "frame.npz")
    np.testing.assert_allclose(frame["embeddings"], halves.frames.flatten(0, 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(frame["time"], np.concatenate([halves.times, halves.times + 65]), atol=1e-4)
    assert embed(path, pre_trained, tmp_path / "fixed.npz", "--num_frames", 1024) == 0
    published = AudioEmbedder.from_checkpoint(pre_trained, device="cpu", num_frames=1024)(decode_audio(path).waveform)
    np.testing.assert_allclose(load(tmp_path / "fixed.npz")["embeddings"], published.clip, rtol=1e-4, atol=1e-5)


def test_embed__frames_of_all_files_one_after_the_other(recordings: Path, pre_trained: Path, tmp_path: Path) -> None:
    assert embed(recordings, pre_trained, tmp_path / "frames.npz", "--level", "frame") == 0
    arrays = load(tmp_path / "frames.npz")
    assert arrays["files"].tolist() == [str(recordings / name) for name in GOOD]
    embedder = AudioEmbedder.from_checkpoint(pre_trained, device="cpu")
    assert np.array_equal(arrays["file_index"], np.sort(arrays["file_index"]))
    for number, name in enumerate(GOOD):
        rows = arrays["file_index"] == number
        if name in ("sub/e.wav", "d.ogg"):
            expected = embedder(decode_audio(recordings / name).waveform)
            np.testing.assert_allclose(arrays["embeddings"][rows], expected.frames[0], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(arrays["time"][rows], expected.times, atol=1e-6)
        assert (np.diff(arrays["time"][rows]) > 0).all()
        assert arrays["time"][rows][-1] < GOOD_SECONDS[name] + 0.16
    # With a fixed number of frames the columns of mere padding are left out.
    assert embed(recordings / "b.wav", pre_trained, tmp_path / "b.npz", "--level", "frame", "--num_frames", 128) == 0
    assert load(tmp_path / "b.npz")["time"].shape == (3,)


@pytest.mark.parametrize("level", ["clip", "frame"])
def test_embed__parquet_holds_the_same(
    recordings: Path, pre_trained: Path, tmp_path: Path, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sslam.embedding.output.GROUP_BYTES", 4 * 32 * 7)  # several row groups
    for name in ("all.npz", "all.parquet"):
        assert embed(recordings, pre_trained, tmp_path / name, "--level", level) == 0
    arrays, table = load(tmp_path / "all.npz"), pq.read_table(tmp_path / "all.parquet")
    assert np.array_equal(np.array(table["embedding"].to_pylist(), np.float32), arrays["embeddings"])
    if level == "clip":
        assert table["file"].to_pylist() == arrays["files"].tolist()
        assert table["seconds"].to_pylist() == arrays["seconds"].tolist()
    else:
        assert table["file"].to_pylist() == arrays["files"][arrays["file_index"]].tolist()
        assert table["time"].to_pylist() == arrays["time"].tolist()
    assert json.loads(table.schema.metadata[b"sslam"]) == json.loads(str(arrays["about"]))


def test_embed__tags_are_the_most_probable_classes(recordings: Path, classifier: Path, tmp_path: Path) -> None:
    output = tmp_path / "tags.csv"
    assert embed(recordings, classifier, output, "--tags", 3) == 0
    with output.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file"] for row in rows[::3]] == [str(recordings / name) for name in GOOD]
    assert [row["rank"] for row in rows] == ["1", "2", "3"] * len(GOOD)
    embedder = AudioEmbedder.from_checkpoint(classifier, device="cpu")
    logits = embedder(decode_audio(recordings / "c.flac").waveform).logits
    assert logits is not None
    best = logits.softmax(dim=1)[0].sort(descending=True)
    own = [row for row in rows if row["file"].endswith("c.flac")]
    assert [row["label"] for row in own] == [embedder.class_names[number] for number in best.indices[:3]]
    np.testing.assert_allclose([float(row["score"]) for row in own], best.values[:3], rtol=1e-4)


def test_embed__a_class_without_a_name_has_its_number(recordings: Path, classifier: Path, tmp_path: Path) -> None:
    root = torch.load(classifier, weights_only=True)
    del root["class_names"]
    torch.save(root, tmp_path / "nameless.ckpt")
    assert embed(recordings / "b.wav", tmp_path / "nameless.ckpt", tmp_path / "tags.csv", "--tags", 4) == 0
    with (tmp_path / "tags.csv").open(newline="") as stream:
        assert {row["label"] for row in csv.DictReader(stream)} == {"0", "1", "2", "3"}


def test_embed__the_same_numbers_for_any_number_of_readers(recordings: Path, pre_trained: Path, tmp_path: Path) -> None:
    for workers in (1, 3):
        assert embed(recordings, pre_trained, tmp_path / f"{workers}.npz", "--num_workers", workers) == 0
    one, three = load(tmp_path / "1.npz"), load(tmp_path / "3.npz")
    assert all(np.array_equal(one[name], three[name]) for name in one)


# ---- which files, and refusals --------------------------------------------------------------------------------------


def test_embed__file_names_of_any_bytes(pre_trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "names"
    folder.mkdir()
    soundfile.write(folder / 'quo"te, \n.wav', noise(0.2), RATE)
    soundfile.write(folder / "good.wav", noise(0.2), RATE)
    odd = os.fsdecode(os.fsencode(folder) + b"/caf\xe9.wav")
    try:
        (folder / "good.wav").rename(odd)
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    for name in ("all.npz", "all.parquet"):
        assert embed(folder, pre_trained, tmp_path / name) == 0
    names = load(tmp_path / "all.npz")["files"].tolist()
    assert str(folder / 'quo"te, \n.wav') in names
    is_read = odd in names
    bad = tmp_path / "all.npz.bad_files.csv"
    assert bad.exists() != is_read
    assert is_read or "caf\\udce9.wav" in bad.read_text()
    shown = [name.encode(errors="backslashreplace").decode() for name in names]
    assert pq.read_table(tmp_path / "all.parquet")["file"].to_pylist() == shown


def test_embed__nothing_good_at_all(
    recordings: Path, pre_trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "all.npz"
    (recordings / "b.wav").unlink()
    args = [str(recordings / name) for name in ("nan.wav", "silent.flac")]
    assert main([*args, "--checkpoint", str(pre_trained), "--output", str(output), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert f"None of the 2 files can be used; the first is {args[0]} (it holds NaN or infinite samples)" in error
    assert set(bad_files(output)) == set(args)
    assert not output.exists()
    assert not output.with_name("all.npz.parts").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--batch_size", 0), "argument --batch_size: must be a whole number of at least 1, got '0'"),
        (("--num_workers", 0), "argument --num_workers: must be a whole number of at least 1, got '0'"),
        (("--std", 0), "argument --std: must be greater than 0, got '0'"),
        (("--std", "nan"), "argument --std: must be a finite number, got 'nan'"),
        (("--mean", "inf"), "argument --mean: must be a finite number, got 'inf'"),
        (("--tags", 2), "--output must end in .csv for tags, got"),
        (("--level", "frame", "--pooling", "mean"), "--pooling is of a clip's embedding. Leave it out"),
        (("--level", "frame", "--layers", "1,2"), "--layers is of a clip's embedding. Leave it out"),
        (("--layers", "1,two"), "argument --layers: numbers of layers such as 4,8,12 are wanted, got '1,two'"),
        (("--layers", "2,3"), "layers must be at most 2, the number of layers of the AudioViT, got [2, 3]"),
        (("--num_frames", 100), "num_frames must be a multiple of 16 and at most 12288, got 100"),
        (("--device", "tpu"), "--device tpu cannot be used"),
        (("--weights", "teacher"), "The file holds no teacher. Use weights='student'"),
    ],
)
def test_embed__wrong_options_are_explained(
    recordings: Path,
    classifier: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[object, ...],
    message: str,
) -> None:
    assert embed(recordings, classifier, tmp_path / "all.npz", *more) == 2
    error = capsys.readouterr().err
    assert error.startswith("sslam embed: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("all.npz*"))


def test_embed__wrong_outputs_and_tags_are_explained(
    recordings: Path, pre_trained: Path, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(output: str, checkpoint: Path, *more: object) -> str:
        assert embed(recordings, checkpoint, tmp_path / output, *more) == 2
        return capsys.readouterr().err

    assert "--output must end in .npz or .parquet for embeddings (without --tags)" in error("all.csv", pre_trained)
    assert "There is no folder" in error("nowhere/all.npz", pre_trained)
    assert "is of pre-training and has no classes. Give a fine-tuned" in error("t.csv", pre_trained, "--tags", 1)
    assert "--tags must be at most the model's 4 classes, got 5" in error("t.csv", classifier, "--tags", 5)
    assert "--tags are of whole files" in error("t.csv", classifier, "--tags", 1, "--level", "frame")
    (tmp_path / "old.npz").write_bytes(b"precious")
    assert "exists already. Choose another name or add --overwrite." in error("old.npz", pre_trained)
    assert (tmp_path / "old.npz").read_bytes() == b"precious"
    assert embed(recordings, pre_trained, tmp_path / "old.npz", "--overwrite") == 0
    assert len(load(tmp_path / "old.npz")["files"]) == len(GOOD)


def test_embed__takes_audiosets_statistics_for_a_published_file(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.checkpoints.published_files import pre_trained, save_published

    checkpoint = save_published(tmp_path / "published.pt", pre_trained())
    assert embed(recordings / "b.wav", checkpoint, tmp_path / "a.npz") == 0
    assert "AudioSet" not in capsys.readouterr().err  # nothing is guessed
    assert embed(recordings / "b.wav", checkpoint, tmp_path / "c.npz", "--mean", -4.268, "--std", 4.569) == 0
    assert np.array_equal(load(tmp_path / "a.npz")["embeddings"], load(tmp_path / "c.npz")["embeddings"])
    assert embed(recordings / "b.wav", checkpoint, tmp_path / "b.npz", "--mean", -5, "--std", 4) == 0
    assert not np.allclose(load(tmp_path / "a.npz")["embeddings"], load(tmp_path / "b.npz")["embeddings"], atol=1e-3)
