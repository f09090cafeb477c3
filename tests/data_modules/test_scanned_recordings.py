"""Where a recording sounds, and the parts that are drawn from it."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from data_modules.scanned_recordings import ScannedRecording, read_part, scan_recording, scan_recordings
from sslam.audio import SAMPLE_RATE, AudioFileError

FRAME = SAMPLE_RATE // 100


def write(path: Path, levels: dict[tuple[float, float], float], seconds: float, rate: int = SAMPLE_RATE) -> str:
    """Noise of these levels from second to second, and zeros elsewhere."""
    times = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).uniform(-1, 1, len(times))
    waveform = sum(level * noise * ((start <= times) & (times < end)) for (start, end), level in levels.items())
    soundfile.write(path, waveform, rate, subtype="PCM_24")
    return str(path)


def stretches_in_seconds(recording: ScannedRecording) -> list[list[float]]:
    return (recording.stretches / 100).tolist()


def test_scan_recording__silence_at_the_ends_and_between_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", {(0.3, 0.5): 0.5, (0.9, 1.2): 0.05}, 2.0)
    recording, problem = scan_recording(path)
    assert problem is None
    assert recording.num_frames == 200
    assert stretches_in_seconds(recording) == [[0.3, 0.5], [0.9, 1.2]]


def test_scan_recording__what_lies_40_db_below_the_loudest_is_silence(tmp_path: Path) -> None:
    # The loudest 10 ms of the noise lie some tenths of a decibel above all of it.
    levels = {(0.2, 0.4): 0.5, (0.4, 0.6): 0.5 * 10 ** (-38 / 20), (0.6, 1.0): 0.5 * 10 ** (-41 / 20)}
    path = write(tmp_path / "a.wav", levels, 1.0)
    assert stretches_in_seconds(scan_recording(path)[0]) == [[0.2, 0.6]]


def test_scan_recording__a_sound_throughout_is_one_stretch_at_any_rate(tmp_path: Path) -> None:
    for rate in (8_000, 44_100):
        path = write(tmp_path / f"{rate}.wav", {(0, 1): 0.01}, 1.0, rate)
        assert stretches_in_seconds(scan_recording(path)[0]) == [[0, 1]]


def test_scan_recording__the_fingerprint_is_that_of_the_samples(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", {(0, 1): 0.5}, 1.0)
    samples, _ = soundfile.read(path)
    soundfile.write(tmp_path / "copy.flac", samples, SAMPLE_RATE, subtype="PCM_24")
    soundfile.write(tmp_path / "other.flac", -samples, SAMPLE_RATE, subtype="PCM_24")
    fingerprints = [
        scan_recording(str(tmp_path / name))[0].fingerprint for name in ("a.wav", "copy.flac", "other.flac")
    ]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


@pytest.mark.parametrize(
    ("levels", "seconds", "reason"),
    [
        ({(0, 1): 0.5}, 0.029, "too short for an event: 29 ms"),
        ({(0, 1): 1e-5}, 1.0, "silent: no 10 ms of it reach -80 dBFS"),
        ({(0, 1): 0.0}, 1.0, "silent: no sample reaches -120 dBFS"),
    ],
)
def test_scan_recording__what_cannot_be_an_event_is_refused(
    tmp_path: Path, levels: dict[tuple[float, float], float], seconds: float, reason: str
) -> None:
    with pytest.raises(AudioFileError, match=reason):
        scan_recording(write(tmp_path / "a.wav", levels, seconds))


def test_scan_recordings__bad_files_are_named_and_the_order_is_kept(tmp_path: Path) -> None:
    good = [write(tmp_path / f"{number}.wav", {(0, 1): 0.1 * number}, 0.5) for number in (3, 1, 2)]
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    recordings, problems = scan_recordings([good[0], str(tmp_path / "bad.wav"), *good[1:]])
    assert list(recordings) == good
    assert [(Path(problem.path).name, problem.action) for problem in problems] == [("bad.wav", "skipped")]


def recording(num_frames: int, *stretches: tuple[int, int]) -> ScannedRecording:
    return ScannedRecording("", num_frames, np.array(stretches, np.int32), "")


def sounds(recording: ScannedRecording) -> NDArray[np.bool_]:
    frames = np.zeros(recording.num_frames, np.bool_)
    for start, end in recording.stretches:
        frames[start:end] = True
    return frames


@pytest.mark.parametrize(
    "candidate",
    [
        recording(500, (0, 500)),
        recording(500, (100, 101)),
        recording(500, (0, 1), (499, 500)),
        recording(3, (1, 2)),
        recording(400, (20, 60), (62, 63), (150, 300), (390, 391)),
    ],
    ids=["throughout", "a click", "two clicks at the ends", "three frames", "four sounds"],
)
def test_draw_part__begins_and_ends_where_the_recording_sounds(candidate: ScannedRecording) -> None:
    rng = np.random.default_rng(0)
    is_sound = sounds(candidate)
    for _ in range(500):
        wanted = rng.uniform(0.03, 6)
        start, length = candidate.draw_part(rng, wanted)
        assert 0.03 - 1e-9 <= length <= wanted + 1e-9
        first, last = round(start * 100), round(start * 100) + max(3, int(np.ceil(length * 100 - 1e-6)))
        assert 0 <= first < last <= candidate.num_frames
        # One frame more on each side, unless the file ends there or the part would be below 30 ms.
        assert is_sound[first : first + 2].any() or last - first == 3
        assert is_sound[last - 2 : last].any() or last - first == 3
        assert is_sound[first:last].any()


def test_draw_part__all_of_a_recording_that_is_short_enough() -> None:
    assert recording(100, (20, 80)).draw_part(np.random.default_rng(0), 2.0) == pytest.approx((0.19, 0.62))


def test_draw_part__long_recordings_are_cut_anywhere_and_as_long_as_asked_for() -> None:
    rng = np.random.default_rng(0)
    parts = [recording(10_000, (0, 10_000)).draw_part(rng, 1.2345) for _ in range(300)]
    starts, lengths = np.array(parts).T
    assert np.median(lengths) == 1.2345
    assert lengths.min() == pytest.approx(1.23)  # at the ends of the file, where the fade has no frame of its own
    assert np.histogram(starts, 5, (0, 98.8))[0].min() > 30


def test_draw_window__lies_anywhere_around_what_sounds() -> None:
    rng = np.random.default_rng(0)
    windows = np.array([recording(1000, (500, 501)).draw_window(rng, 2.0) for _ in range(300)])
    assert (windows[:, 1] == 2).all()
    assert windows[:, 0].min() == pytest.approx(3.01, abs=0.05)
    assert windows[:, 0].max() == pytest.approx(5.0, abs=0.05)
    assert recording(100, (3, 4)).draw_window(rng, 2.0) == (0, 1)


def test_read_part__is_the_recording_from_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", {(0, 1): 0.5}, 1.0)
    samples, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(read_part(path, 0.25, 4000), samples[4000:8000])
    end = read_part(path, 0.9, 2000)
    np.testing.assert_array_equal(end, np.pad(samples[14_400:], (0, 400)))
