"""Files that need FFmpeg: read where torchcodec is there, named where it is not; opus needs nothing."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from sslam.audio import AudioFileError, decode_audio, decode_whole_file
from sslam.audio_files import audio_files_below
from sslam.audio_stream import AudioStream
from tests.commands.embed.conftest import bad_files, embed, load, noise
from tests.embedding.conftest import pre_trained

__all__ = ["pre_trained"]
REASON = "m4a files need torchcodec with FFmpeg, which are not installed here; install them, or convert it to wav"


@pytest.fixture
def without_torchcodec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)


@pytest.fixture
def with_torchcodec(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that reads a numpy file in the place of FFmpeg; what is none it refuses as FFmpeg does."""

    class AudioDecoder:
        def __init__(self, path: str) -> None:
            self.path = path

        def get_all_samples(self) -> SimpleNamespace:
            try:
                samples = np.load(self.path)
            except ValueError as error:
                raise RuntimeError("Could not open input file: Invalid data found") from error
            return SimpleNamespace(data=torch.from_numpy(samples), sample_rate=22_050)

    module = ModuleType("torchcodec.decoders")
    module.AudioDecoder = AudioDecoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)


def test_embed__opus_files_are_read(pre_trained: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.opus", noise(1.0, 48_000), 48_000, format="OGG", subtype="OPUS")
    assert list(audio_files_below(tmp_path)) == ["a.opus"]
    assert embed(tmp_path, pre_trained, tmp_path / "all.npz") == 0
    np.testing.assert_allclose(load(tmp_path / "all.npz")["seconds"], [1.0], atol=1e-2)


@pytest.mark.usefixtures("without_torchcodec")
def test_embed__says_what_is_missing_for_m4a(
    pre_trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.m4a").write_bytes(b"something")
    assert embed(tmp_path, pre_trained, tmp_path / "all.npz") == 2
    assert f"the first is {tmp_path / 'a.m4a'} ({REASON}" in capsys.readouterr().err
    soundfile.write(tmp_path / "b.wav", noise(1.0), 16_000)
    assert embed(tmp_path, pre_trained, tmp_path / "all.npz") == 0
    assert bad_files(tmp_path / "all.npz")[str(tmp_path / "a.m4a")][0].startswith(REASON)


@pytest.mark.usefixtures("with_torchcodec")
def test_decode_audio__reads_with_torchcodec_where_it_is_there(tmp_path: Path) -> None:
    samples_CT = 0.1 * np.random.default_rng(0).standard_normal((2, 22_050 * 3)).astype(np.float32)
    with (tmp_path / "a.m4a").open("wb") as stream:
        np.save(stream, samples_CT)
    soundfile.write(tmp_path / "a.wav", samples_CT.T, 22_050, subtype="FLOAT")
    for args in ({}, {"start_seconds": 1.0, "num_seconds": 0.5}):
        ours, expected = (decode_audio(tmp_path / name, **args).waveform for name in ("a.m4a", "a.wav"))  # type: ignore[arg-type]
        np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(decode_whole_file(tmp_path / "a.m4a").waveform_CT, samples_CT)
    streamed = np.concatenate(list(AudioStream(str(tmp_path / "a.m4a"), 16_000)))
    np.testing.assert_allclose(streamed[:40_000], decode_audio(tmp_path / "a.wav").waveform[:40_000], atol=2e-5)
    (tmp_path / "bad.webm").write_bytes(b"nothing of the kind")
    with pytest.raises(AudioFileError, match="unreadable .could not open input file: invalid data found"):
        decode_audio(tmp_path / "bad.webm")


@pytest.mark.parametrize(("make", "reason"), [(False, "no such file"), (True, "empty .0 bytes.")])
def test_decode_audio__missing_and_empty_ones_are_said(tmp_path: Path, make: bool, reason: str) -> None:
    if make:
        (tmp_path / "a.m4a").touch()
    with pytest.raises(AudioFileError, match=reason):
        decode_audio(tmp_path / "a.m4a")
