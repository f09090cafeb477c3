"""Reading a pickle without running anything that it names.

A pickle is a small program: it names importable objects and asks for them to be called. Here nothing is ever imported
or called on its behalf. Tensors become :class:`TensorRecord` (where the numbers are, not yet the numbers), dicts,
lists, strings and numbers become themselves, and every other global becomes an inert :class:`Placeholder`.
"""

import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, NamedTuple, NoReturn

import torch

from sslam.errors import CheckpointError, printable

# Everything that is not a tensor is inert anyway; a file that names one of these was made to do harm and is refused.
REFUSED_MODULES = frozenset(
    {"os", "posix", "nt", "subprocess", "sys", "shutil", "runpy", "importlib", "pty", "socket", "ctypes", "pip"}
    | {"code", "codeop", "pickle", "_pickle", "marshal", "pdb", "bdb", "timeit", "profile", "cProfile", "webbrowser"}
    | {"commands", "popen2", "torch.hub"}
)
REFUSED_BUILTINS = frozenset({"eval", "exec", "execfile", "compile", "__import__", "open", "input", "breakpoint"})

STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Placeholder:
    """Stands for an object of a class that is not read; accepts whatever a pickle does to an object and does nothing.

    Pickle looks for ``__setstate__`` before it would write attributes itself, so nothing is ever set on a placeholder.
    """

    qualified_name = ""

    def __new__(cls, *args: object, **kwargs: object) -> "Placeholder":
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __call__(self, *args: object, **kwargs: object) -> "Placeholder":
        return self

    def __setitem__(self, key: object, value: object) -> None:
        pass

    @staticmethod
    def __setstate__(*args: object) -> None:
        pass

    # Static, because a pickle may also append to the class itself.
    append = extend = add = __setstate__


class PlainDict(dict[Any, Any]):
    """An OrderedDict of the file; its extra attributes (``_metadata`` of a state dict) are dropped."""

    @staticmethod
    def __setstate__(*args: object) -> None:
        pass


@dataclass(frozen=True, slots=True, eq=False)
class StorageType:
    """A storage class named in the file; ``dtype`` is None for one that is not read."""

    name: str
    dtype: torch.dtype | None

    def __setstate__(self, state: object) -> NoReturn:
        raise CheckpointError("The file tries to change a storage class. Do not use it.")


@dataclass(frozen=True, slots=True, eq=False)
class StorageRecord:
    """Where the numbers of one or more tensors are: entry ``key`` of the file, ``num_elements`` of ``storage_type``."""

    storage_type: StorageType
    key: str
    num_elements: int

    def __setstate__(self, state: object) -> NoReturn:
        raise CheckpointError("The file tries to change a storage after making it. Do not use it.")


@dataclass(frozen=True, slots=True, eq=False)
class TensorRecord:
    """A strided view of a storage, as the file describes it; the types are checked, the bounds are not yet."""

    storage: StorageRecord
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __setstate__(self, state: object) -> None:
        pass  # attributes of a tensor subclass


@dataclass(frozen=True, slots=True)
class Rebuild:
    """Takes the place of torch's rebuild function of the same name; slots, so that a file cannot alter it."""

    function: Callable[..., TensorRecord]

    def __call__(self, *args: object) -> TensorRecord:
        return self.function(*args)

    def __setstate__(self, state: object) -> NoReturn:
        raise CheckpointError("The file tries to change a function. Do not use it.")


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _tensor(storage: object, offset: Any, shape: Any, stride: Any, *rest: object) -> TensorRecord:
    sizes_are_numbers = (
        _is_size(offset)
        and isinstance(shape, tuple)
        and isinstance(stride, tuple)
        and len(shape) == len(stride)
        and all(map(_is_size, shape + stride))
    )
    if not isinstance(storage, StorageRecord) or not sizes_are_numbers:
        raise CheckpointError(
            f"A tensor with offset {printable(offset)}, shape {printable(shape)} and stride {printable(stride)} cannot "
            "exist. The file is damaged or was tampered with; download it again."
        )
    return TensorRecord(storage, offset, shape, stride)


def _parameter(data: object, *rest: object) -> TensorRecord:
    if not isinstance(data, TensorRecord):
        raise CheckpointError("A parameter of the file holds no tensor. The file is damaged; download it again.")
    return data


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler to which a file can name anything and from which it gets nothing that does anything.

    Attributes:
        skipped_names: Qualified names of the classes and functions that were replaced by placeholders.
        storages: The storages that were referred to, by their key.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream)
        self.storages: dict[str, StorageRecord] = {}
        self.skipped_names: set[str] = set()
        self._globals: dict[tuple[str, str], object] = {
            ("collections", "OrderedDict"): PlainDict,
            ("torch._utils", "_rebuild_tensor"): Rebuild(_tensor),
            ("torch._utils", "_rebuild_tensor_v2"): Rebuild(_tensor),
            ("torch._utils", "_rebuild_parameter"): Rebuild(_parameter),
        }

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in self._globals:
            self._globals[module, name] = self._stand_in(module, name)
        return self._globals[module, name]

    def _stand_in(self, module: str, name: str) -> object:
        qualified_name = f"{module}.{name}"
        parents = {module, module.split(".")[0], ".".join(module.split(".")[:2])}
        is_builtin = module in ("builtins", "__builtin__")
        if parents & REFUSED_MODULES or (is_builtin and name.split(".")[0] in REFUSED_BUILTINS):
            raise CheckpointError(
                f"The file asks to run {printable(qualified_name)}, which no checkpoint needs. Nothing was run; "
                "do not use this file and tell whoever gave it to you."
            )
        if module in ("torch", "torch.storage") and name.endswith("Storage"):
            return StorageType(name, STORAGE_DTYPES.get(name))
        self.skipped_names.add(qualified_name)
        # Always the same class name: the file's own could be anything.
        return type("Placeholder", (Placeholder,), {"qualified_name": qualified_name})

    def persistent_load(self, pid: Any, /) -> StorageRecord:
        # Zip files: (storage, type, key, location, elements); the older format adds a view, which later ones never use.
        match pid:
            case ("storage", StorageType() as storage_type, str(key), str(), int(num_elements), *view) if _is_size(
                num_elements
            ) and all(entry is None for entry in view):
                storage = StorageRecord(storage_type, key, num_elements)
                self.storages[key] = storage
                return storage
        raise CheckpointError(
            f"The file refers to {printable(pid)}, which is not a tensor's storage. It is damaged or was not written "
            "by torch.save."
        )


def _check_memo(stream: IO[bytes]) -> None:
    """Refuse a pickle that numbers an object higher than it could: the C unpickler would reserve that much memory."""
    for position, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > position:
            raise CheckpointError(
                f"Object number {argument} in a pickle of {position} steps is absurd: not a checkpoint."
            )


class Pickled(NamedTuple):
    """What a pickle held."""

    value: Any
    skipped_names: set[str]
    storages: dict[str, StorageRecord]


def load_pickle(stream: IO[bytes]) -> Pickled:
    """The next pickle of a seekable stream, with tensors as :class:`TensorRecord`.

    Raises:
        CheckpointError: If the pickle is damaged or names a function that executes code.
    """
    try:
        start = stream.tell()
        _check_memo(stream)
        stream.seek(start)
        unpickler = RestrictedUnpickler(stream)
        return Pickled(unpickler.load(), unpickler.skipped_names, unpickler.storages)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise CheckpointError(
            f"The file cannot be read as a checkpoint ({type(error).__name__}: {printable(str(error))}). It is "
            "truncated, damaged or something else; download it again or check its name."
        ) from error
