"""Packing clips into tar shards, and the index of such shards; see :mod:`sslam.packed_audio`.

A shard is a plain tar archive as WebDataset has them: of every clip two members, ``000001234.flac`` (16 kHz, mono) and
``000001234.json`` (``name``, ``num_samples``, ``seconds``). The same clips always give the same bytes.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from sslam.atomic_write import write_whole
from sslam.audio import AUDIO_EXTENSIONS, SAMPLE_RATE, AudioFileError, FileProblem, decode_audio
from sslam.errors import UsageError
from sslam.mapped_arrays import Texts, write_arrays
from sslam.packed_audio import INDEX, VERSION, safe_name

FULL_SCALE = 2**15  # 16 bits


@dataclass(frozen=True)
class Packing:
    """What decides the bytes of the shards.

    Attributes:
        root: Folder of the clips.
        names: The clips' paths below it, sorted.
        clips_per_shard: Clips in a shard, of which bad ones are left out.
    """

    root: str
    names: Sequence[str]
    clips_per_shard: int

    @property
    def num_shards(self) -> int:
        return -(-len(self.names) // self.clips_per_shard)

    def rows_of(self, shard: int) -> range:
        """Rows of the list that a shard is made of."""
        return range(shard * self.clips_per_shard, min(len(self.names), (shard + 1) * self.clips_per_shard))


class PackedRow(NamedTuple):
    """A clip as FLAC, or why it is none."""

    flac: bytes
    num_samples: int
    problem: FileProblem | None


def shard_name(shard: int) -> str:
    """Names sort as their numbers up to a million shards."""
    return f"shard-{shard:06}.tar"


def as_flac(path: str) -> PackedRow:
    """A clip at 16 kHz, mono, 16 bits; what is beyond full scale is clipped, which is told as a repair."""
    try:
        waveform_T, problem = decode_audio(path)
    except AudioFileError as error:
        return PackedRow(b"", 0, error.problem)
    steps_T = np.rint(waveform_T * FULL_SCALE)
    num_clipped = int(((steps_T < -FULL_SCALE) | (steps_T > FULL_SCALE)).sum())
    if num_clipped and problem is None:
        problem = FileProblem(path, f"clipped: {num_clipped} samples are beyond full scale", "repaired")
    stream = io.BytesIO()
    samples_T = np.clip(steps_T, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
    soundfile.write(stream, samples_T, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return PackedRow(stream.getvalue(), len(samples_T), problem)


def write_shard(folder: Path, packing: Packing, shard: int, pool: Executor) -> dict[str, Any]:
    """Write one shard whole.

    Returns:
        What the index needs: ``names``, ``offsets`` and ``sizes`` of the clips in it, and the ``problems`` of files.
    """
    rows = packing.rows_of(shard)
    prefix = f"{packing.root}/"
    done: dict[str, Any] = {"names": [], "offsets": [], "sizes": [], "problems": [], "samples": 0}

    def write(partial: Path) -> None:
        with partial.open("wb") as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            packed = pool.map(as_flac, [prefix + packing.names[row] for row in rows])
            for row, (flac, num_samples, problem) in zip(rows, packed, strict=True):
                if problem is not None:
                    done["problems"].append(problem)
                if not num_samples:
                    continue
                name = packing.names[row]
                about = {"name": name, "num_samples": num_samples, "seconds": num_samples / SAMPLE_RATE}
                offset = _add(tar, f"{row:09}.flac", flac)
                _add(tar, f"{row:09}.json", json.dumps(about).encode())
                for key, value in (("names", name), ("offsets", offset), ("sizes", len(flac))):
                    done[key].append(value)
                done["samples"] += num_samples

    write_whole(folder / shard_name(shard), write)
    return done


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Add a member with nothing in it that is of this day or machine; where its data begin."""
    member = tarfile.TarInfo(name)  # of time 0 and nobody
    member.size = len(data)
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(data))
    assert tar.fileobj is not None
    return int(tar.fileobj.tell()) - (len(data) + 511) // 512 * 512


def write_index(folder: Path, shards: Iterable[tuple[str, dict[str, Any]]]) -> int:
    """Write the index of shards, from what is in each.

    Returns:
        Number of the clips.

    Raises:
        UsageError: If two clips have one name.
    """
    shard_names: list[str] = []
    names: list[str] = []
    columns: dict[str, list[int]] = {"shards": [], "offsets": [], "sizes": []}
    for number, (shard, clips) in enumerate(shards):
        shard_names.append(shard)
        names += clips["names"]
        columns["shards"] += [number] * len(clips["names"])
        columns["offsets"] += clips["offsets"]
        columns["sizes"] += clips["sizes"]
    # Sorted as bytes, because names are looked up by their bytes.
    texts = Texts.of(names)
    encoded = [texts.encoded(row) for row in range(len(texts))]
    order = sorted(range(len(texts)), key=encoded.__getitem__)
    for first, second in pairwise(order):
        if encoded[first] == encoded[second]:
            raise UsageError(f"Two clips in the shards of {folder} have the name '{names[first]}'. Rename one of them.")
    rows = np.array(order, np.int64)
    arrays = {name: np.array(column, np.int64)[rows] for name, column in columns.items()}
    about = {"version": VERSION, "shards": shard_names, "clips": len(names)}
    write_arrays(folder / INDEX, texts.select(rows).arrays("names") | arrays, about)
    return len(names)


def scan_shards(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is in the shards of a folder, by the archives alone: shards of any maker, for :func:`write_index`.

    A clip has the ``name`` of the JSON file beside it, or its member's. Nothing is extracted.

    Raises:
        UsageError: If there is no shard, or one is no tar archive.
        HostileNameError: If a name leads out of the folder, or a member is neither file nor folder.
    """
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        raise UsageError(f"There is no tar archive in {folder}. Give a folder with shards that end in .tar.")
    for shard in shards:
        try:
            with tarfile.open(shard, "r:") as tar:  # compressed ones have no random access
                yield shard.name, _scan(tar, str(shard))
        except tarfile.TarError as error:
            raise UsageError(f"{shard} is no plain tar archive ({error}). Take it away, or make it again.") from error


def _scan(tar: tarfile.TarFile, where: str) -> dict[str, Any]:
    clips: dict[str, tuple[str, int, int]] = {}
    names: dict[str, str] = {}
    for member in tar:
        member_name = safe_name(member.name, where)
        if member.isdir():
            continue
        if not member.isfile() or member.issparse():
            raise UsageError(f"{where}: '{member_name}' is a link or a device, and only plain files are taken.")
        key, _, ending = member_name.rpartition(".")
        if f".{ending.lower()}" in AUDIO_EXTENSIONS:
            clips[key] = (member_name, member.offset_data, member.size)
        elif ending == "json" and member.size < 2**20:
            stream = tar.extractfile(member)
            assert stream is not None
            try:
                about = json.load(stream)
            except ValueError:
                about = None
            if isinstance(about, dict) and isinstance(name := about.get("name"), str):
                names[key] = safe_name(name, where)
    rows = [(names.get(key, member_name), offset, size) for key, (member_name, offset, size) in clips.items()]
    return {
        "names": [name for name, _, _ in rows],
        "offsets": [offset for _, offset, _ in rows],
        "sizes": [size for _, _, size in rows],
    }
