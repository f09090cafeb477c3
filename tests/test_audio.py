"""The reader against known signals, and every kind of bad file."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslam.audio import AudioFileError, decode_audio

RATE = 16_000


def tone(seconds: float, rate: int = RATE, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def cut(path: Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


@pytest.mark.parametrize(("extension", "tolerance"), [("wav", 1e-4), ("flac", 1e-4), ("mp3", 0.02), ("ogg", 0.05)])
def test_decode_audio__gives_the_written_signal(tmp_path: Path, extension: str, tolerance: float) -> None:
    path = tmp_path / f"a.{extension}"
    soundfile.write(path, tone(1.0), RATE)
    waveform = decode_audio(path).waveform
    assert waveform.dtype == np.float32
    assert waveform.shape == (RATE,)
    # The edges ring in lossy codecs.
    np.testing.assert_allclose(waveform[1000:-1000], tone(1.0)[1000:-1000], atol=tolerance)


@pytest.mark.parametrize("extension", ["wav", "flac", "mp3", "ogg"])
def test_decode_audio__a_part_read_by_seeking_is_the_part_of_the_whole(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a.{extension}"
    soundfile.write(path, tone(3.0) * np.linspace(0.1, 1, 3 * RATE), RATE)
    whole = decode_audio(path).waveform
    np.testing.assert_allclose(decode_audio(path, RATE, 1.25, 0.5).waveform, whole[20_000:28_000], atol=2e-3)
    np.testing.assert_allclose(decode_audio(path, RATE, 0, 1.0, 1.0).waveform, whole[-RATE:], atol=2e-3)
    np.testing.assert_allclose(decode_audio(path, RATE, 0, 1.0, 0.0).waveform, whole[:RATE], atol=2e-3)


def test_decode_audio__averages_the_channels(tmp_path: Path) -> None:
    channels = np.stack([tone(1.0), tone(1.0, frequency=600), np.zeros(RATE, np.float32)], axis=1)
    soundfile.write(tmp_path / "a.wav", channels, RATE, subtype="FLOAT")
    np.testing.assert_allclose(decode_audio(tmp_path / "a.wav").waveform, channels.mean(axis=1), atol=1e-6)


def test_decode_audio__opposite_channels_are_averaged_before_anything_else_and_are_silent(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([tone(1.0), -tone(1.0)], axis=1), RATE, subtype="FLOAT")
    with pytest.raises(AudioFileError, match="silent"):
        decode_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_decode_audio__resamples(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1.0, rate), rate, subtype="FLOAT")
    waveform = decode_audio(tmp_path / "a.wav").waveform
    assert len(waveform) == RATE
    np.testing.assert_allclose(waveform[500:-500], tone(1.0)[500:-500], atol=2e-3)
    assert len(decode_audio(tmp_path / "a.wav", RATE, 0.0, 0.5).waveform) == RATE // 2


@pytest.mark.parametrize("extension", ["wav", "flac", "mp3"])
def test_decode_audio__a_truncated_file_gives_what_it_holds(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a.{extension}"
    signal = tone(4.0) + np.random.default_rng(0).normal(0, 0.01, 4 * RATE).astype(np.float32)
    soundfile.write(path, signal, RATE)
    intact = decode_audio(path).waveform
    cut(path)
    waveform, problem = decode_audio(path)
    assert problem is not None
    assert problem.action == "repaired"
    assert problem.reason == "truncated: the header promises more than can be decoded"
    assert 1.5 * RATE < len(waveform) < 2.5 * RATE
    np.testing.assert_allclose(waveform[:-2000], intact[: len(waveform) - 2000], atol=1e-3)
    # A part behind the break is replaced by the beginning.
    waveform, problem = decode_audio(path, RATE, 0, 1.0, crop_position=1.0)
    assert problem is not None or extension == "wav"
    assert len(waveform) == RATE


def test_decode_audio__a_wav_header_of_unknown_length_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(1.0), RATE)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = struct.pack("<I", 0xFFFF_FFFF)  # as programs that write into a pipe leave it
    path.write_bytes(data)
    waveform, problem = decode_audio(path)
    assert problem is None
    assert len(waveform) == RATE


def write_bad_file(folder: Path, kind: str, extension: str = "wav") -> Path:
    """Write one bad file of a kind into a folder."""
    path = folder / f"{kind}.{extension}"
    if kind == "unreadable":
        path.write_bytes(b"this is not audio" * 100)
    elif kind == "empty":
        path.touch()
    elif kind == "truncated":  # nothing but the header is left
        soundfile.write(path, tone(1.0), RATE)
        cut(path, 0.0021 if extension == "wav" else 0.01)
    elif kind == "headless":
        soundfile.write(path, np.zeros(0), RATE)
    elif kind == "silent":
        soundfile.write(path, np.zeros(RATE), RATE)
    elif kind == "absurd":
        soundfile.write(path, np.where(np.arange(RATE) == 77, 1e30, tone(1.0)), RATE, subtype="FLOAT")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "nan":
        path = path.with_suffix(".wav")
        soundfile.write(path, np.where(np.arange(RATE) == 77, np.nan, tone(1.0)), RATE, subtype="FLOAT")
    elif kind == "one-sample":
        soundfile.write(path, np.ones(1), RATE)
    elif kind == "wrong-rate":
        soundfile.write(path, tone(1.0), RATE)
        data = bytearray(path.read_bytes())
        data[24:28] = struct.pack("<I", 1)
        path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("unreadable", r"unreadable \("),
        ("empty", r"empty \(0 bytes\)"),
        ("truncated", "too short: 1. samples at 16000 Hz"),
        ("headless", r"empty \(a header without samples\)"),
        ("silent", "silent: no sample reaches -120 dBFS"),
        ("nan", "it holds NaN or infinite samples"),
        ("absurd", "its samples reach 1e.30, and at most 1000 .* is taken"),
        ("pipe", "no regular file"),
        ("endless", "no regular file"),
        ("one-sample", "too short: 1 samples at 16000 Hz, and at least 25 ms are needed"),
        ("wrong-rate", "its header gives a sample rate of 1 Hz, outside 1000-768000 Hz"),
    ],
)
def test_decode_audio__a_bad_file_is_named_with_the_reason(tmp_path: Path, kind: str, reason: str) -> None:
    path = write_bad_file(tmp_path, kind)
    with pytest.raises(AudioFileError, match=reason) as caught:
        decode_audio(path)
    assert str(path) in str(caught.value)
    assert caught.value.path == str(path)


@pytest.mark.parametrize("extension", ["flac", "mp3", "ogg"])
@pytest.mark.parametrize("kind", ["unreadable", "empty", "silent", "one-sample"])
def test_decode_audio__the_other_formats_are_refused_alike(tmp_path: Path, kind: str, extension: str) -> None:
    path = write_bad_file(tmp_path, kind, extension)
    with pytest.raises(AudioFileError, match=r"unreadable|empty|silent|too short"):
        decode_audio(path)


def test_decode_audio__a_flac_file_without_any_frame_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioFileError, match=r"truncated.*too short: 0 samples"):
        decode_audio(write_bad_file(tmp_path, "truncated", "flac"))


def test_decode_audio__a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioFileError, match=r"missing.wav': no such file"):
        decode_audio(tmp_path / "missing.wav")


def test_decode_audio__a_silent_part_is_named_by_its_time(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.concatenate([tone(1.0), np.zeros(2 * RATE, np.float32)]), RATE)
    with pytest.raises(AudioFileError, match=r"silent for 1\.0 s from 1\.5 s on"):
        decode_audio(tmp_path / "a.wav", RATE, 1.5, 1.0)


def test_decode_audio__a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    try:
        soundfile.write(tmp_path / "cafe.wav", np.full(1600, 0.1), 16000)
        (tmp_path / "cafe.wav").rename(path)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert len(decode_audio(path).waveform) == 1600
