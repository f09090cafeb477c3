"""The work of ``sslam separate``: files are read, go through the separator, and their sources are written.

Shape letters: B files, N sources, C channels, T samples.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from matplotlib import rc_context
from tqdm.auto import tqdm

from sslam.audio import AudioFileError, FileProblem, Waveform, WholeFile, decode_whole_file
from sslam.audio_files import as_text, find_audio_files, stated_size
from sslam.errors import UsageError
from sslam.finished_files import Entry, FinishedFiles, InputFile
from sslam.networks.separator import Separator
from sslam.separation.picture import separation_picture
from sslam.separation.waveform import (
    check_settings,
    rows_at_once,
    runs_of_one_kind,
    separate_clips,
    separate_in_windows,
    too_short,
)

LONGEST_NAME = 255  # bytes that file systems take
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
        """A file's sources, and then its picture if there is one, relative to the output folder."""
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
    files = [InputFile.at(path, name) for path, name in found if output not in Path(os.path.realpath(path)).parents]
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


def separate_files(separator: Separator, files: Sequence[InputFile], finished: FinishedFiles, wanted: Wanted) -> None:
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

    def readable() -> Iterator[tuple[InputFile, WholeFile]]:
        for file in sorted(files, key=lambda file: (sizes[file], file.name)):
            progress.set_postfix_str(Path(file.name).name)
            found = read(file.path, separator)
            if isinstance(found, FileProblem):
                finished.add(Entry(file, found))
                progress.update(sizes[file].seconds)
            else:
                yield file, found

    def kind(clip: tuple[InputFile, WholeFile]) -> tuple[int, tuple[int, ...]]:
        return clip[1].sample_rate, clip[1].waveform_CT.shape

    def most(kind: tuple[int, tuple[int, ...]]) -> int:
        sample_rate, (num_channels, num_samples) = kind
        if num_samples > round(wanted.window_seconds * sample_rate):
            return 1
        return max(1, rows_at_once(wanted.batch_size, num_samples / sample_rate) // num_channels)

    with progress:
        # Nothing is ever padded to another's length.
        for clips in runs_of_one_kind(readable(), kind, most):
            for (file, audio), pieces in zip(clips, separated(separator, [a for _, a in clips], wanted), strict=True):
                outputs = [finished.folder / output for output in wanted.outputs(file, separator.num_sources)]
                problem = write_outputs(outputs, file, audio, counted(pieces, audio, progress), wanted)
                finished.add(Entry(file, problem))


def counted(pieces: Iterable[Waveform], audio: WholeFile, progress: tqdm) -> Iterator[Waveform]:
    """The same pieces; the bar moves with them."""
    for piece_NCT in pieces:
        yield piece_NCT
        # A header may promise less than there is, and the seconds of pieces add up with rounding errors.
        progress.update(min(piece_NCT.shape[-1] / audio.sample_rate, progress.total - progress.n))


def read(path: str, separator: Separator) -> WholeFile | FileProblem:
    """A whole file, or why it cannot be used."""
    try:
        found = decode_whole_file(path)
    except AudioFileError as error:
        return error.problem
    reason = too_short(separator, found.waveform_CT.shape[1], found.sample_rate)
    return found if reason is None else FileProblem(path, reason, "skipped")


def separated(separator: Separator, audio: Sequence[WholeFile], wanted: Wanted) -> Iterable[Iterable[Waveform]]:
    """Pieces (N, C, t), in order, of the sources of each of some files of one rate and shape."""
    sample_rate, batch_size = audio[0].sample_rate, wanted.batch_size
    if len(audio) == 1:  # it may be long
        return [separate_in_windows(separator, audio[0].waveform_CT, sample_rate, wanted.window_seconds, batch_size)]
    clips_BCT = np.stack([found.waveform_CT for found in audio])
    return [[estimates_NCT] for estimates_NCT in separate_clips(separator, clips_BCT, sample_rate, batch_size)]


def write_outputs(
    outputs: Sequence[Path], file: InputFile, audio: WholeFile, pieces: Iterable[Waveform], wanted: Wanted
) -> FileProblem | None:
    """Write a file's sources and picture, under other names until they are whole.

    Returns:
        What is wrong with the file.

    Raises:
        UsageError: If an output cannot be written.
    """
    partials = [output.with_name(output.name + PARTIAL) for output in outputs]
    sources = partials[:-1] if wanted.pictures else partials
    if max(len(os.fsencode(partial.name)) for partial in partials) > LONGEST_NAME:
        return FileProblem(
            file.path, f"its name is too long: those of its sources exceed {LONGEST_NAME} bytes", "skipped"
        )
    try:
        partials[0].parent.mkdir(parents=True, exist_ok=True)
        write_sources(sources, audio, pieces)
        if wanted.pictures:
            draw(partials[-1], audio, sources, file.name)
        for partial, output in zip(partials, outputs, strict=True):
            partial.replace(output)
    except EstimateError as error:
        return FileProblem(file.path, str(error), "skipped")
    except soundfile.SoundFileError as error:
        raise UsageError(f"{partials[0]} cannot be written ({error}). Make room; the same command goes on.") from error
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)
    return audio.problem


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
    with rc_context({"text.parse_math": False}):  # a name may hold dollar signs
        figure = separation_picture(audio.waveform_CT.mean(axis=0), means, audio.sample_rate, as_text(title))
        figure.savefig(path, format="png")
