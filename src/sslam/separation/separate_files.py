"""The work of ``sslam separate``: files are read, go through the separator, and their sources are written.

Shape letters: B files, N sources, C channels, T samples.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import soundfile
from tqdm.auto import tqdm

from sslam.audio import AudioFileError, FileProblem, Waveform, WholeFile, decode_whole_file
from sslam.audio_files import StatedSize, as_text, find_audio_files, stated_size
from sslam.errors import UsageError
from sslam.networks.tdcn import Separator
from sslam.separation.picture import separation_picture
from sslam.separation.state import InputFile, State
from sslam.separation.waveform import check_settings, rows_at_once, separate_clips, separate_in_windows, too_short

PARTIAL = ".partial"
LARGEST_WAV = 4 * 10**9  # bytes; what is larger is written as RF64, which readers of wav files know


@dataclass(frozen=True)
class Wanted:
    """How files are separated; see :func:`sslam.separation.separate_waveform`.

    Args:
        window_seconds: Longer files are separated in windows.
        batch_size: Clips of ten seconds that go through the network at once.
        pictures: Draw one picture for each file.

    Raises:
        ValueError: If a value is out of range.
    """

    window_seconds: float
    batch_size: int
    pictures: bool

    def __post_init__(self) -> None:
        check_settings(self.window_seconds, self.batch_size)

    def outputs(self, file: InputFile, num_sources: int) -> list[Path]:
        """Of a file, relative to the output folder: its sources, and then its picture if there is one."""
        sources = [file.output_name(f"_source{number}.wav") for number in range(1, num_sources + 1)]
        return [*sources, file.output_name("_sources.png")] if self.pictures else sources


class EstimateError(Exception):
    """The separator's output cannot be written; the text says why, in a few words."""


def find_inputs(paths: Iterable[str], output: Path) -> list[InputFile]:
    """The audio files of paths, sorted; what is in the output folder is passed over.

    Raises:
        UsageError: If a path does not exist, there is no file, or the sources of two would have one name.
    """
    output = output.resolve()
    found = find_audio_files(paths).items()
    files = [InputFile.at(path, name) for path, name in found if not Path(path).resolve().is_relative_to(output)]
    if not files:
        raise UsageError(f"All audio files are in the output folder {output}. Give another folder for the output.")
    by_name: dict[Path, InputFile] = {}
    for file in files:
        first = by_name.setdefault(file.output_name(""), file)
        if first is not file:
            raise UsageError(
                f"The sources of {first.path} and {file.path} would have the same names. Separate them into two output "
                "folders, or rename one."
            )
    return files


def separate_files(separator: Separator, files: Sequence[InputFile], state: State, wanted: Wanted) -> None:
    """Separate what is not finished.

    Raises:
        UsageError: If an output cannot be written.
    """
    sizes = {file: stated_size(file.path) for file in files}
    progress = tqdm(
        total=sum(size.seconds for size in sizes.values()),
        desc="separating",
        disable=None,
        bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}{postfix}]",
    )
    with progress:
        for run in runs_of_one_size(files, sizes, wanted):
            progress.set_postfix_str(Path(run[0].name).name)
            audio: dict[InputFile, WholeFile] = {}
            for file in run:
                found = read(file.path, separator)
                if isinstance(found, FileProblem):
                    state.add(file, found)
                    progress.update(sizes[file].seconds)
                else:
                    audio[file] = found
            for file, pieces in separated(separator, audio, wanted):
                finish(file, audio[file], counted(pieces, audio[file], progress), separator.num_sources, state, wanted)


def counted(pieces: Iterable[Waveform], audio: WholeFile, progress: tqdm) -> Iterator[Waveform]:
    """The same pieces; the bar moves with them."""
    for piece_NCT in pieces:
        yield piece_NCT
        # A header may promise less than there is, and the seconds of pieces add up with rounding errors.
        progress.update(min(piece_NCT.shape[-1] / audio.sample_rate, progress.total - progress.n))


def runs_of_one_size(
    files: Sequence[InputFile], sizes: dict[InputFile, StatedSize], wanted: Wanted
) -> Iterator[list[InputFile]]:
    """Files that may go through the network together, by their headers: nothing is ever padded to another's length."""
    for size, group in groupby(sorted(files, key=lambda file: (sizes[file], file.name)), key=sizes.__getitem__):
        same = list(group)
        is_long = size.seconds > wanted.window_seconds
        at_once = 1 if is_long or not size.num_samples else rows_at_once(wanted.batch_size, size.seconds)
        at_once = max(1, at_once // max(1, size.num_channels))
        yield from (same[first : first + at_once] for first in range(0, len(same), at_once))


def read(path: str, separator: Separator) -> WholeFile | FileProblem:
    """A whole file, or why it cannot be used."""
    try:
        found = decode_whole_file(path)
    except AudioFileError as error:
        return error.problem
    reason = too_short(separator, found.waveform_CT.shape[1], found.sample_rate)
    return found if reason is None else FileProblem(path, reason, "skipped")


def separated(
    separator: Separator, audio: dict[InputFile, WholeFile], wanted: Wanted
) -> Iterator[tuple[InputFile, Iterable[Waveform]]]:
    """Files with the pieces (N, C, t) of their sources."""

    def size(file: InputFile) -> tuple[int, tuple[int, ...]]:
        return audio[file].sample_rate, audio[file].waveform_CT.shape

    # By what they are, which may differ from what their headers say.
    for (sample_rate, (_, num_samples)), group in groupby(sorted(audio, key=size), key=size):
        same = list(group)
        if num_samples > round(wanted.window_seconds * sample_rate):
            for file in same:
                waveform_CT = audio[file].waveform_CT
                yield (
                    file,
                    separate_in_windows(separator, waveform_CT, sample_rate, wanted.window_seconds, wanted.batch_size),
                )
            continue
        clips_BCT = np.stack([audio[file].waveform_CT for file in same])
        estimates_BNCT = separate_clips(separator, clips_BCT, sample_rate, wanted.batch_size)
        yield from ((file, [estimates_NCT]) for file, estimates_NCT in zip(same, estimates_BNCT, strict=True))


def finish(
    file: InputFile, audio: WholeFile, pieces: Iterable[Waveform], num_sources: int, state: State, wanted: Wanted
) -> None:
    """Write a file's sources and picture, under other names until they are whole, and note that it is finished.

    Raises:
        UsageError: If an output cannot be written.
    """
    outputs = wanted.outputs(file, num_sources)
    partials = [state.folder / output.with_name(output.name + PARTIAL) for output in outputs]
    problem = audio.problem
    try:
        partials[0].parent.mkdir(parents=True, exist_ok=True)
        write_sources(partials[:num_sources], audio, pieces)
        if wanted.pictures:
            draw(partials[-1], audio, partials[:num_sources], file.name)
    except EstimateError as error:
        problem = FileProblem(file.path, str(error), "skipped")
    except soundfile.SoundFileError as error:
        raise UsageError(f"{partials[0]} cannot be written ({error}). Make room; the same command goes on.") from error
    else:
        for partial, output in zip(partials, outputs, strict=True):
            partial.replace(state.folder / output)
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)
    state.add(file, problem)


def write_sources(paths: Sequence[Path], audio: WholeFile, pieces: Iterable[Waveform]) -> None:
    """One float wav for each source, so that nothing clips and the sum holds.

    Raises:
        EstimateError: If an estimate is not finite.
    """
    file_format = "RF64" if audio.waveform_CT.nbytes > LARGEST_WAV else "WAV"
    num_channels = len(audio.waveform_CT)
    with ExitStack() as stack:
        streams = [
            stack.enter_context(
                soundfile.SoundFile(
                    os.fsencode(path), "w", audio.sample_rate, num_channels, subtype="FLOAT", format=file_format
                )
            )
            for path in paths
        ]
        for piece_NCT in pieces:
            if not np.isfinite(piece_NCT).all():
                peak = float(abs(audio.waveform_CT).max())
                raise EstimateError(f"its sources are not finite; the largest sample of the file is {peak:.3g}")
            for stream, source_CT in zip(streams, piece_NCT, strict=True):
                stream.write(source_CT.T)


def draw(path: Path, audio: WholeFile, sources: Iterable[Path], title: str) -> None:
    """The picture of a file, of the means over channels; sources are read one by one, as they may be long."""
    read_back = (soundfile.read(os.fsencode(source), dtype="float32", always_2d=True)[0] for source in sources)
    means = (frames_TC.mean(axis=1) for frames_TC in read_back)
    figure = separation_picture(audio.waveform_CT.mean(axis=0), means, audio.sample_rate, as_text(title))
    figure.savefig(path, format="png")
