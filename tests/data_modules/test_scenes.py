"""Scenes of recordings: onsets, levels, stems and backgrounds are what they are said to be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from data_modules.backgrounds import Background, ColoredNoise, RecordedBackgrounds, Silence
from data_modules.event_sources import RecordedEvents, SyntheticEvents
from data_modules.events import clip_polyphony
from data_modules.scanned_recordings import ScannedRecording, scan_recording
from data_modules.scenes import Scene, SceneRenderer
from data_modules.soundscapes import SoundscapesDataset
from sslam.audio import SAMPLE_RATE

WriteRecording = Callable[..., ScannedRecording]


@pytest.fixture
def write_recording(tmp_path: Path) -> WriteRecording:
    """Writes a sine between two silences and scans it."""

    def write(name: str, frequency: float, seconds: float, before: float = 0.2, after: float = 0.3) -> ScannedRecording:
        times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        sine = 0.3 * np.sin(2 * np.pi * frequency * times)
        margins = round(before * SAMPLE_RATE), round(after * SAMPLE_RATE)
        soundfile.write(tmp_path / name, np.pad(sine, margins), SAMPLE_RATE)
        return scan_recording(str(tmp_path / name))[0]

    return write


@pytest.fixture
def events(write_recording: WriteRecording) -> RecordedEvents:
    """Two classes, the second with two recordings, and one class without any."""
    recordings = [
        write_recording("a.flac", 300, 0.4),
        write_recording("b.flac", 900, 1.0),
        write_recording("c.flac", 2000, 30.0),
    ]
    return RecordedEvents(["low", "missing", "high"], recordings, [0, 2, 2])


def render(renderer: SceneRenderer, seed: int) -> Scene:
    return renderer.render(np.random.default_rng(seed), with_stems=True)


def test_synthetic_scenes__are_those_of_old() -> None:
    """Numbers of the first version, so that seeds keep their meaning."""
    dataset = SoundscapesDataset(SceneRenderer(2.0), 10, 1, seed=5, return_stems=True, return_events=True)
    sample = dataset[3]
    np.testing.assert_allclose(
        sample["events"].numpy(),
        [
            [0.0, 0.4740197956562042, 8.0],
            [0.0, 0.8648278117179871, 11.0],
            [0.4740197956562042, 2.0, 13.0],
            [0.8648278117179871, 2.0, 6.0],
            [-1, -1, -1],
            [-1, -1, -1],
        ],
        rtol=1e-6,
    )
    samples = [-0.00399415, -0.02165215, 0.05421192, -0.07150725, -0.03932157, 0.02255480, 0.04881358, -0.00197200]
    np.testing.assert_allclose(sample["waveform"][::4000].numpy(), samples, atol=1e-6)
    norms = [2.2044208, 2.5532876, 5.7770951, 1.6899716, 0.0, 0.0]
    np.testing.assert_allclose(sample["stems"].square().sum(-1).sqrt().numpy(), norms, rtol=1e-5)


@pytest.mark.parametrize(("events_per_scene", "polyphony"), [((1, 1), (1, 1)), ((1, 6), (1, 4)), ((3, 3), (3, 3))])
def test_recorded_events__polyphony_is_in_range_and_exact(
    events: RecordedEvents, events_per_scene: tuple[int, int], polyphony: tuple[int, int]
) -> None:
    renderer = SceneRenderer(4.0, events_per_scene, polyphony, event_source=events)
    degrees = set()
    for seed in range(200):
        placed = renderer.draw_events(np.random.default_rng(seed))
        assert events_per_scene[0] <= len(placed) <= events_per_scene[1]
        for event in placed:
            assert 0 <= event.onset < event.offset <= 4.0 + 1e-9
            assert event.offset - event.onset == pytest.approx(event.sound.seconds)
            assert event.sound.seconds <= {"a": 0.42, "b": 1.02, "c": 4.0}[Path(event.sound.source_file).stem] + 1e-9
            assert event.label == event.sound.label == {"a": 0, "b": 2, "c": 2}[Path(event.sound.source_file).stem]
        degrees.add(clip_polyphony(np.array([event[:3] for event in placed], np.float32)))
    assert degrees == set(range(polyphony[0], polyphony[1] + 1))


def test_recorded_events__classes_are_equally_likely_and_then_their_recordings(events: RecordedEvents) -> None:
    sounds = events.draw(np.random.default_rng(0), [1.0] * 2000)
    counts = {name: sum(Path(sound.source_file).stem == name for sound in sounds) for name in "abc"}
    assert counts["a"] == pytest.approx(1000, abs=100)
    assert counts["b"] == pytest.approx(500, abs=80)


def test_recorded_events__none_is_an_error() -> None:
    with pytest.raises(ValueError, match="Events need at least one recording, got none"):
        RecordedEvents(["a"], [], [])


@pytest.mark.parametrize("background", [ColoredNoise(), Silence()])
def test_scenes__stems_are_the_recordings_and_add_up(events: RecordedEvents, background: Background) -> None:
    renderer = SceneRenderer(4.0, (3, 6), (1, 3), (0.1, 2.0), (0.0, 10.0), events, background)
    for seed in range(10):
        scene = render(renderer, seed)
        assert scene.background is not None
        assert scene.stems is not None
        np.testing.assert_allclose(scene.waveform, scene.background + scene.stems.sum(axis=0), atol=1e-6)
        assert scene.background.any() == isinstance(background, ColoredNoise)
        for stem, (onset, offset, _), sound in zip(scene.stems, scene.events, scene.sounds, strict=True):
            start, stop = round(float(onset) * SAMPLE_RATE), round(float(offset) * SAMPLE_RATE)
            assert not stem[:start].any()
            assert not stem[stop:].any()
            source, _ = soundfile.read(sound.source_file, dtype="float32")
            first = round(sound.source_time * SAMPLE_RATE)
            part = source[first : first + stop - start]
            inside = slice(160, -160)  # apart from the fades
            gain = stem[start:stop][inside] @ part[inside] / (part[inside] @ part[inside])
            np.testing.assert_allclose(stem[start:stop][inside], gain * part[inside], atol=1e-5)
            # It fades in and out over 10 ms, and sounds from there on.
            assert stem[start] == stem[stop - 1] == 0
            assert np.abs(stem[start + 160 : start + 240]).max() > 0.3 * np.abs(stem).max()
            assert np.abs(stem[stop - 240 : stop - 160]).max() > 0.3 * np.abs(stem).max()


def level(waveform: NDArray[np.float32]) -> float:
    return float(10 * np.log10(np.mean(np.square(waveform, dtype=np.float64))))


def test_scenes__snr_is_the_level_over_the_background(events: RecordedEvents) -> None:
    renderer = SceneRenderer(4.0, (2, 4), (1, 2), snr_db=(-5.0, 10.0), event_source=events)
    for seed in range(10):
        scene = render(renderer, seed)
        assert scene.background is not None
        assert scene.stems is not None
        for stem, (onset, offset, _), snr in zip(scene.stems, scene.events, scene.snr_db, strict=True):
            span = slice(round(float(onset) * SAMPLE_RATE), round(float(offset) * SAMPLE_RATE))
            assert -5 <= snr <= 10
            assert level(stem[span]) - level(scene.background) == pytest.approx(snr, abs=0.01)


def test_scenes__without_background_levels_differ_as_the_snr_says(events: RecordedEvents) -> None:
    scene = render(SceneRenderer(4.0, (4, 4), (2, 2), event_source=events, background=Silence()), 0)
    assert scene.stems is not None
    spans = [slice(round(float(on) * SAMPLE_RATE), round(float(off) * SAMPLE_RATE)) for on, off, _ in scene.events]
    levels = [level(stem[span]) for stem, span in zip(scene.stems, spans, strict=True)]
    np.testing.assert_allclose(np.diff(levels), np.diff(scene.snr_db), atol=0.01)


def test_recorded_backgrounds__are_heard_all_the_time(write_recording: WriteRecording) -> None:
    short, long = write_recording("short.flac", 200, 1.0, 0, 0), write_recording("long.flac", 400, 20.0, 0, 0)
    with pytest.raises(ValueError, match="A background needs at least one recording, got none"):
        RecordedBackgrounds([])
    background = RecordedBackgrounds([short, long])
    files = set()
    for seed in range(10):
        waveform, source_file, source_time = background.draw(np.random.default_rng(seed), 4 * SAMPLE_RATE)
        assert len(waveform) == 4 * SAMPLE_RATE
        for second in waveform.reshape(8, -1):
            assert level(second) == pytest.approx(0, abs=0.1)  # RMS 1
        source, _ = soundfile.read(source_file, dtype="float32")
        part = source[round(source_time * SAMPLE_RATE) :][: 4 * SAMPLE_RATE]
        gain = waveform[: len(part)] @ part / (part @ part)
        np.testing.assert_allclose(waveform[: len(part)], gain * part, atol=1e-4)
        if source_file == short.path:
            np.testing.assert_array_equal(waveform[SAMPLE_RATE : 2 * SAMPLE_RATE], waveform[:SAMPLE_RATE][::-1])
        files.add(source_file)
    assert files == {short.path, long.path}
    scene = render(SceneRenderer(4.0, event_source=SyntheticEvents(), background=background), 0)
    assert scene.backdrop.source_file in files


class Cancelling(RecordedEvents):
    """Two classes that are each other's opposite."""

    def render(self, rng: np.random.Generator, sound: Any, num_samples: int) -> NDArray[np.float32]:
        return (1 if sound.label else -1) * np.hanning(num_samples).astype(np.float32)


def test_scenes__stems_that_cancel_each_other_fit_into_whole_numbers(write_recording: WriteRecording) -> None:
    long = write_recording("long.flac", 400, 20.0, 0, 0)
    peaks = {}
    for stems_fit in (False, True):
        renderer = SceneRenderer(
            1.0, (2, 2), (2, 2), (0.9, 1.0), (20.0, 20.0), Cancelling(["a", "b"], [long, long], [0, 1]), Silence(),
            stems_fit,
        )  # fmt: skip
        scenes = [render(renderer, seed) for seed in range(20)]
        peaks[stems_fit] = [np.abs(scene.stems).max() for scene in scenes if scene.stems is not None]
        for scene in scenes:
            assert scene.stems is not None
            np.testing.assert_allclose(scene.waveform, scene.stems.sum(axis=0), atol=1e-5)
    assert max(peaks[False]) > 1
    assert max(peaks[True]) <= 1
