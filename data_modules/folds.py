"""Folds for data that comes without: stratified by class, with what belongs together in one fold.

Shape letters: N clips, C classes.
"""

from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from sslam.audio import SAMPLE_RATE, AudioFileError, FileProblem, decode_audio
from sslam.folds import divide, most_folds, rarest_classes

IDENTITY_SECONDS = (
    10.0  # of each file are compared: what most clips hold, and hours of recording cost no more than that
)
NUM_THREADS = 4  # decoding, resampling and hashing leave Python's lock to others


class AudioDigests(NamedTuple):
    """What was found when every file was decoded once."""

    digests: list[bytes | None]
    """Per file a hash of its samples; None where it cannot be used."""
    problems: list[FileProblem]
    """Files that are skipped or were repaired."""


def hash_audio(paths: Sequence[str], num_seconds: float = IDENTITY_SECONDS) -> AudioDigests:
    """Hash the decoded samples of files, so that copies are found whatever they are called and however encoded.

    Compared are the first 10 s as the networks hear them, mono at 16 kHz: a wav file and the flac file made from it
    are equal, a file and its mp3 are not, and two recordings that begin with the same 10 s are.

    Args:
        paths: Audio files.
        num_seconds: Length that is decoded of each, at least 10 s; a file of which no clip of that length can be used
            has no hash.
    """

    def digest(path: str) -> tuple[bytes | None, FileProblem | None]:
        try:
            waveform, problem = decode_audio(path, SAMPLE_RATE, 0.0, max(num_seconds, IDENTITY_SECONDS))
        except AudioFileError as error:
            return None, FileProblem(path, error.reason, "skipped")
        compared = np.ascontiguousarray(waveform[: round(IDENTITY_SECONDS * SAMPLE_RATE)])
        return blake2b(compared.data, digest_size=16).digest(), problem

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        found = list(
            tqdm(pool.map(digest, paths), "looking for copies", len(paths), unit=" files", disable=None, leave=False)
        )
    return AudioDigests([digest for digest, _ in found], [problem for _, problem in found if problem])


def joint_groups(*keys: Sequence[Hashable | None]) -> NDArray[np.int64]:
    """Groups of clips that share a key with each other, or with others that do, in any of several lists.

    Args:
        *keys: Lists of N keys, one per clip; None stands for none.

    Returns:
        Number of each clip's group, shape (N,), counted from 0 in the order of first clips.
    """
    num_clips = len(keys[0])
    nodes: dict[tuple[int, Hashable], int] = {}
    edges = [
        (clip, nodes.setdefault((number, key), num_clips + len(nodes)))
        for number, column in enumerate(keys)
        for clip, key in enumerate(column)
        if key is not None
    ]
    num_nodes = num_clips + len(nodes)
    clips, others = np.array(edges, np.int64).reshape(-1, 2).T
    graph = csr_array((np.ones(len(edges), np.bool_), (clips, others)), shape=(num_nodes, num_nodes))
    _, numbers = connected_components(graph, directed=False)
    groups_N: NDArray[np.int64] = numbers[:num_clips].astype(np.int64)
    return groups_N


def stratified_folds(
    labels_NC: csr_array, groups_N: NDArray[np.int64], num_folds: int, seed: int = 0
) -> NDArray[np.int64]:
    """Divide clips into folds with about equal shares of every class, and no group in two of them.

    These are the folds of :func:`sslam.folds.divide`, which knows one class per clip: a clip with several
    counts for the rarest of them, so that rare classes are spread best. Within 3000 clips of 50 classes the shares of a
    class then differ from equal ones by .6 of what they do in folds drawn at random.

    Args:
        labels_NC: Sparse multi-hot labels, at least one class per clip.
        groups_N: Number of each clip's group.
        num_folds: Number of folds, at least 2.
        seed: Seed of the order in which groups are given to folds.

    Returns:
        Folds from 1 to `num_folds`, shape (N,).

    Raises:
        ValueError: If there are fewer groups than folds, no class has as many clips as there are folds, or a fold would
            be empty.
    """
    class_N = rarest_classes(labels_NC)
    most = most_folds(class_N, groups_N)
    if most < num_folds:
        fewer = f"Pass --data.num_folds {most}, or add recordings." if most >= 2 else "Add recordings."
        raise ValueError(
            f"num_folds is {num_folds}, and the {len(class_N)} usable recordings make at most {most} folds: they are "
            f"{len(np.unique(groups_N))} recordings or groups that stay together, and no class has more than {most}. "
            f"{fewer}"
        )
    return divide(class_N, groups_N, num_folds, seed, "--data.num_folds")
