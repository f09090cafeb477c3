"""The tensors of a checkpoint file of any kind, under the file's own names and not yet read."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from sslam.checkpoints import published
from sslam.checkpoints.published import Shape
from sslam.checkpoints.restricted_pickle import CheckpointError, Placeholder, TensorRecord, printable
from sslam.checkpoints.torch_file import TorchFile

METADATA_KEY = "sslam"


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        shapes: Names of the tensors and their shapes; ``_ema.`` stands before a published teacher's.
        read: Reads the tensor of a name, float32; only while the file is open.
        stated: Encoder arguments (``num_heads``, ``num_mel_bins``) that the file states.
        source_sha256: Of the file that it was converted from, or "".
        skipped: What else the file holds, in words.
    """

    shapes: dict[str, Shape]
    read: Callable[[str], Tensor]
    stated: dict[str, int] = field(default_factory=dict)
    source_sha256: str = ""
    skipped: list[str] = field(default_factory=list)


@contextmanager
def open_contents(path: Path) -> Iterator[Contents]:
    """Open a file of ``sslam convert``, a checkpoint of a run, or a published file.

    Raises:
        CheckpointError: If there is no such file, or it is damaged, unsafe or something else.
    """
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
        stated = _plain_integers(header.get("hyper_parameters", {}).get("encoder"))
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
    skipped = [f"entry {printable(name)}" for name in file.root if name != container] if container else []
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


def _stated(root: Mapping[Any, Any]) -> dict[str, int]:
    """Encoder arguments that the file states in plain values: of a published file, or of a run's checkpoint."""
    for path in (("cfg", "model"), ("architecture", "encoder")):
        value: Any = root
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, dict):
            return _plain_integers(value)
    return {}


def _plain_integers(arguments: object) -> dict[str, int]:
    values = arguments if isinstance(arguments, dict) else {}
    return {name: values[name] for name in ("num_heads", "num_mel_bins") if type(values.get(name)) is int}
