"""Recordings longer than an encoder hears at once: overlapping windows of equal length, and what is made of them.

Shape letters: B clips, T samples, L columns, R rows of a column, D width, W pooled width, C classes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sslam.audio import Waveform

if TYPE_CHECKING:
    from sslam.embedding.embedder import Embeddings


class Window(NamedTuple):
    """Samples (T,) and where they begin in the recording."""

    start: int
    waveform: Waveform


def windows_of(
    blocks: Iterable[Waveform], length: int, step: int, unit: int = 1, whole: int | None = None
) -> Iterator[Window]:
    """Windows of a recording that comes in blocks; no more than a window and a block are held.

    Each begins ``step`` samples after the one before. The last one ends with the recording and begins at a multiple of
    ``unit``, so that it may be up to ``unit - 1`` samples shorter. A recording of up to ``whole`` samples is one
    window.

    Args:
        blocks: Samples (T,) one after the other.
        length: Samples of a window.
        step: Samples from the beginning of a window to that of the next one, a multiple of ``unit``, at most
            ``length``.
        unit: Samples of which all beginnings are a multiple.
        whole: At least ``length``, which is the default.
    """
    whole = length if whole is None else whole
    held: Waveform = np.zeros(0, np.float32)
    start, is_given = 0, False  # of `held`, and whether the window that begins there was handed out
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) >= (length + step if is_given else whole + 1):
            if is_given:
                held, start = held[step:], start + step
            yield Window(start, held[:length])
            is_given = True
    if not is_given:
        yield Window(start, held)
    elif len(held) > length:
        last = -(-(len(held) - length) // unit) * unit
        yield Window(start + last, held[last:])


def join_windows(parts: Iterable[tuple[int, "Embeddings"]], activation: str | None) -> "Embeddings":
    """Embeddings of a recording from those of its windows.

    Columns are taken from the window in whose middle they are nearer: two neighbours change over in the middle of what
    both hear. Vectors are means over the windows by their numbers of columns; probabilities likewise, of which logits
    are made.

    Args:
        parts: For each window its first column and its embeddings, of one clip.
        activation: What makes probabilities of logits, ``sigmoid`` or ``softmax``; None without a classifier.
    """
    starts, embeddings = zip(*parts, strict=True)
    if len(embeddings) == 1:
        return embeddings[0]
    ends = [start + part.frames.shape[1] for start, part in zip(starts, embeddings, strict=True)]
    cuts = [0, *((start + end) // 2 for start, end in zip(starts[1:], ends[:-1], strict=True)), ends[-1]]
    own = [slice(low - start, high - start) for start, low, high in zip(starts, cuts[:-1], cuts[1:], strict=True)]
    share_N = torch.tensor([part.frames.shape[1] for part in embeddings], dtype=torch.float32)
    share_N = (share_N / share_N.sum()).to(embeddings[0].clip.device)
    first = embeddings[0]
    frames_BLD = torch.cat([part.frames[:, heard] for part, heard in zip(embeddings, own, strict=True)], dim=1)
    step = first.times[1] - first.times[0]
    return replace(
        first,
        clip=(torch.stack([part.clip for part in embeddings], dim=-1) * share_N).sum(dim=-1),
        frames=frames_BLD,
        times=first.times[0] + step * torch.arange(ends[-1], device=first.times.device),
        num_columns=torch.full_like(first.num_columns, ends[-1]),
        logits=None if activation is None else mean_logits([_logits(part) for part in embeddings], share_N, activation),
        patches=None
        if first.patches is None
        else torch.cat([_patches(part)[:, heard] for part, heard in zip(embeddings, own, strict=True)], dim=1),
    )


def mean_logits(logits: list[Tensor], share_N: Tensor, activation: str) -> Tensor:
    """Logits (B, C) of the mean probabilities, in the logarithm, so that none becomes infinite.

    Args:
        logits: (B, C) of each window.
        share_N: Weights of the windows, which add up to 1.
        activation: ``sigmoid`` or ``softmax``.
    """
    logits_NBC = torch.stack(logits)
    log_share_N11 = share_N.log()[:, None, None]
    if activation == "softmax":
        return torch.logsumexp(F.log_softmax(logits_NBC, dim=-1) + log_share_N11, dim=0)
    positive_BC = torch.logsumexp(F.logsigmoid(logits_NBC) + log_share_N11, dim=0)
    negative_BC = torch.logsumexp(F.logsigmoid(-logits_NBC) + log_share_N11, dim=0)
    return positive_BC - negative_BC


def stack(clips: list["Embeddings"]) -> "Embeddings":
    """Embeddings of clips that were embedded one by one, as those of one batch: short ones are filled up with zeros."""
    longest = max(clips, key=lambda clip: clip.frames.shape[1])
    num_columns = longest.frames.shape[1]

    def padded(columns_1L: Tensor) -> Tensor:
        missing = num_columns - columns_1L.shape[1]
        return F.pad(columns_1L, (0, 0) * (columns_1L.dim() - 2) + (0, missing))

    return replace(
        longest,
        clip=torch.cat([clip.clip for clip in clips]),
        frames=torch.cat([padded(clip.frames) for clip in clips]),
        num_columns=torch.cat([clip.num_columns for clip in clips]),
        logits=None if longest.logits is None else torch.cat([_logits(clip) for clip in clips]),
        patches=None if longest.patches is None else torch.cat([padded(_patches(clip)) for clip in clips]),
    )


def _logits(part: "Embeddings") -> Tensor:
    assert part.logits is not None
    return part.logits


def _patches(part: "Embeddings") -> Tensor:
    assert part.patches is not None
    return part.patches
