"""dr_flac against libsndfile: the same samples, and whatever is damaged is left to libsndfile."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslam import flac
from sslam.audio import decode_audio

pytest.importorskip("miniaudio")


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_decode_flac__samples_are_those_of_libsndfile(tmp_path: Path, subtype: str, channels: int) -> None:
    path = tmp_path / "a.flac"
    noise = np.random.default_rng(0).uniform(-1, 1, (5000, channels))
    noise[0] = 1
    noise[1] = -1
    soundfile.write(path, noise, 44_100, subtype=subtype)
    contents = path.read_bytes()
    info = flac.stream_info(contents)
    assert info == (44_100, channels, 5000)
    frames = flac.decode_flac(contents, info)
    assert frames is not None
    assert frames.dtype == np.float32
    assert np.array_equal(frames, soundfile.read(path, dtype="float32")[0])


def test_decode_audio__is_the_same_without_dr_flac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{rate}.flac" for rate in (16_000, 44_100)]
    for path in paths:
        rate = int(path.stem)
        soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (2 * rate, 2)), rate)
    parts = [{}, {"num_seconds": 1.5, "crop_position": 0.7}, {"num_seconds": 0.1, "crop_position": 1.0},
             {"start_seconds": 0.3, "num_seconds": 1.6}, {"start_seconds": 1.9}, {"start_seconds": 5.0}]  # fmt: skip
    calls = []
    original = flac.decode_flac
    monkeypatch.setattr("sslam.audio.decode_flac", lambda *args: calls.append(1) or original(*args))

    def decode(path: Path, part: dict[str, float]) -> list[float] | str:
        try:
            return decode_audio(path, **part).waveform.tolist()
        except ValueError as error:
            return str(error)

    fast = [decode(path, part) for path in paths for part in parts]
    assert len(calls) == 2 * 3  # of the others less than half is wanted, which is sought
    monkeypatch.setattr(flac, "miniaudio", None)
    assert fast == [decode(path, part) for path in paths for part in parts]


def test_decode_flac__damaged_files_are_left_to_libsndfile(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 50_000), 16_000)
    contents = path.read_bytes()
    info = flac.stream_info(contents)
    assert info is not None
    middle = len(contents) // 2
    assert flac.decode_flac(contents[:middle], info) is None
    assert flac.decode_flac(contents[:middle] + bytes(200) + contents[middle + 200 :], info) is None
    endless = flac.StreamInfo(16_000, 1, 2**36 - 1)
    assert flac.decode_flac(contents, endless) is None
    for wrong in (b"", b"fLaC", b"RIFF" + contents[4:], contents[:41], contents[:18] + bytes(8) + contents[26:]):
        assert flac.stream_info(wrong) is None
    path.write_bytes(contents[:middle])
    decoded = decode_audio(path)
    assert decoded.problem is not None
    assert decoded.problem.action == "repaired"
    assert 20_000 < len(decoded.waveform) < 30_000
