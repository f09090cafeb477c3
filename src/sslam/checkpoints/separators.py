"""Reading separators: of a MixIT run, of a file that ``sslam convert`` wrote, or of a published TensorFlow checkpoint.

Nothing that a file says is executed, whatever its kind.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslam.checkpoints.contents import SEPARATOR, list_problems, open_contents
from sslam.checkpoints.published import Shape
from sslam.checkpoints.tensorflow_bundle import read_bundle
from sslam.checkpoints.tensorflow_names import our_separator_name, published_separator_name, separator_state
from sslam.errors import CheckpointError, printable
from sslam.networks.tdcn import TDCN, Separator

SAMPLE_RATES = {40: 16_000, 55: 22_050}  # of the published models, by their window in samples
MAX_SIZE = 2**20
MAX_DILATION_CYCLE = 32


@dataclass(frozen=True)
class SeparatorCheckpoint:
    """Checked weights of a separator under our names, float32.

    Attributes:
        architecture: Keyword arguments of :class:`~sslam.networks.TDCN`.
        tensors: Its state dict.
        global_step: Training steps, or None where the file does not tell.
        source_sha256: Of the file that ``sslam convert`` made this one from; empty for any other file.
        skipped: What the file holds besides, in words.
    """

    architecture: dict[str, Any]
    tensors: dict[str, Tensor]
    global_step: int | None = None
    source_sha256: str = ""
    skipped: list[str] = field(default_factory=list)

    def build(self) -> TDCN:
        """The separator in training mode, on the CPU, with these very tensors."""
        # Without memory and random numbers for weights that are replaced at once.
        with torch.device("meta"):
            separator = TDCN(**self.architecture)
        separator.load_state_dict(self.tensors, assign=True)
        return separator


def load_separator(path: str | Path) -> Separator:
    """The separator of a checkpoint, ready for use.

    Args:
        path: A checkpoint of a MixIT run (``.ckpt``), or a ``.safetensors`` file that ``sslam convert`` made of one or
            of a published TensorFlow checkpoint.

    Returns:
        The separator in evaluation mode, on the CPU, float32.

    Raises:
        CheckpointError: If there is no such file, it is damaged, unsafe or no separator's, or tensors are missing,
            unknown or of another shape.
    """
    return read_separator(path).build().eval()


def holds_separator(path: str | Path) -> bool:
    """Whether :func:`read_separator` is for this file, which must be one of the kinds that we read.

    Raises:
        CheckpointError: If there is no such file, or it is damaged, unsafe or something else.
    """
    with open_contents(Path(path)) as contents:
        return any(name.startswith(SEPARATOR) for name in contents.shapes)


def read_separator(path: str | Path) -> SeparatorCheckpoint:
    """Read and check the separator of a MixIT run, or of a file of ``sslam convert``.

    Raises:
        CheckpointError: See :func:`load_separator`.
    """
    path = Path(path)
    with _naming(path), open_contents(path) as contents:
        names = [name for name in contents.shapes if name.startswith(SEPARATOR)]
        if not names:
            raise CheckpointError(
                f"{path} holds no separator: none of its tensors is named separator.*. Give a checkpoint of a MixIT "
                "run, or a file that sslam convert made of one or of a published separator."
            )
        tensors = {name.removeprefix(SEPARATOR): contents.read(name) for name in names}
        others = sorted(name for name in contents.shapes if not name.startswith(SEPARATOR))
        _check(tensors, contents.stated.separator, "Give a checkpoint that was not altered.")
        return SeparatorCheckpoint(
            architecture=contents.stated.separator,
            tensors=tensors,
            global_step=contents.stated.global_step,
            source_sha256=contents.source_sha256,
            skipped=[*others, *contents.skipped],
        )


def read_published_separator(
    path: str | Path, consistency: str | None = None, dilation_cycle: int = 8
) -> SeparatorCheckpoint:
    """Read and check the separator of a TensorFlow checkpoint of the authors' code.

    Args:
        path: What the names of its files begin with, or one of the files.
        consistency: Of the model, "magsq", "uniform" or "none"; where it has weights for shares it is "pred_source"
            and may be left out.
        dilation_cycle: Of the model, which its variables do not tell: 1 to 32; published ones have 8.

    Raises:
        CheckpointError: If the bundle cannot be read, holds something else, or the consistency is not known.
    """
    if not 1 <= dilation_cycle <= MAX_DILATION_CYCLE:
        raise CheckpointError(
            f"The dilation cycle must be between 1 and {MAX_DILATION_CYCLE}, got {dilation_cycle}. Give dilation_cycle."
        )
    with _naming(path):
        variables = read_bundle(path)
        tensors = separator_state(variables)
        sizes = _sizes(_shapes(tensors), _show_published)
        window = tensors["encoder.weight"].shape[1]
        if window not in SAMPLE_RATES:
            known = ", ".join(f"{samples} ({rate} Hz)" for samples, rate in SAMPLE_RATES.items())
            raise CheckpointError(
                f"The window of {path} has {window} samples, which is of no published sample rate: {known}. Give a "
                "checkpoint of the published MixIT separation models."
            )
        architecture = {
            **sizes,
            "sample_rate": SAMPLE_RATES[window],
            "consistency": _consistency("shares.weight" in tensors, consistency),
            "dilation_cycle": dilation_cycle,
        }
        _check(tensors, architecture, "Give a whole checkpoint of the published MixIT models.", _show_published)
        training = [name for name in variables if our_separator_name(name) is None]
        step = variables.get("global_step", torch.empty(0))
        return SeparatorCheckpoint(
            architecture=architecture,
            tensors={name: tensor.float() for name, tensor in tensors.items()},
            global_step=int(step) if step.numel() == 1 and not step.is_floating_point() else None,
            skipped=[f"{len(training)} variables of the training, such as {training[0]}"] if training else [],
        )


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Puts the file in front of messages that do not name it."""
    try:
        yield
    except CheckpointError as error:
        if str(path) in str(error):
            raise
        raise CheckpointError(f"{path}: {error}") from error


def _show_published(ours: str) -> str:
    return f"{published_separator_name(ours)} (ours: {ours})"


def _consistency(has_shares: bool, given: str | None) -> str:
    if has_shares:
        if given not in (None, "pred_source"):
            raise CheckpointError(
                f"The checkpoint has weights for shares (mix_weights), so its consistency is pred_source, not {given}. "
                "Leave consistency out."
            )
        return "pred_source"
    if given not in ("magsq", "uniform", "none"):
        raise CheckpointError(
            "The checkpoint has no weights for shares (mix_weights), so the estimates are made consistent in another "
            f"way: magsq, uniform or none, got {given}. Give consistency."
        )
    return given


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _sizes(shapes: Mapping[str, Shape], show: Callable[[str], str]) -> dict[str, int]:
    """What the tensors tell of the arguments of a TDCN."""
    telling = {}
    for name in ("encoder.weight", "bottleneck.weight", "blocks.0.dense1.weight", "mask.weight"):
        shape = shapes.get(name)
        if shape is None:
            raise CheckpointError(f"The file has no {show(name)}. Give a whole checkpoint of a separator.")
        # Bounded, so that a made-up shape asks for no memory.
        if len(shape) != 2 or not all(1 <= size <= MAX_SIZE for size in shape):
            raise CheckpointError(
                f"{show(name)} has the shape {printable(shape)}; it must have 2 axes of 1 to {MAX_SIZE}. Give a "
                "checkpoint of a separator."
            )
        telling[name] = shape[0]
    num_basis = telling["encoder.weight"]
    return {
        "num_sources": telling["mask.weight"] // num_basis,
        "num_basis": num_basis,
        "width": telling["bottleneck.weight"],
        "hidden_width": telling["blocks.0.dense1.weight"],
        # No more than there are names, so that a made-up block number cannot ask for a billion missing tensors.
        "num_blocks": len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
    }


def _check(
    tensors: Mapping[str, Tensor], architecture: Mapping[str, Any], remedy: str, show: Callable[[str], str] = str
) -> None:
    """Check that a TDCN of these arguments has these very tensors."""
    shapes = _shapes(tensors)
    sizes = _sizes(shapes, show)
    arguments = {*sizes, "sample_rate", "consistency", "dilation_cycle"}
    if architecture.keys() != arguments:
        different = sorted(architecture.keys() ^ arguments)
        raise CheckpointError(
            f"The file must state the arguments {', '.join(sorted(arguments))} of its separator, and differs in "
            f"{printable(', '.join(different))}. {remedy}"
        )
    for name, size in sizes.items():
        if architecture[name] != size:
            raise CheckpointError(
                f"The file states a separator with {name} = {printable(architecture[name])}, and its tensors are of "
                f"one with {size}. {remedy}"
            )
    bounds = {"sample_rate": (1600, 768_000), "dilation_cycle": (1, MAX_DILATION_CYCLE)}
    for name, (low, high) in bounds.items():
        value = architecture[name]
        if type(value) is not int or not low <= value <= high:
            raise CheckpointError(
                f"{name} must be a whole number between {low} and {high}, got {printable(value)}. {remedy}"
            )
    try:
        with torch.device("meta"):
            expected = TDCN(**architecture).state_dict()
    except ValueError as error:
        raise CheckpointError(f"{printable(str(error))} {remedy}") from error
    unknown = [show(name) for name in shapes if name not in expected]
    if problems := list_problems(shapes, _shapes(expected), unknown, show):
        raise CheckpointError(f"The file's tensors are not those of its separator. {remedy}\n{problems}")
