"""What a checkpoint file of any kind holds: tensors under the file's own names, and what it states in plain values."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from sslam.checkpoints import hub_layout, published
from sslam.checkpoints.tensorflow_bundle import is_bundle
from sslam.checkpoints.torch_file import Placeholder, checked_tensors, read_torch_file
from sslam.errors import CheckpointError, printable

METADATA_KEY = "sslam"


@dataclass(frozen=True)
class Contents:
    """What a file holds; nothing of what it states is checked but the types.

    Attributes:
        tensors: By their names in the file, mapped rather than read; ``_ema.`` stands before a published teacher's.
        architecture: What the file states of its networks, see :mod:`sslam.checkpoints.architecture`.
        class_names: Names of a classifier's classes.
        global_step: Steps of the run, or None.
        source_sha256: SHA-256 of the file that it was converted from, or "".
        skipped: What else the file holds, in words.
        hub_config: Entries of the ``config.json`` beside a file in the Hub's layout; empty for any other.
    """

    tensors: dict[str, Tensor]
    architecture: dict[str, Any] = field(default_factory=dict)
    class_names: list[str] = field(default_factory=list)
    global_step: int | None = None
    source_sha256: str = ""
    skipped: list[str] = field(default_factory=list)
    hub_config: dict[str, Any] = field(default_factory=dict)


def read_contents(path: Path) -> Contents:
    """Read a file of ``sslam convert``, a checkpoint of a run, or a published file.

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
    contents = _of_safetensors(path) if start[8:] == b"{" else _of_torch_file(path)
    if hub_layout.is_hub_layout(contents.tensors):
        contents = replace(contents, hub_config=hub_layout.read_config(path.parent))
    return contents


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Puts the file in front of messages that do not name it."""
    try:
        yield
    except CheckpointError as error:
        if str(path) in str(error):
            raise
        raise CheckpointError(f"{path}: {error}") from error


def list_problems(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], unknown: list[str], names: Mapping[str, str]
) -> str:
    """Lists of what is missing, of another shape and unknown; "" where nothing is.

    Args:
        tensors: Those of the file, by our names.
        expected: Those of the networks, likewise, of which only the shapes count.
        unknown: Names to be listed as such.
        names: What messages call our names; those that are not in it go by themselves.
    """
    missing = [names.get(name, name) for name in expected if name not in tensors]
    misshapen = [
        f"{names.get(name, name)} {tuple(tensors[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    problems = {"missing": missing, "of another shape": misshapen, "unknown": unknown}
    return "\n".join(
        f"{len(names)} {title}:\n  " + "\n  ".join(map(printable, names)) for title, names in problems.items() if names
    )


def as_weights(name: str, tensor: Tensor, expected: Tensor) -> Tensor:
    """A tensor of the file in float32, or as it is where the network has whole numbers in its place.

    Raises:
        CheckpointError: If there are whole numbers where weights should be, or weights are NaN or infinite.
    """
    if expected.is_floating_point() and not tensor.is_floating_point():
        raise CheckpointError(
            f"The tensor {printable(name)} is {tensor.dtype}; weights must be floating-point. Give a checkpoint of "
            "EAT, SSLAM or this project."
        )
    require_finite({name: tensor})
    return tensor.float().contiguous() if expected.is_floating_point() else tensor.contiguous()


def require_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raises a CheckpointError if weights are NaN or infinite, which everything that is computed with them would be."""
    bad = [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        more = f" and {len(bad) - 1} more tensors" if len(bad) > 1 else ""
        raise CheckpointError(
            f"The weights {printable(bad[0])}{more} are NaN or infinite, so the file is of no use. Give an earlier "
            "checkpoint of the run."
        )


def _of_safetensors(path: Path) -> Contents:
    try:
        file = safe_open(path, framework="pt")
        header = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
        return Contents(
            tensors={name: file.get_tensor(name) for name in file.keys()},  # noqa: SIM118
            architecture=_entry(header, "architecture") or _entry(header, "hyper_parameters"),  # of format 1
            class_names=_texts(header.get("class_names")),
            global_step=_step(header.get("global_step")),
            source_sha256=str(header.get("source_sha256", "")),
        )
    except (SafetensorError, json.JSONDecodeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged ({printable(str(error))}). Convert or download it again.") from error


def _of_torch_file(path: Path) -> Contents:
    root, skipped_names = read_torch_file(path)
    container, state = _state_dict(root)
    # The teacher of a published file is a state dict within the state dict.
    nested = state.pop(published.EMA, {})
    if isinstance(nested, dict):
        state |= {f"{published.EMA}.{name}": value for name, value in dict.items(nested)}
    else:
        state[published.EMA] = nested
    others = [
        f"{printable(name)} ({_kind(value)})"
        for name, value in state.items()
        if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if others:
        raise CheckpointError(
            "The state dict must hold tensors only; give a checkpoint of EAT, SSLAM or this project. Not tensors:\n  "
            + "\n  ".join(others)
        )
    entries = dict(dict.items(root)) if container else {}
    read = (container, "architecture", "class_names", "global_step")
    try:
        architecture = json.loads(json.dumps(_entry(entries, "architecture")))
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"The file's entry 'architecture' holds more than plain values ({printable(str(error))}). Give a "
            "checkpoint that was not altered."
        ) from error
    return Contents(
        tensors=checked_tensors(state, path),
        # A published file has its own way to state the number of heads.
        architecture=architecture or {"encoder": _entry(_entry(entries, "cfg"), "model")},
        class_names=_texts(entries.get("class_names")),
        global_step=_step(entries.get("global_step")),
        skipped=[
            *(f"entry {printable(name)}" for name in entries if name not in read),
            *(f"class {printable(name)} (not run)" for name in skipped_names),
        ],
    )


def _state_dict(root: object) -> tuple[str | None, dict[Any, Any]]:
    """The entry of the file that holds the weights, and the weights: published, of a run, or a bare state dict."""
    if isinstance(root, dict):
        # What a file says of an OrderedDict may hide its methods.
        entries = dict(dict.items(root))
        for entry in ("model", "state_dict"):
            if isinstance(entries.get(entry), dict):
                return entry, dict(dict.items(entries[entry]))
        if any(isinstance(value, Tensor) for value in entries.values()):
            return None, entries
        held = ", ".join(f"{printable(name)} ({_kind(value)})" for name, value in list(entries.items())[:20])
        held = held or "nothing"
    else:
        held = f"a {_kind(root)}"
    raise CheckpointError(
        f"The file holds no state dict under 'model' or 'state_dict' (it holds {held}). Give a checkpoint of EAT, "
        "SSLAM or this project."
    )


def _kind(value: object) -> str:
    return printable(value.qualified_name) if isinstance(value, Placeholder) else type(value).__name__


def _entry(values: object, name: str) -> dict[str, Any]:
    """A mapping that is an entry of a mapping; an empty one where there is none."""
    entry = dict(dict.items(values)).get(name) if isinstance(values, dict) else None
    return dict(dict.items(entry)) if isinstance(entry, dict) else {}


def _texts(values: object) -> list[str]:
    return values if isinstance(values, list) and all(type(value) is str for value in values) else []


def _step(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 2**63 else None
