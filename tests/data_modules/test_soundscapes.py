"""Scenes: the same everywhere, what they promise, and classes that can be told apart."""

from typing import Any

import numpy as np
import pytest
import torch

from data_modules import SoundscapesDataModule
from data_modules.events import degree_of_polyphony
from data_modules.scenes import SceneRenderer, event_table
from data_modules.sound_events import CLASS_NAMES, SOUND_EVENTS
from data_modules.soundscapes import SoundscapesDataset

RATE = 16_000


def test_soundscapes_dataset__the_same_index_and_seed_give_the_same_scene() -> None:
    renderer = SceneRenderer(2.0)
    first = SoundscapesDataset(renderer, 10, split=0)[3]
    again = SoundscapesDataset(SceneRenderer(2.0), 10, split=0)[3]
    assert torch.equal(first["waveform"], again["waveform"])
    for other in (
        SoundscapesDataset(renderer, 10, split=0)[4],
        SoundscapesDataset(renderer, 10, split=1)[3],
        SoundscapesDataset(renderer, 10, split=0, seed=1)[3],
    ):
        assert not torch.equal(first["waveform"], other["waveform"])


def test_soundscapes_dataset__training_scenes_are_fresh_each_epoch_when_asked_for() -> None:
    renderer = SceneRenderer(1.0)
    fresh = SoundscapesDataset(renderer, 10, 0, fresh_each_epoch=True)
    assert not torch.equal(fresh[2, 0]["waveform"], fresh[2, 1]["waveform"])
    fixed = SoundscapesDataset(renderer, 10, 0)
    assert torch.equal(fixed[2, 0]["waveform"], fixed[2, 1]["waveform"])


def test_soundscapes__workers_give_what_the_main_process_gives() -> None:
    def waveforms(num_workers: int) -> list[torch.Tensor]:
        data = SoundscapesDataModule(12, 4, 4, clip_seconds=1.0, batch_size=4, num_workers=num_workers)
        data.setup("fit")
        return [batch["waveform"] for batch in data.train_dataloader()]

    torch.testing.assert_close(waveforms(0), waveforms(2), rtol=0, atol=0)


def test_soundscapes__a_batch_has_everything_that_was_asked_for() -> None:
    data = SoundscapesDataModule(
        8, 4, 4, (1, 5), (1, 3), return_stems=True, return_events=True, clip_seconds=2.0, batch_size=4, num_workers=0
    )
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["waveform"].dtype == batch["stems"].dtype == torch.float32
    assert batch["waveform"].shape == batch["background"].shape == (4, 2 * RATE)
    assert batch["stems"].shape == (4, 5, 2 * RATE)
    assert batch["events"].shape == (4, 5, 3)
    assert batch["labels"].shape == (4, len(CLASS_NAMES))
    assert batch["num_samples"].tolist() == [2 * RATE] * 4
    torch.testing.assert_close(batch["stems"].sum(1) + batch["background"], batch["waveform"], rtol=0, atol=1e-6)
    for labels, events in zip(batch["labels"], batch["events"], strict=True):
        real = events[events[:, 2] >= 0]
        assert set(labels.nonzero().flatten().tolist()) == set(real[:, 2].int().tolist())
        assert (events[events[:, 2] < 0] == -1).all()


def test_soundscapes__polyphony_is_the_largest_number_of_events_at_once() -> None:
    data = SoundscapesDataModule(8, 40, 4, (1, 6), (1, 4), return_events=True, clip_seconds=2.0, batch_size=40)
    data.num_workers = 0
    data.setup("validate")
    batch = next(iter(data.val_dataloader()))
    assert batch["polyphony"].dtype == torch.int64
    times = np.linspace(0, 2, 20_001)
    for events, polyphony in zip(batch["events"], batch["polyphony"], strict=True):
        sounding = sum((onset <= times) & (times < offset) for onset, offset, _ in events[events[:, 2] >= 0].numpy())
        assert int(polyphony) == np.max(sounding)
    assert set(batch["polyphony"].tolist()) == {1, 2, 3, 4}


def test_soundscapes__without_augmentation_training_gives_the_first_epochs_scenes_in_order() -> None:
    options: dict[str, Any] = {"clip_seconds": 1.0, "batch_size": 3, "num_workers": 0}
    data = SoundscapesDataModule(7, 1, 1, training_augmentation=False, **options)
    data.setup("fit")
    for _ in range(2):
        batches = list(data.train_dataloader())
        assert [index for batch in batches for index in batch["index"].tolist()] == list(range(7))
    dataset = SoundscapesDataset(SceneRenderer(1.0), 7, split=0)
    assert torch.equal(batches[2]["waveform"][0], dataset[6]["waveform"])


def test_soundscapes__listings_count_scenes_and_the_classes_that_occur() -> None:
    data = SoundscapesDataModule(200, 2, 4, (1, 1), (1, 1), clip_seconds=1.0, num_workers=0)
    assert data.title == "Soundscapes"
    data.setup("fit")
    data.setup("test")
    assert {split: listing.found for split, listing in data.listings.items()} == {
        "training": 200,
        "validation": 2,
        "test": 4,
    }
    assert data.listings["training"].num_classes_with_clips == len(CLASS_NAMES)
    labels = torch.stack([data.test_set[index]["labels"] for index in range(4)])  # type: ignore[index]
    assert data.listings["test"].num_classes_with_clips == int(labels.any(dim=0).sum())


def test_soundscapes__no_validation_scenes_give_no_validation_loader() -> None:
    data = SoundscapesDataModule(num_val_scenes=0, num_workers=0)
    data.setup("fit")
    assert data.val_dataloader() == []


@pytest.mark.parametrize("clip_seconds", [1.0, 10.0])
@pytest.mark.parametrize(
    ("events", "polyphony"), [((1, 1), (1, 1)), ((1, 6), (1, 4)), ((4, 8), (2, 2)), ((3, 3), (3, 3))]
)
def test_scene_renderer__the_degree_of_polyphony_is_in_range_and_exact(
    clip_seconds: float, events: tuple[int, int], polyphony: tuple[int, int]
) -> None:
    renderer = SceneRenderer(clip_seconds, events, polyphony)
    degrees = set()
    for seed in range(300):
        table = event_table(renderer.draw_events(np.random.default_rng(seed)))
        assert events[0] <= len(table) <= events[1]
        assert (table[:, 0] >= 0).all()
        assert (table[:, 1] <= clip_seconds).all()
        assert (table[:, 1] - table[:, 0] >= 0.0299).all()
        # Counted where an event begins, the only places where the degree rises.
        degrees.add(int(degree_of_polyphony(table, table[:, 0].astype(np.float64)).max()))
    assert degrees == set(range(polyphony[0], polyphony[1] + 1))


def test_degree_of_polyphony__counts_what_sounds() -> None:
    events = np.array([[0, 2, 3], [1, 3, 0], [1.5, 1.75, 3], [-1, -1, -1]], np.float32)
    times = np.array([[0.0, 1.0, 1.6], [1.75, 2.5, 3.0]])
    assert degree_of_polyphony(events, times).tolist() == [[1, 2, 3], [2, 1, 0]]


def test_scene_renderer__parts_add_up_and_events_lie_in_their_span() -> None:
    renderer = SceneRenderer(4.0, (3, 6), (1, 3), snr_db=(0.0, 10.0))
    for seed in range(20):
        waveform, events, background, stems, *_ = renderer.render(np.random.default_rng(seed), with_stems=True)
        assert background is not None
        assert stems is not None
        np.testing.assert_allclose(waveform, background + stems.sum(axis=0), atol=1e-6)
        assert 10 ** (-14.1 / 20) < np.abs(waveform).max() < 10 ** (-0.9 / 20)
        np.testing.assert_array_equal(waveform, renderer.render(np.random.default_rng(seed)).waveform)
        for stem, (onset, offset, _) in zip(stems, events, strict=True):
            start, stop = round(float(onset) * RATE), round(float(offset) * RATE)
            assert not stem[:start].any()
            assert not stem[stop:].any()
            ratio = np.sqrt(
                (stem[start:stop].astype(np.float64) ** 2).mean() / (background.astype(np.float64) ** 2).mean()
            )
            assert -0.01 < 20 * np.log10(ratio) < 10.01


@pytest.mark.parametrize("event", SOUND_EVENTS, ids=CLASS_NAMES)
@pytest.mark.parametrize("num_samples", [480, 16_000, 4 * 16_000])
def test_sound_events__any_length_is_finite_and_audible(event: Any, num_samples: int) -> None:
    waveforms = [event(np.random.default_rng(seed), num_samples) for seed in range(20)]
    for waveform in waveforms:
        assert waveform.shape == (num_samples,)
        assert waveform.dtype == np.float32
        assert np.isfinite(waveform).all()
        assert np.sqrt((waveform**2).mean()) > 1e-3
    assert len({waveform.tobytes() for waveform in waveforms}) == 20


def log_spectrum_statistics(waveform: np.ndarray) -> np.ndarray:
    """Mean and deviation over time of 24 logarithmic bands, and of their change from frame to frame."""
    frames = np.lib.stride_tricks.sliding_window_view(waveform, 512)[::160] * np.hanning(512)
    power = np.abs(np.fft.rfft(frames)) ** 2
    edges = np.unique(np.geomspace(2, 257, 25).astype(int))
    bands = np.log(np.add.reduceat(power, edges[:-1], axis=1) + 1e-3)
    bands -= bands.mean()
    return np.concatenate([bands.mean(0), bands.std(0), np.abs(np.diff(bands, axis=0)).mean(0)])


def test_sound_events__classes_can_be_told_apart() -> None:
    assert len(SOUND_EVENTS) >= 10

    def statistics(seeds: range) -> tuple[np.ndarray, np.ndarray]:
        rows = [
            (log_spectrum_statistics(waveform / waveform.std()), label)
            for label, event in enumerate(SOUND_EVENTS)
            for seed in seeds
            for waveform in [event(np.random.default_rng((seed, label)), 2 * RATE)]
        ]
        return np.array([row[0] for row in rows]), np.array([row[1] for row in rows])

    train, train_labels = statistics(range(12))
    test, test_labels = statistics(range(100, 108))
    mean, deviation = train.mean(0), train.std(0)
    centroids = np.array(
        [((train - mean) / deviation)[train_labels == label].mean(0) for label in range(len(SOUND_EVENTS))]
    )
    distances = ((((test - mean) / deviation)[:, None] - centroids) ** 2).sum(-1)
    assert (distances.argmin(1) == test_labels).mean() > 0.85  # chance is 0.07


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"events_per_scene": (3, 2)}, r"events_per_scene must be a pair \(least, most\) from 1 up, got \(3, 2\)"),
        ({"events_per_scene": (0, 2)}, r"events_per_scene must be a pair .*, got \(0, 2\)"),
        ({"polyphony": (0, 2)}, r"polyphony must be a pair .*, got \(0, 2\)"),
        ({"polyphony": (2, 3)}, r"A scene of 1 event\(s\) cannot have a polyphony of 2. Raise"),
        ({"event_seconds": (0.0, 2)}, r"event_seconds must be a pair .* from 0.03 up"),
        ({"snr_db": (10.0, 0.0)}, r"snr_db must be a pair .*, got \(10.0, 0.0\)"),
        ({"events_per_scene": (1, 500)}, "500 events with a polyphony of 1 do not fit into 10.0 s. Lower"),
        ({"num_train_scenes": 0}, "num_train_scenes must be at least 1, got 0"),
        ({"num_val_scenes": -1}, "num_val_scenes must be at least 0, got -1"),
    ],
)
def test_soundscapes__impossible_scenes_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SoundscapesDataModule(**arguments)
