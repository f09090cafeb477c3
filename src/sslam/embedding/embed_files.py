"""The work of ``sslam embed``: files are read ahead, go through the model in batches, and their results are kept.

Shape letters: B pieces of a batch, T samples, L columns, D width, W pooled width, C classes.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from sslam.audio import AudioFileError, DecodedAudio, FileProblem, Waveform, decode_audio
from sslam.audio_files import stated_size
from sslam.embedding.embedder import AudioEmbedder, Embeddings
from sslam.embedding.parts import Columns, FileResult, Parts
from sslam.finished_files import InputFile

MAX_PIECE_SECONDS = 120.0  # what the encoder's table of positions was made for
TYPICAL_SECONDS = 10.0  # of a clip that the batch size counts
KEEP_EVERY_SECONDS = 30.0  # so much work is lost by a kill,
KEEP_EVERY_BYTES = 256 * 2**20  # or so much of results
READ_AHEAD = 4  # batches


@dataclass(frozen=True)
class Wanted:
    """What a file becomes.

    Args:
        level: Rows for the whole file or for its frames.
        tags: Instead, so many most probable classes.
        batch_size: Clips of ten seconds that go through the model at once.
    """

    level: Literal["clip", "frame"]
    tags: int | None
    batch_size: int


class Piece(NamedTuple):
    """One row of a batch's embeddings and where it begins in its file."""

    embeddings: Embeddings
    row: int
    start_seconds: float


def embed_files(
    embedder: AudioEmbedder, files: Sequence[InputFile], parts: Parts, wanted: Wanted, readers: ThreadPoolExecutor
) -> None:
    """Embed what is not finished; results are kept now and then, and when it ends in any way."""
    left = set(parts.left(files))
    results: list[FileResult] = []
    kept_at = time.monotonic()
    progress = tqdm(total=len(files), initial=len(files) - len(left), unit="file", desc="embedding", disable=None)
    try:
        seconds = [stated.seconds for stated in readers.map(stated_size, [file.path for file in files])]
        batches = batches_of(files, seconds, left, wanted.batch_size)
        for batch, audio in read_batches(batches, embedder.sample_rate, readers):
            results += embed_batch(embedder, batch, audio, wanted)
            progress.update(len(batch))
            num_bytes = sum(result.num_bytes for result in results)
            if num_bytes > KEEP_EVERY_BYTES or time.monotonic() - kept_at > KEEP_EVERY_SECONDS:
                parts.keep(results)
                results, kept_at = [], time.monotonic()
    finally:
        parts.keep(results)
        progress.close()


def batches_of(
    files: Sequence[InputFile], seconds: Sequence[float], left: Set[InputFile], batch_size: int
) -> list[list[InputFile]]:
    """Unfinished files, those of about one length together, the longest first.

    Batches are made of all files and kept as a whole, so that a resumed run has the same ones as a straight run and its
    numbers are the same to the bit.
    """
    order = sorted(range(len(files)), key=lambda number: -seconds[number])
    runs = fill([seconds[number] for number in order], batch_size, batch_size * TYPICAL_SECONDS)
    unfinished = ([files[number] for number in order[run] if files[number] in left] for run in runs)
    return [batch for batch in unfinished if batch]


def fill(lengths: Sequence[float], most_items: int, most_length: float) -> list[slice]:
    """Cut a sequence into runs of at most so many items and so much length together, but at least one item."""
    runs: list[slice] = []
    start, total = 0, 0.0
    for position, length in enumerate(lengths):
        if position > start and (position - start == most_items or total + length > most_length):
            runs.append(slice(start, position))
            start, total = position, 0.0
        total += length
    if start < len(lengths):
        runs.append(slice(start, len(lengths)))
    return runs


def read_batches(
    batches: Sequence[list[InputFile]], sample_rate: int, readers: ThreadPoolExecutor
) -> Iterator[tuple[list[InputFile], list[DecodedAudio | FileProblem]]]:
    """Batches with their audio, or what is wrong with a file; some are read while the model runs."""
    pending: deque[list[Future[DecodedAudio | FileProblem]]] = deque()
    ahead = iter(batches)
    for batch in batches:
        for coming in islice(ahead, READ_AHEAD + 1 - len(pending)):
            pending.append([readers.submit(read, file.path, sample_rate) for file in coming])
        yield batch, [future.result() for future in pending.popleft()]


def read(path: str, sample_rate: int) -> DecodedAudio | FileProblem:
    """A whole file, or why it cannot be used."""
    try:
        return decode_audio(path, sample_rate)
    except AudioFileError as error:
        return error.problem


def embed_batch(
    embedder: AudioEmbedder, batch: list[InputFile], audio: Sequence[DecodedAudio | FileProblem], wanted: Wanted
) -> list[FileResult]:
    """The results of some files, whose audio or problem is given."""
    cut = [[] if isinstance(found, FileProblem) else cut_waveform(found.waveform, embedder) for found in audio]
    pieces = embed_pieces(embedder, [piece for own in cut for piece in own], wanted.batch_size)
    results = []
    for file, found, own in zip(batch, audio, cut, strict=True):
        if isinstance(found, FileProblem):
            results.append(FileResult(file, problem=found))
            continue
        starts = np.cumsum([0, *map(len, own)]) / embedder.sample_rate
        own_pieces = [Piece(*next(pieces), start) for start in starts[:-1]]
        columns = rows_of_file(embedder, own_pieces, wanted)
        if not all(np.isfinite(column).all() for column in columns.values()):
            problem = FileProblem(file.path, "what the network makes of it is not finite", "skipped")
            results.append(FileResult(file, problem=problem))
            continue
        results.append(FileResult(file, len(found.waveform) / embedder.sample_rate, columns, found.problem))
    return results


def cut_waveform(waveform: Waveform, embedder: AudioEmbedder) -> list[Waveform]:
    """A recording longer than two minutes in the fewest pieces of equal length.

    One piece where the number of frames is given: then its beginning counts alone.
    """
    most = round(MAX_PIECE_SECONDS * embedder.sample_rate)
    number = 1 if embedder.num_frames is not None else -(-len(waveform) // most)
    return np.array_split(waveform, number)


def embed_pieces(
    embedder: AudioEmbedder, pieces: Sequence[Waveform], batch_size: int
) -> Iterator[tuple[Embeddings, int]]:
    """Embeddings and the row in them, of each piece."""
    seconds = [len(piece) / embedder.sample_rate for piece in pieces]
    for run in fill(seconds, batch_size, batch_size * TYPICAL_SECONDS):
        num_samples = torch.tensor([len(piece) for piece in pieces[run]])
        waveform_BT = torch.zeros(len(num_samples), int(num_samples.max()))
        for row, piece in zip(waveform_BT, pieces[run], strict=True):
            row[: len(piece)] = torch.from_numpy(piece)
        embeddings = embedder(waveform_BT, num_samples)
        yield from ((embeddings, row) for row in range(len(num_samples)))


def rows_of_file(embedder: AudioEmbedder, pieces: Sequence[Piece], wanted: Wanted) -> Columns:
    """Rows of a file from its pieces, in float32.

    Returns:
        For tags ``class`` (K,) and ``score`` (K,), the pieces' mean probabilities, highest first; for frames ``time``
        (L,) in seconds and ``embedding`` (L, D); for clips ``embedding`` (1, W), the mean over the pieces, which are of
        equal length.
    """
    if wanted.tags is not None:
        logits = [piece.embeddings.logits[piece.row] for piece in pieces if piece.embeddings.logits is not None]
        probability_C = embedder.probabilities(torch.stack(logits)).mean(dim=0).cpu().numpy()
        best = np.argsort(-probability_C, kind="stable")[: wanted.tags]
        return {"class": best, "score": probability_C[best]}
    if wanted.level == "frame":
        own = [slice(int(piece.embeddings.num_columns[piece.row])) for piece in pieces]
        frames = [piece.embeddings.frames[piece.row, heard] for piece, heard in zip(pieces, own, strict=True)]
        times = [
            piece.embeddings.times[heard].cpu().numpy() + piece.start_seconds
            for piece, heard in zip(pieces, own, strict=True)
        ]
        return {"time": np.concatenate(times), "embedding": torch.cat(frames).cpu().numpy()}
    clips = torch.stack([piece.embeddings.clip[piece.row] for piece in pieces])
    return {"embedding": clips.mean(dim=0, keepdim=True).cpu().numpy()}
