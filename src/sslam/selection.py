"""How training clips choose between probes: which are held out, and what does best on them. Shape letters: N clips."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor


def random_order(num_clips: int) -> Tensor:
    """The same order of so many clips at any time, by which some are held out."""
    return torch.randperm(num_clips, generator=torch.Generator().manual_seed(0))


ONE_RECORDING = (
    "The training clips are excerpts of one recording, so that none can be held out to choose the learning rate. Give "
    "clips of several recordings, or one learning rate."
)


def parts_of(number: int, order_N: Tensor, group_N: Tensor | None) -> Tensor:
    """The part (N,) of each clip of an order, of at most ``number`` parts of much the same size.

    Recordings go, the largest first and otherwise in their order, to the smallest part. Recordings of one clip are
    thus dealt out in turn, as clips are without ``group_N``.

    Args:
        number: Largest number of parts.
        order_N: Order of the clips.
        group_N: Recording of each clip, by its row; None where every clip is one.
    """
    if group_N is None:
        return torch.arange(len(order_N)) % min(number, len(order_N))
    groups = group_N[order_N].tolist()
    sizes = Counter(groups)  # by first appearance
    part_sizes = [0] * min(number, len(sizes))
    part_of: dict[int, int] = {}
    for group, size in sizes.most_common():  # stable
        part_of[group] = part_sizes.index(min(part_sizes))
        part_sizes[part_of[group]] += size
    return torch.tensor([part_of[group] for group in groups])


def first_recordings(least: int, order_N: Tensor, group_N: Tensor | None) -> tuple[Tensor, Tensor]:
    """The clips of the first recordings of an order, which have at least ``least`` clips, and the other clips."""
    if group_N is None:
        return order_N[:least], order_N[least:]
    groups = group_N[order_N].tolist()
    chosen: set[int] = set()
    num_clips = 0
    for group, size in Counter(groups).items():
        if num_clips < least:
            chosen.add(group)
            num_clips += size
    is_chosen = torch.tensor([group in chosen for group in groups])
    return order_N[is_chosen], order_N[~is_chosen]


def best(scores: Sequence[Mapping[float, float]]) -> tuple[int, float]:
    """The readout, by its position, and the learning rate with the highest score, the first of equal ones.

    A score of nan is lowest.
    """
    places = [(position, rate) for position, of_rates in enumerate(scores) for rate in of_rates]
    return max(places, key=lambda place: _in_order(scores[place[0]][place[1]]))


def edge(scores: Mapping[float, float], rate: float) -> Literal["lowest", "highest"] | None:
    """Which end of the learning rates a chosen one is, where none further inside is as good; None if it is no end."""
    rates = sorted(scores)
    if len(rates) < 2 or rate not in (rates[0], rates[-1]):
        return None
    neighbour = rates[1] if rate == rates[0] else rates[-2]
    if _in_order(scores[neighbour]) >= _in_order(scores[rate]):
        return None
    return "lowest" if rate == rates[0] else "highest"


def _in_order(score: float) -> float:
    return -math.inf if math.isnan(score) else score
