"""Files written by ``torch.save``, in today's zip format and in the one before torch 1.6, read without execution.

They are read by torch's weights-only unpickler, which looks names up in a list and imports nothing. Where a published
file names a class that is not on the list, an inert placeholder is: what the file says of it is passed over.
"""

import zipfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, _weights_only_unpickler
from torch.serialization import get_unsafe_globals_in_checkpoint

from sslam.errors import CheckpointError, printable

ZIP_START = b"PK\x03\x04"
LEGACY_PICKLES = 4  # in the format before torch 1.6: magic number, version, system, and what was saved
MOST_OFTEN = 4  # as often all bytes of a file may be claimed; modules that share weights do so twice

# Everything that is not a tensor is inert anyway; a file that names one of these was made to do harm and is refused.
REFUSED_MODULES = frozenset(
    {"os", "posix", "nt", "subprocess", "sys", "shutil", "runpy", "importlib", "pty", "socket", "ctypes", "pip"}
    | {"code", "codeop", "pickle", "_pickle", "marshal", "pdb", "bdb", "timeit", "profile", "cProfile", "webbrowser"}
    | {"commands", "popen2", "torch.hub"}
    | {f"builtins.{name}" for name in ("eval", "exec", "execfile", "compile", "__import__", "open", "input")}
    | {"builtins.breakpoint"}
)


class Placeholder:
    """Stands for an object of a class that is not read; takes what the unpickler does to an object and does nothing."""

    qualified_name = ""

    def __new__(cls, *args: object, **kwargs: object) -> "Placeholder":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


def read_torch_file(path: Path) -> tuple[Any, list[str]]:
    """What was saved, its tensors mapped rather than read, and the classes that the file names and that are not read.

    Objects of these classes are :class:`Placeholder`. Of tensors nothing is checked yet, see :func:`checked_tensors`.

    Raises:
        CheckpointError: If the file is damaged, unsafe or no such file.
    """
    with path.open("rb") as stream:
        is_zip = stream.read(len(ZIP_START)) == ZIP_START
    stored = _entry_sizes(path) if is_zip else Counter()
    mapped: Counter[int] = Counter()

    def keep_size(storage: Any, location: str) -> Any:
        mapped[storage.nbytes()] += 1
        return storage

    try:
        names = sorted(get_unsafe_globals_in_checkpoint(path) if is_zip else _unsafe_globals_before_torch_1_6(path))
        _refuse_code(names)
        placeholders: list[Any] = [
            # Always the same class name: the file's own could be anything.
            (type("Placeholder", (Placeholder,), {"qualified_name": name}), name)
            for name in names
        ]
        with torch.serialization.safe_globals(placeholders):
            root = torch.load(path, map_location=keep_size, weights_only=True, mmap=is_zip)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        raise CheckpointError(
            f"The file cannot be read as a checkpoint ({type(error).__name__}: {printable(reason)}). It is truncated, "
            "damaged or something else, or was not written by torch.save as it is by default; download it again or "
            "check its name."
        ) from error

    # Of the older format torch checks this itself.
    if is_zip and any(num_bytes and mapped[num_bytes] > stored[num_bytes] for num_bytes in mapped):
        raise CheckpointError(
            "A storage of the file claims other bytes than its entry in the archive has. The file is damaged or was "
            "tampered with; download it again."
        )
    return root, names


def _entry_sizes(path: Path) -> Counter[int]:
    """How many entries of an archive have how many bytes, where they are as torch.save writes them.

    Raises:
        CheckpointError: If the archive is damaged, or its entries would unpack to more than the file has.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise CheckpointError(
            f"The file starts like a checkpoint but its end is missing or damaged ({printable(str(error))}). "
            "Download it again."
        ) from error
    for member in members:
        parts = member.filename.replace("\\", "/").split("/")
        # Nothing is ever unpacked to disk; such names still tell that the file was not written by torch.save.
        if ".." in parts or parts[0] == "" or ":" in parts[0]:
            raise CheckpointError(
                f"The archive entry {printable(member.filename)} points outside the archive. Nothing was unpacked; "
                "do not use this file."
            )
        stored = member.compress_type == zipfile.ZIP_STORED and member.file_size == member.compress_size
        if not stored or member.file_size > size:
            raise CheckpointError(
                f"The archive entry {printable(member.filename)} claims {member.file_size} bytes; torch.save stores "
                f"entries uncompressed and the file has {size}. Do not use it."
            )
    if len({member.filename for member in members}) != len(members):
        raise CheckpointError("The archive holds two entries of one name. torch.save never does; do not use it.")
    _check_sums(path)
    return Counter(member.file_size for member in members)


def _check_sums(path: Path) -> None:
    """Refuse an archive with a changed byte: torch maps the numbers without looking at their checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise CheckpointError(f"The archive is damaged ({printable(str(error))}). Download it again.") from error
    if damaged is not None:
        raise CheckpointError(f"The archive entry {printable(damaged)} is damaged. Download the file again.")


def _unsafe_globals_before_torch_1_6(path: Path) -> set[str]:
    """As torch's function of the zip format has them."""
    names: set[str] = set()
    # The file ends early where torch.save has not written it, which torch then refuses.
    with path.open("rb") as stream, suppress(EOFError):
        for _ in range(LEGACY_PICKLES):
            names |= _weights_only_unpickler.get_globals_in_pkl(stream)
    return names - _weights_only_unpickler._get_allowed_globals().keys()


def _refuse_code(names: list[str]) -> None:
    for name in names:
        parts = name.split(".")
        if any(".".join(parts[:end]) in REFUSED_MODULES for end in range(1, len(parts) + 1)):
            raise CheckpointError(
                f"The file asks to run {printable(name)}, which no checkpoint needs. Nothing was run; do not use this "
                "file and tell whoever gave it to you."
            )


def checked_tensors(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of a file without what else they may carry.

    Raises:
        CheckpointError: If one is of a special kind, or they claim more numbers than the file holds.
    """
    tensors = {name: Tensor.detach(tensor) for name, tensor in state.items()}
    for name, tensor in tensors.items():
        if type(tensor) is not Tensor or tensor.layout != torch.strided or tensor.is_quantized or not tensor.is_cpu:
            raise CheckpointError(f"The tensor {printable(name)} is of a special kind. Give a file of plain tensors.")
        # A view that repeats numbers could claim any amount of memory.
        num_elements = tensor.untyped_storage().nbytes() // tensor.itemsize
        if tensor.numel() > num_elements:
            raise CheckpointError(
                f"The tensor {printable(name)} of shape {tuple(tensor.shape)} lies outside its storage of "
                f"{num_elements} elements. The file is damaged or was tampered with; download it again."
            )
    claimed, size = sum(tensor.nbytes for tensor in tensors.values()), path.stat().st_size
    if claimed > MOST_OFTEN * size:
        raise CheckpointError(
            f"The tensors claim {claimed} bytes, and the file has {size}. It is damaged or was tampered with; download "
            "it again."
        )
    return tensors
