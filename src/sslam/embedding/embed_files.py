"""The work of ``sslam embed``: files are read ahead, go through the model in batches, and their results are kept.

Shape letters: B clips or windows, T samples, L columns, R rows of a column, D width, W pooled width, C classes, K tags.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal

import numpy as np
import torch
from tqdm.auto import tqdm

from sslam.audio import AudioFileError, DecodedAudio, FileProblem, Waveform, decode_audio
from sslam.audio_files import stated_size
from sslam.audio_stream import AudioStream
from sslam.embedding.embedder import AudioEmbedder, Embeddings
from sslam.embedding.parts import Columns, FileResult, Parts
from sslam.embedding.tags_over_time import TAG_SECONDS, TYPICAL_SECONDS, TagsOverTime, tags_over_time
from sslam.finished_files import InputFile

LONG_SECONDS = 120.0  # longer files are read block by block
KEEP_EVERY_SECONDS = 30.0  # so much work is lost by a kill,
KEEP_EVERY_BYTES = 256 * 2**20  # or so much of results
READ_AHEAD = 4  # batches


@dataclass(frozen=True)
class Wanted:
    """What a file becomes.

    Args:
        level: Rows for the whole file, for its frames or for its patches.
        tags: Instead, so many most probable classes, of the whole file or over time.
        batch_size: Clips of ten seconds that go through the model at once.
        tag_seconds: Length of the windows of tags over time.
    """

    level: Literal["clip", "frame", "patch"]
    tags: int | None
    batch_size: int
    tag_seconds: float = TAG_SECONDS

    @property
    def is_tags_over_time(self) -> bool:
        """Whether every file is tagged window by window."""
        return self.tags is not None and self.level == "frame"


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
        is_long = [embedder.num_frames is None and length > LONG_SECONDS for length in seconds]
        long = [file for file, alone in zip(files, is_long, strict=True) if alone]
        short = [file for file, alone in zip(files, is_long, strict=True) if not alone]
        lengths = [length for length, alone in zip(seconds, is_long, strict=True) if not alone]
        batches = batches_of(short, lengths, left, wanted.batch_size)
        in_batches = read_batches(batches, embedder.sample_rate, readers)
        for of_some in chain(
            ([embed_long(embedder, file, wanted)] for file in long if file in left),
            (embed_batch(embedder, batch, audio, wanted) for batch, audio in in_batches),
        ):
            results += of_some
            progress.update(len(of_some))
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
    waveforms = [found.waveform for found in audio if isinstance(found, DecodedAudio)]
    rows = rows_of_waveforms(embedder, waveforms, wanted)
    return [
        FileResult(file, problem=found)
        if isinstance(found, FileProblem)
        else finite_result(FileResult(file, len(found.waveform) / embedder.sample_rate, next(rows), found.problem))
        for file, found in zip(batch, audio, strict=True)
    ]


def finite_result(result: FileResult) -> FileResult:
    """The result, or the file as a bad one where a number is not finite."""
    if all(np.isfinite(column).all() for column in result.columns.values() if column.dtype.kind == "f"):
        return result
    return FileResult(
        result.file, problem=FileProblem(result.file.path, "what the network makes of it is not finite", "skipped")
    )


def embed_long(embedder: AudioEmbedder, file: InputFile, wanted: Wanted) -> FileResult:
    """The result of a file that is read block by block."""
    stream = AudioStream(file.path, embedder.sample_rate)
    try:
        if wanted.is_tags_over_time:
            columns = rows_of_tags(tags_over_time(embedder, stream, wanted.tag_seconds, wanted.batch_size), wanted)
        else:
            columns = rows_of_file(embedder, embedder.embed_blocks(stream, wanted.level == "patch"), 0, wanted)
    except AudioFileError as error:
        return FileResult(file, problem=error.problem)
    return finite_result(FileResult(file, stream.seconds, columns, stream.problem))


def rows_of_waveforms(embedder: AudioEmbedder, waveforms: Sequence[Waveform], wanted: Wanted) -> Iterator[Columns]:
    """Rows of each of some recordings."""
    if wanted.is_tags_over_time:
        for waveform in waveforms:
            yield rows_of_tags(tags_over_time(embedder, [waveform], wanted.tag_seconds, wanted.batch_size), wanted)
        return
    for embeddings, row in embed_waveforms(embedder, waveforms, wanted):
        yield rows_of_file(embedder, embeddings, row, wanted)


def rows_of_tags(tags: TagsOverTime, wanted: Wanted) -> Columns:
    """``start``, ``end``, ``class`` and ``score``: of each window so many classes, the most probable first."""
    best_BK = np.argsort(-tags.probabilities, axis=1, kind="stable")[:, : wanted.tags]
    num_tags = best_BK.shape[1]
    return {
        "start": tags.start.repeat(num_tags),
        "end": tags.end.repeat(num_tags),
        "class": best_BK.ravel(),
        "score": np.take_along_axis(tags.probabilities, best_BK, axis=1).ravel(),
    }


def embed_waveforms(
    embedder: AudioEmbedder, waveforms: Sequence[Waveform], wanted: Wanted
) -> Iterator[tuple[Embeddings, int]]:
    """Embeddings and the row in them, of each recording."""
    seconds = [len(waveform) / embedder.sample_rate for waveform in waveforms]
    for run in fill(seconds, wanted.batch_size, wanted.batch_size * TYPICAL_SECONDS):
        num_samples = torch.tensor([len(waveform) for waveform in waveforms[run]])
        waveform_BT = torch.zeros(len(num_samples), int(num_samples.max()))
        for row, waveform in zip(waveform_BT, waveforms[run], strict=True):
            row[: len(waveform)] = torch.from_numpy(waveform)
        embeddings = embedder(waveform_BT, num_samples, wanted.level == "patch")
        yield from ((embeddings, row) for row in range(len(num_samples)))


def rows_of_file(embedder: AudioEmbedder, embeddings: Embeddings, row: int, wanted: Wanted) -> Columns:
    """Rows of a file, in float32.

    Args:
        embedder: What made the embeddings.
        embeddings: Those of a batch.
        row: The file's place in it.
        wanted: What the file becomes.

    Returns:
        For tags ``class`` (K,) and ``score`` (K,), probabilities, highest first; for clips ``embedding`` (1, W); for
        frames ``time`` (L,) in seconds and ``embedding`` (L, D); for patches ``time``, ``frequency_row`` from the
        lowest up, and ``embedding`` (L R, D), column by column.
    """
    if wanted.tags is not None:
        assert embeddings.logits is not None
        probability_C = embedder.probabilities(embeddings.logits[row : row + 1])[0].cpu().numpy()
        best = np.argsort(-probability_C, kind="stable")[: wanted.tags]
        return {"class": best, "score": probability_C[best]}
    if wanted.level == "clip":
        return {"embedding": embeddings.clip[row : row + 1].cpu().numpy()}
    heard = slice(int(embeddings.num_columns[row]))
    times = embeddings.times[heard].cpu().numpy()
    if wanted.level == "frame":
        return {"time": times, "embedding": embeddings.frames[row, heard].cpu().numpy()}
    assert embeddings.patches is not None
    patches_LRD = embeddings.patches[row, heard]
    num_rows = patches_LRD.shape[1]
    return {
        "time": times.repeat(num_rows),
        "frequency_row": np.tile(np.arange(num_rows), len(times)),
        "embedding": patches_LRD.flatten(0, 1).cpu().numpy(),
    }
