"""Long files block by block: the samples of the whole file, and the same verdicts."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslam.audio import AudioFileError, decode_audio
from sslam.audio_stream import AudioStream


def sound(seconds: float, rate: int, channels: int = 1) -> np.ndarray:  # type: ignore[type-arg]
    return 0.1 * np.random.default_rng(0).standard_normal((round(seconds * rate), channels))


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2), (8_000, 1), (48_000, 3)])
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_audio_stream__has_the_samples_of_the_whole_file(tmp_path: Path, rate: int, channels: int, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, sound(9.3, rate, channels), rate)
    stream = AudioStream(str(path), 16_000)
    blocks = list(stream)
    whole = decode_audio(path).waveform
    joined = np.concatenate(blocks)
    assert len(blocks) > 1
    assert abs(len(joined) - len(whole)) <= 1
    length = min(len(joined), len(whole))
    np.testing.assert_allclose(joined[:length], whole[:length], rtol=0, atol=2e-5)
    assert stream.seconds == pytest.approx(9.3, abs=1e-3)
    assert stream.problem is None


def test_audio_stream__keeps_what_is_there_of_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sound(10, 16_000), 16_000)
    path.write_bytes(path.read_bytes()[: 44 + 2 * 16_000 * 6])
    stream = AudioStream(str(path), 16_000)
    assert sum(map(len, stream)) == 6 * 16_000
    assert stream.problem == decode_audio(path).problem
    assert stream.problem is not None


@pytest.mark.parametrize("kind", ["silent", "nan", "empty", "missing"])
def test_audio_stream__refuses_what_the_whole_file_is_refused_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.wav"
    if kind == "empty":
        path.touch()
    elif kind != "missing":
        samples = np.zeros(16_000 * 9)
        samples[-1] = np.nan if kind == "nan" else 0
        soundfile.write(path, samples, 16_000, subtype="FLOAT")
    with pytest.raises(AudioFileError) as of_stream:
        list(AudioStream(str(path), 16_000))
    with pytest.raises(AudioFileError) as of_file:
        decode_audio(path)
    assert of_stream.value.reason == of_file.value.reason
