"""Order, shares and resuming, without audio."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from data_modules.audio_file_dataset import collate_clips
from data_modules.sampler import ClipLoader, EvaluationSampler, TrainingLoader, TrainingSampler


class Requests(Dataset[Any]):
    """A data set that gives the request back."""

    def __init__(self, size: int, dropped: tuple[int, ...] = ()) -> None:
        self.size = size
        self.dropped = dropped

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, request: Any) -> dict[str, Any]:
        index, epoch = request if isinstance(request, tuple) else (request, 0)
        if index in self.dropped:
            return {"skipped": [index]}
        return {"index": index, "epoch": epoch, "waveform": torch.zeros(4), "skipped": []}


def make_loader(
    size: int, batch_size: int, num_workers: int = 0, world: int = 1, rank: int = 0, **kwargs: Any
) -> TrainingLoader:
    return TrainingLoader(
        Requests(size),
        on_problems=lambda problems: None,
        sampler=TrainingSampler(size, batch_size, world, rank, seed=3, **kwargs),
        batch_size=batch_size,
        num_workers=num_workers,
        drop_last=True,
        collate_fn=collate_clips,
        persistent_workers=num_workers > 0,
    )


def read_epoch(loader: TrainingLoader, epoch: int) -> list[list[int]]:
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return [batch["index"].tolist() for batch in loader]


@pytest.mark.parametrize(("size", "world"), [(24, 1), (24, 2), (25, 3), (31, 2)])
def test_training_sampler__ranks_share_every_clip_but_the_last_incomplete_step(size: int, world: int) -> None:
    shares = [[index for index, _ in TrainingSampler(size, 4, world, rank)] for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    assert len(shares[0]) == len(TrainingSampler(size, 4, world, 0))
    seen = [index for share in shares for index in share]
    assert len(set(seen)) == len(seen) == size // (4 * world) * 4 * world


def test_training_sampler__each_step_is_the_same_block_of_the_order_for_any_number_of_ranks() -> None:
    alone = [index for index, _ in TrainingSampler(24, 8)]
    ranks = [[index for index, _ in TrainingSampler(24, 4, 2, rank)] for rank in range(2)]
    for step in range(3):
        together = {index for rank in ranks for index in rank[4 * step : 4 * step + 4]}
        assert together == set(alone[8 * step : 8 * step + 8])


def test_training_sampler__the_order_follows_seed_and_epoch_only() -> None:
    sampler = TrainingSampler(100, 4, seed=1)
    first = list(sampler)
    assert first == list(TrainingSampler(100, 4, seed=1))
    assert first != list(TrainingSampler(100, 4, seed=2))
    sampler.set_epoch(1)
    second = list(sampler)
    assert [index for index, _ in second] != [index for index, _ in first]
    assert {epoch for _, epoch in second} == {1}


def test_training_sampler__too_few_clips_for_a_batch_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"7 training clips do not fill one batch of 4 on 2 process.*--data.batch_size"
    ):
        TrainingSampler(7, 4, num_replicas=2)


WEIGHTS = np.repeat([1.0, 2.0, 4.0, 0.0], [40, 20, 10, 5])


def test_training_sampler__weighted_draws_follow_the_naive_sequential_sampling() -> None:
    """Against the definition: draw one clip after the other, each by its share of what is left."""
    epochs, draws = 4000, 3
    weights = np.array([1.0, 2.0, 5.0, 0.5, 0.0])
    sampler = TrainingSampler(5, 1, weights=weights, draws_per_epoch=draws)
    counts = np.zeros(5)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        counts[[index for index, _ in sampler]] += 1
    rng = np.random.default_rng(1)
    expected = np.zeros(5)
    for _ in range(epochs):
        left = weights.copy()
        for _ in range(draws):
            clip = rng.choice(5, p=left / left.sum())
            left[clip] = 0
            expected[clip] += 1
    assert counts[4] == 0
    # Four standard deviations of the difference of two binomial counts.
    np.testing.assert_array_less(np.abs(counts - expected), 4 * np.sqrt(epochs / 2) + 1)
    assert np.abs(counts - epochs * draws * weights / weights.sum()).max() > 4 * np.sqrt(epochs / 2)  # not with them


def test_training_sampler__frequencies_follow_the_weights_where_few_of_many_are_drawn() -> None:
    sampler = TrainingSampler(75, 1, weights=WEIGHTS, draws_per_epoch=3)
    counts = np.zeros(75)
    for epoch in range(4000):
        sampler.set_epoch(epoch)
        counts[[index for index, _ in sampler]] += 1
    per_clip = [counts[np.equal(WEIGHTS, weight)].mean() for weight in (1, 2, 4, 0)]
    assert per_clip[3] == 0
    assert per_clip[1] / per_clip[0] == pytest.approx(2, rel=0.08)
    assert per_clip[2] / per_clip[0] == pytest.approx(4, rel=0.08)


def test_training_sampler__weighted_clips_come_once_per_epoch_in_an_order_that_does_not_tell_their_weight() -> None:
    sampler = TrainingSampler(75, 6, weights=WEIGHTS, draws_per_epoch=36)
    first_half = []
    for epoch in range(200):
        sampler.set_epoch(epoch)
        order = [index for index, _ in sampler]
        assert len(set(order)) == len(order) == 36
        assert all(WEIGHTS[order] > 0)
        first_half.append(WEIGHTS[order[:18]].sum() / WEIGHTS[order].sum())
    assert np.mean(first_half) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("weights", [WEIGHTS, None])
def test_training_sampler__two_ranks_share_the_draws_of_one(weights: Any) -> None:
    alone = [index for index, _ in TrainingSampler(75, 8, weights=weights, draws_per_epoch=36)]
    ranks = [
        [index for index, _ in TrainingSampler(75, 4, 2, rank, weights=weights, draws_per_epoch=36)] for rank in (0, 1)
    ]
    assert len(alone) == 32
    assert len(ranks[0]) == len(ranks[1]) == len(TrainingSampler(75, 4, 2, draws_per_epoch=36)) == 16
    assert sorted(ranks[0] + ranks[1]) == sorted(alone)


@pytest.mark.parametrize("stop", [1, 4, 8])
def test_training_loader__weighted_draws_resume_in_the_middle_of_an_epoch(stop: int) -> None:
    draws = {"weights": WEIGHTS, "draws_per_epoch": 36}
    straight = make_loader(75, 4, **draws)
    expected = [read_epoch(straight, epoch) for epoch in (2, 3)]
    assert expected[0] != expected[1]
    interrupted = make_loader(75, 4, **draws)
    interrupted.sampler.set_epoch(2)  # type: ignore[attr-defined]
    batches = iter(interrupted)
    for _ in range(stop):
        next(batches)
    resumed = make_loader(75, 4, **draws)
    resumed.load_state_dict(interrupted.state_dict())
    assert read_epoch(resumed, 2) == expected[0][stop:]
    assert read_epoch(resumed, 3) == expected[1]


@pytest.mark.parametrize(("weights", "drawable"), [(WEIGHTS, 70), (None, 75)])
def test_training_sampler__more_draws_than_clips_are_refused(weights: Any, drawable: int) -> None:
    with pytest.raises(ValueError, match=f"at most the number of training clips to draw from, {drawable}, .*got 80"):
        TrainingSampler(75, 4, weights=weights, draws_per_epoch=80)


def test_evaluation_sampler__gives_every_clip_once() -> None:
    shares = [list(EvaluationSampler(10, 4, rank)) for rank in range(4)]
    assert sorted(index for share in shares for index in share) == list(range(10))
    # The same on all ranks, and never 0: Lightning leaves an evaluation of length 0 out, on that rank alone.
    assert [len(EvaluationSampler(10, 4, rank)) for rank in range(4)] == [3, 3, 3, 3]
    assert [len(EvaluationSampler(1, 2, rank)) for rank in range(2)] == [1, 1]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_training_loader__resumes_in_the_middle_of_an_epoch(num_workers: int, stop: int) -> None:
    straight = make_loader(25, 4, num_workers)
    expected = [read_epoch(straight, epoch) for epoch in (2, 3)]

    interrupted = make_loader(25, 4, num_workers)
    interrupted.sampler.set_epoch(2)  # type: ignore[attr-defined]
    batches = iter(interrupted)
    for _ in range(stop):
        next(batches)
    state = interrupted.state_dict()

    resumed = make_loader(25, 4, 2 - num_workers)  # another number of workers
    resumed.load_state_dict(state)
    assert read_epoch(resumed, 2) == expected[0][stop:]
    assert read_epoch(resumed, 3) == expected[1]


def test_training_loader__a_finished_epoch_is_followed_by_the_next_one() -> None:
    loader = make_loader(25, 4)
    read_epoch(loader, 0)
    resumed = make_loader(25, 4)
    resumed.load_state_dict(loader.state_dict())
    assert read_epoch(resumed, 1) == read_epoch(loader, 1)


def test_training_loader__the_state_of_rank_0_is_right_for_the_others_and_for_another_number_of_ranks() -> None:
    ranks = [make_loader(48, 4, world=2, rank=rank) for rank in range(2)]
    seen: set[int] = set()
    for loader in ranks:
        batches = iter(loader)
        seen |= {index for _ in range(3) for index in next(batches)["index"].tolist()}
    state = ranks[0].state_dict()
    assert state == ranks[1].state_dict() == {"epoch": 0, "clips": 24}
    for world in (1, 2, 3):
        rest = []
        for rank in range(world):
            loader = make_loader(48, 4, world=world, rank=rank)
            loader.load_state_dict(state)
            rest += [index for batch in read_epoch(loader, 0) for index in batch]
        assert sorted(rest) == sorted(set(range(48)) - seen)


def test_clip_loader__a_batch_without_any_clip_is_left_out_and_its_problems_are_told() -> None:
    problems: list[Any] = []
    dataset = Requests(8, dropped=(1, 2, 3))
    loader = ClipLoader(dataset, on_problems=problems.extend, batch_size=2, collate_fn=collate_clips)
    assert [batch["index"].tolist() for batch in loader] == [[0], [4, 5], [6, 7]]
    assert problems == [1, 2, 3]
