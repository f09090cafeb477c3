"""The tensors of a checkpoint file of any kind, under the file's own names and not yet read."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from sslam.checkpoints import published
from sslam.checkpoints.published import Shape
from sslam.checkpoints.restricted_pickle import Placeholder, TensorRecord
from sslam.checkpoints.tensorflow_bundle import is_bundle
from sslam.checkpoints.torch_file import TorchFile
from sslam.errors import CheckpointError, printable

METADATA_KEY = "sslam"
SEPARATOR = "separator."  # in front of the names of its tensors, in our files and in a run's checkpoints
FRONTEND_ARGUMENTS: dict[str, tuple[type, ...]] = {
    "num_frames": (int,),
    "num_mel_bins": (int,),
    "mean": (int, float),
    "std": (int, float),
    "sample_rate": (int,),
}
# What LogMel has besides, and by which it is known.
LOG_MEL_ARGUMENTS: dict[str, tuple[type, ...]] = dict.fromkeys(
    ("low_frequency", "high_frequency", "log_offset"), (int, float)
)
HEAD = ("pooling", "activation")


@dataclass(frozen=True)
class Stated:
    """What a file says of its networks, as far as it is of the right types; nothing is checked further.

    Attributes:
        encoder: ``num_heads``, ``num_mel_bins``.
        frontend: Arguments of :class:`~sslam.frontends.KaldiFbank` or of :class:`~sslam.frontends.LogMel`, which has
            more: all of them, or none.
        head: ``pooling`` and ``activation`` of a classifier.
        class_names: Of a classifier.
        separator: Arguments of a :class:`~sslam.networks.TDCN`, whole numbers and texts.
        global_step: Steps of the run, or None.
    """

    encoder: dict[str, int] = field(default_factory=dict)
    frontend: dict[str, int | float] = field(default_factory=dict)
    head: dict[str, str] = field(default_factory=dict)
    class_names: list[str] = field(default_factory=list)
    separator: dict[str, int | str] = field(default_factory=dict)
    global_step: int | None = None

    @classmethod
    def of(cls, architecture: object, class_names: object, global_step: object) -> "Stated":
        """From ``encoder``, ``frontend``, ``head`` and ``separator`` of a file, its class names and step."""
        parts = {name: _entry(architecture, name) for name in ("encoder", "frontend", "head", "separator")}
        frontend = {
            name: parts["frontend"][name]
            for name, types in (FRONTEND_ARGUMENTS | LOG_MEL_ARGUMENTS).items()
            if type(parts["frontend"].get(name)) in types
        }
        is_whole = frontend.keys() in (FRONTEND_ARGUMENTS.keys(), (FRONTEND_ARGUMENTS | LOG_MEL_ARGUMENTS).keys())
        names = class_names if isinstance(class_names, list) else []
        return cls(
            encoder=_plain_integers(parts["encoder"]),
            frontend=frontend if is_whole else {},
            head={name: value for name, value in parts["head"].items() if name in HEAD and type(value) is str},
            class_names=names if all(type(name) is str for name in names) else [],
            separator={
                name: value
                for name, value in parts["separator"].items()
                if type(name) is str and type(value) in (int, str)
            },
            global_step=global_step if type(global_step) is int and 0 <= global_step < 2**63 else None,
        )


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        shapes: Names of the tensors and their shapes; ``_ema.`` stands before a published teacher's.
        read: Reads the tensor of a name, float32; only while the file is open.
        stated: What the file says of the networks in plain values.
        source_sha256: Of the file that it was converted from, or "".
        skipped: What else the file holds, in words.
    """

    shapes: dict[str, Shape]
    read: Callable[[str], Tensor]
    stated: Stated = field(default_factory=Stated)
    source_sha256: str = ""
    skipped: list[str] = field(default_factory=list)


def list_problems(
    shapes: Mapping[str, Shape], expected: Mapping[str, Shape], unknown: list[str], show: Callable[[str], str] = str
) -> str:
    """Lists of what is missing, of another shape and unknown; "" where nothing is.

    Args:
        shapes: Of the file, by our names.
        expected: Of the networks, by our names.
        unknown: Names to be listed as such.
        show: The name for the message of one of ours.
    """
    missing = [show(name) for name in expected if name not in shapes]
    misshapen = [
        f"{show(name)} {shapes[name]}, expected {shape}"
        for name, shape in expected.items()
        if shapes.get(name, shape) != shape
    ]
    problems = {"missing": missing, "of another shape": misshapen, "unknown": unknown}
    return "\n".join(
        f"{len(names)} {title}:\n  " + "\n  ".join(map(printable, names)) for title, names in problems.items() if names
    )


@contextmanager
def open_contents(path: Path) -> Iterator[Contents]:
    """Open a file of ``sslam convert``, a checkpoint of a run, or a published file.

    Raises:
        CheckpointError: If there is no such file, or it is damaged, unsafe or something else.
    """
    if is_bundle(path):
        raise CheckpointError(
            f"{path} is a TensorFlow checkpoint. Make a .safetensors file of it with sslam convert, and give that."
        )
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}. Give the path of a checkpoint.")
    with path.open("rb") as stream:
        start = stream.read(9)
    if not start:
        raise CheckpointError(f"{path} is empty. Download it again.")
    # A safetensors file begins with the length of its JSON header.
    if start[8:] == b"{":
        yield _contents_of_safetensors(path)
    else:
        with TorchFile(path) as file:
            yield _contents_of_torch_file(file)


def _contents_of_safetensors(path: Path) -> Contents:
    try:
        file = safe_open(path, framework="pt")
        header = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        stated = Stated.of(header.get("hyper_parameters"), header.get("class_names"), header.get("global_step"))
        source_sha256 = str(header.get("source_sha256", ""))
    except (SafetensorError, json.JSONDecodeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged ({printable(str(error))}). Convert or download it again.") from error
    return Contents(shapes, lambda name: file.get_tensor(name).float(), stated, source_sha256)


def _contents_of_torch_file(file: TorchFile) -> Contents:
    container, state = _state_dict(file.root)
    # The teacher of a published file is a state dict within the state dict.
    nested = state.get(published.EMA)
    flat = {name: value for name, value in state.items() if not (name == published.EMA and isinstance(nested, dict))}
    if isinstance(nested, dict):
        flat |= {f"{published.EMA}.{name}": value for name, value in nested.items()}
    records = {name: value for name, value in flat.items() if isinstance(name, str) and isinstance(value, TensorRecord)}
    others = [f"{printable(name)} ({_kind(value)})" for name, value in flat.items() if name not in records]
    if others:
        raise CheckpointError(
            "The state dict must hold tensors only; give a checkpoint of EAT, SSLAM or this project. Not tensors:\n  "
            + "\n  ".join(others)
        )
    read = (container, "architecture", "class_names", "global_step")
    skipped = [f"entry {printable(name)}" for name in file.root if name not in read] if container else []
    skipped += [f"class {printable(name)} (not run)" for name in sorted(file.skipped_names)]
    return Contents(
        shapes={name: record.shape for name, record in records.items()},
        read=lambda name: file.read(name, records[name]),
        stated=_stated(file.root),
        skipped=skipped,
    )


def _kind(value: object) -> str:
    return printable(value.qualified_name) if isinstance(value, Placeholder) else type(value).__name__


def _state_dict(root: object) -> tuple[str | None, dict[Any, Any]]:
    """The entry of the file that holds the weights, and the weights: published, of a run, or a bare state dict."""
    if isinstance(root, dict):
        for entry in ("model", "state_dict"):
            if isinstance(root.get(entry), dict):
                return entry, root[entry]
        if any(isinstance(value, TensorRecord) for value in root.values()):
            return None, root
        held = ", ".join(f"{printable(name)} ({_kind(value)})" for name, value in list(root.items())[:20]) or "nothing"
    else:
        held = f"a {_kind(root)}"
    raise CheckpointError(
        f"The file holds no state dict under 'model' or 'state_dict' (it holds {held}). Give a checkpoint of EAT, "
        "SSLAM or this project."
    )


def _stated(root: object) -> Stated:
    """What the checkpoint of a run states, or else what a published file does."""
    stated = Stated.of(
        _entry(root, "architecture"),
        _entry(root, "class_names", list),
        root.get("global_step") if isinstance(root, dict) else None,
    )
    if stated.encoder or stated.separator:
        return stated
    return replace(stated, encoder=_plain_integers(_entry(_entry(root, "cfg"), "model")))


def _entry(values: object, name: str, kind: type = dict) -> Any:
    """An entry of a mapping, or an empty ``kind`` where there is none of that type."""
    value = values.get(name) if isinstance(values, dict) else None
    return value if isinstance(value, kind) else kind()


def _plain_integers(arguments: dict[Any, Any]) -> dict[str, int]:
    return {name: arguments[name] for name in ("num_heads", "num_mel_bins") if type(arguments.get(name)) is int}
