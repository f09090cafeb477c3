"""One reader for wav, flac, mp3, ogg and opus files, and for others with FFmpeg.

Mono float32 at the rate the networks take, or files as they are.

Shape letters: T samples, C channels.
"""

import math
import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from sslam.audio_ffmpeg import FFMPEG_EXTENSIONS, DecodedFile, FFmpegError, open_with_ffmpeg
from sslam.decoder_notes import decoder_notes
from sslam.flac import decode_flac, stream_info
from sslam.packed_audio import packed_clip

Waveform = NDArray[np.float32]

SAMPLE_RATE = 16_000  # Hz; every batch of the suite
AUDIO_EXTENSIONS = (".wav", ".flac", ".mp3", ".ogg", ".opus", *FFMPEG_EXTENSIONS)

MIN_SECONDS = 0.025  # one window of the front end; anything shorter has no frame
MIN_PEAK = 1e-6  # -120 dBFS, below the least significant bit of 16-bit audio (-90 dBFS)
MAX_PEAK = 1000.0  # +60 dBFS; float files exceed 1 by peaks between samples or by mixing, damaged ones by far more
HEADER_RATES = (1_000, 768_000)  # Hz; a header outside this range is damaged
# The length in an mp3 header may be off by its codec's padding (some frames of 1152 samples); more is a damaged file.
LENGTH_TOLERANCE_SECONDS = 0.2
# After a seek an mp3 decoder lacks the bits that earlier frames hold for it (at most 511 bytes: 0.5 s at 8 kbit/s).
MP3_PREROLL_SECONDS = 0.5
FLAC_HEAD_BYTES = 8192  # libsndfile's heads end there, with their padding; and no more is read of a long file
REPAIR_BLOCK = 1024  # frames decoded at a time where a file is known to break off

# After a seek the decoder says that it lacks those bits; in a file that is read from its beginning it is a fault.
_WAV_DATA_SIZE = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN_WAV_SIZE = 0x7FFF_0000  # from here on a wav header, written to a pipe, says "length unknown"


class FileProblem(NamedTuple):
    """What was wrong with an audio file and what was done about it."""

    path: str
    reason: str
    action: Literal["skipped", "repaired"]


class AudioFileError(ValueError):
    """An audio file cannot be used.

    Attributes:
        path: Path of the file.
        reason: Fault of the file, in a few words.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"Cannot use the audio file '{path}': {reason}.")
        self.path = path
        self.reason = reason

    @property
    def problem(self) -> FileProblem:
        """The same for the list of bad files."""
        return FileProblem(self.path, self.reason, "skipped")

    def __reduce__(self) -> tuple[type["AudioFileError"], tuple[str, str]]:
        return type(self), (self.path, self.reason)


class DecodedAudio(NamedTuple):
    """A waveform (T,), mono float32, and the problem that was repaired, if there was one."""

    waveform: Waveform
    problem: FileProblem | None


class WholeFile(NamedTuple):
    """All channels of a file, (C, T) float32, its rate in Hz, and the problem that was repaired, if there was one."""

    waveform_CT: Waveform
    sample_rate: int
    problem: FileProblem | None


def decode_audio(
    path: str | Path,
    sample_rate: int = SAMPLE_RATE,
    start_seconds: float = 0.0,
    num_seconds: float | None = None,
    crop_position: float | None = None,
) -> DecodedAudio:
    """Decode, average the channels, then resample; what was repaired is returned beside the waveform.

    A file that breaks off (its header promises more than it holds) is repaired: what can be decoded is kept. Where the
    asked-for part lies behind the break, the first `num_seconds` are taken instead.

    Args:
        path: Path of a wav, flac, mp3, ogg or opus file of any rate and number of channels.
        sample_rate: Rate of the result in Hz.
        start_seconds: Time of the first sample, >= 0; found by seeking.
        num_seconds: Length to read, > 0; None reads to the end. The result is shorter where the file ends.
        crop_position: Place in the file, in [0, 1], instead of `start_seconds`: 0 reads the first `num_seconds`, 1 the
            last.

    Returns:
        The waveform (T,) with T <= num_seconds * sample_rate, and the repaired problem or None.

    Raises:
        AudioFileError: If the file is missing, empty, unreadable, has an impossible sample rate, or what was decoded is
            shorter than 25 ms, silent (peak below -120 dBFS), not finite, or beyond +60 dBFS.
    """
    path = str(path)

    def part_of(rate: int, num_frames: int) -> tuple[int, int]:
        wanted = num_frames if num_seconds is None else math.ceil(round(num_seconds * sample_rate) * rate / sample_rate)
        if crop_position is None:
            start = min(round(start_seconds * rate), num_frames)
        else:
            start = int(crop_position * max(0, num_frames - wanted))
        return start, min(wanted, num_frames - start)

    problem = None
    if (whole := _whole_flac(path, part_of)) is not None:
        frames, rate = whole
        num_frames = len(frames)
        start, wanted = part_of(rate, num_frames)
        frames = frames[start : start + wanted]
    else:
        file, notes = _open(path)
        with file:
            rate, num_frames = file.samplerate, file.frames
            start, wanted = part_of(rate, num_frames)
            frames, problem = _read_frames(path, file, notes, start, wanted)
    if len(frames) < MIN_SECONDS * rate:
        reason = f"too short: {len(frames)} samples at {rate} Hz, and at least {MIN_SECONDS * 1000:.0f} ms are needed"
        raise AudioFileError(path, f"{problem.reason}; {reason}" if problem else reason)
    if frames.ndim == 2:
        # Column by column: a mean over the short inner axis is ten times slower.
        frames = sum(frames.T) * np.float32(1 / frames.shape[1])
    peak = _checked_peak(path, frames)
    if peak < MIN_PEAK:
        part = "" if len(frames) == num_frames else f" for {len(frames) / rate:.1f} s from {start / rate:.1f} s on"
        raise AudioFileError(path, f"silent{part}: no sample reaches -120 dBFS")
    if rate != sample_rate:
        frames = soxr.resample(frames, rate, sample_rate)
    if num_seconds is not None:
        frames = frames[: round(num_seconds * sample_rate)]
    return DecodedAudio(frames, problem)


def decode_whole_file(path: str | Path) -> WholeFile:
    """Decode a file with all its channels at its own rate; unlike :func:`decode_audio` it takes short and silent ones.

    A file that breaks off is repaired: what can be decoded is kept.

    Raises:
        AudioFileError: If the file is missing, empty, unreadable, has an impossible sample rate, is not finite, or is
            beyond +60 dBFS.
    """
    path = str(path)
    file, notes = _open(path)
    with file:
        rate = file.samplerate
        frames, problem = _read_frames(path, file, notes, 0, file.frames)
    if not len(frames):
        raise AudioFileError(path, "truncated: not one sample can be decoded")
    _checked_peak(path, frames)
    return WholeFile(np.ascontiguousarray(np.atleast_2d(frames.T)), rate, problem)


def _whole_flac(path: str, part_of: Callable[[int, int], tuple[int, int]]) -> tuple[NDArray[Any], int] | None:
    """All frames and the rate of a flawless FLAC file of which most is wanted; None for others, which libsndfile reads.

    `part_of` gives start and number of the wanted frames, of a rate and the number of all frames.
    """
    clip = None
    if Path(path).is_file():
        if not path.lower().endswith(".flac"):
            return None
    elif (clip := packed_clip(path)) is None:
        return None
    try:
        with clip.open() if clip else Path(path).open("rb", buffering=0) as stream:
            contents = stream.read(FLAC_HEAD_BYTES) or b""
            info = stream_info(contents)
            if info is None or not HEADER_RATES[0] <= info.sample_rate <= HEADER_RATES[1]:
                return None
            if 2 * part_of(info.sample_rate, info.num_samples)[1] < info.num_samples:
                return None  # seeking is faster
            contents += stream.readall() or b""
    except OSError:
        return None
    frames = decode_flac(contents, info)
    return None if frames is None else (frames, info.sample_rate)


def _checked_peak(path: str, frames: NDArray[Any]) -> float:
    """The largest magnitude of a sample."""
    peak = float(max(frames.max(), -frames.min()))
    if not math.isfinite(peak):  # max() propagates NaN
        raise AudioFileError(path, "it holds NaN or infinite samples")
    if peak > MAX_PEAK:
        raise AudioFileError(path, f"its samples reach {peak:.3g}, and at most {MAX_PEAK:g} (+60 dBFS) is taken")
    return peak


def _open(path: str) -> tuple[soundfile.SoundFile | DecodedFile, list[str]]:
    """The open file, and what its decoder says of it."""
    clip = None
    if not Path(path).is_file():  # a pipe would never end, nor a link to a device
        if (clip := packed_clip(path)) is None:
            raise AudioFileError(path, "no regular file" if Path(path).exists() else "no such file")
    elif path.lower().endswith(FFMPEG_EXTENSIONS):
        try:
            return open_with_ffmpeg(path), []
        except FFmpegError as error:
            raise AudioFileError(path, str(error)) from error
    try:
        with decoder_notes() as notes:
            # As bytes: names need not be UTF-8.
            file = soundfile.SoundFile(os.fsencode(path) if clip is None else clip.open())
    except OSError as error:
        raise AudioFileError(path, f"unreadable ({error.strerror})") from error
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: the extension .raw
        if (clip.size if clip else Path(path).stat().st_size) == 0:
            raise AudioFileError(path, "empty (0 bytes)") from error
        reason = getattr(error, "error_string", "").strip().rstrip(".").lower()
        raise AudioFileError(path, f"unreadable ({reason or 'not in a known audio format'})") from error
    low, high = HEADER_RATES
    if not low <= file.samplerate <= high:
        file.close()
        raise AudioFileError(path, f"its header gives a sample rate of {file.samplerate} Hz, outside {low}-{high} Hz")
    if file.frames == 0:
        file.close()
        raise AudioFileError(path, "empty (a header without samples)")
    return file, notes


def _read_frames(
    path: str, file: soundfile.SoundFile | DecodedFile, notes: Sequence[str], start: int, wanted: int
) -> tuple[NDArray[Any], FileProblem | None]:
    """Frames (T,) or (T, C) from `start` on; where the file breaks off before, as many from its beginning.

    `notes` is what the decoder said of the file when it was opened.
    """
    problem = None
    rate = file.samplerate
    lost = _lost_wav_frames(file)
    is_mp3 = file.subtype == "MPEG_LAYER_III"  # also inside wav
    preroll = min(start, round(MP3_PREROLL_SECONDS * rate)) if is_mp3 else 0
    catching: AbstractContextManager[list[str]] = decoder_notes() if is_mp3 else nullcontext([])
    with catching as more_notes:
        try:
            if start:
                file.seek(start - preroll)
            frames = file.read(preroll + wanted, dtype="float32")[preroll:]
        except (soundfile.LibsndfileError, MemoryError):  # MemoryError: a damaged header promises terabytes
            frames = np.zeros(0, np.float32)
    # An error that is told after a seek is of frames that lack earlier bits, which the preroll is for.
    complaints = [note for note in (*notes, *more_notes) if not (start and note.startswith("error: "))]
    lost += wanted - len(frames)
    if wanted and not len(frames):
        frames = _read_until_break(path, wanted)
    if lost > LENGTH_TOLERANCE_SECONDS * rate or (wanted and not len(frames)):
        problem = FileProblem(path, "truncated: the header promises more than can be decoded", "repaired")
    elif complaints:
        problem = FileProblem(path, f'damaged: its decoder says "{complaints[0]}"', "repaired")
    return frames, problem


def _lost_wav_frames(file: soundfile.SoundFile | DecodedFile) -> int:
    """Frames that a wav header promises beyond the end of the file; libsndfile corrects its count silently."""
    if file.format not in ("WAV", "WAVEX") or not (sizes := _WAV_DATA_SIZE.search(file.extra_info)):
        return 0
    promised, held = int(sizes[1]), int(sizes[2])
    if held <= 0 or promised >= _UNKNOWN_WAV_SIZE:
        return 0
    return (promised - held) * file.frames // held


def _read_until_break(path: str, num_frames: int) -> Waveform:
    """Decode from the start, block by block, until `num_frames` are read or the decoder fails."""
    blocks: list[Waveform] = []
    file, _ = _open(path)
    with file, decoder_notes():
        while num_frames > 0:
            try:
                block = file.read(min(REPAIR_BLOCK, num_frames), dtype="float32")
            except soundfile.LibsndfileError:
                break
            if not len(block):
                break
            blocks.append(block)
            num_frames -= len(block)
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
