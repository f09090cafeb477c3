"""Reading separators: of a MixIT run, of a file that ``sslam convert`` wrote, or of a published TensorFlow checkpoint.

Nothing that a file says is executed, whatever its kind.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslam.checkpoints.architecture import Network, UserClasses, is_stated, read_networks
from sslam.checkpoints.contents import as_weights, list_problems, naming, read_contents
from sslam.checkpoints.location import resolve
from sslam.checkpoints.tensorflow_bundle import read_bundle
from sslam.checkpoints.tensorflow_names import our_separator_name, published_separator_name, separator_state
from sslam.errors import CheckpointError, printable
from sslam.networks import TDCN, Separator
from sslam.networks.tdcn_masking import MAX_DILATION_CYCLE

SEPARATOR = "separator."  # in front of the names of its tensors, in our files and in a run's checkpoints
SAMPLE_RATES = {40: 16_000, 55: 22_050}  # of the published models, by their window in samples
MAX_SIZE = 2**20


@dataclass(frozen=True)
class SeparatorCheckpoint:
    """Checked weights of a separator under our names, float32.

    Attributes:
        network: How to build it.
        tensors: Its state dict.
        global_step: Training steps, or None where the file does not tell.
        source_sha256: SHA-256 of the file that ``sslam convert`` made this one from; empty for any other file.
        skipped: What the file holds besides, in words.
    """

    network: Network
    tensors: dict[str, Tensor]
    global_step: int | None = None
    source_sha256: str = ""
    skipped: list[str] = field(default_factory=list)

    def build(self) -> Separator:
        """The separator in training mode, on the CPU, with these very weights; random numbers are left alone."""
        with torch.random.fork_rng(devices=[]):
            separator: Separator = self.network.build()
        separator.load_state_dict(self.tensors)
        return separator


def load_separator(path: str | Path, user_classes: UserClasses = ()) -> Separator:
    """The separator of a checkpoint, ready for use.

    Args:
        path: A checkpoint of a MixIT run (``.ckpt``), or a ``.safetensors`` file that ``sslam convert`` made of one or
            of a published TensorFlow checkpoint; or a folder or ``hf://owner/name[@revision][/file]`` with one.
        user_classes: Separators of your own, or their import paths, that the file may name; these are imported.

    Returns:
        The separator in evaluation mode, on the CPU, float32.

    Raises:
        CheckpointError: If there is no such file, it is damaged, unsafe or no separator's, names a class that is not
            allowed, or tensors are missing, unknown or of another shape.
    """
    return read_separator(path, user_classes).build().eval()


def holds_separator(path: str | Path) -> bool:
    """Whether :func:`read_separator` is for this file, which must be one of the kinds that we read.

    Raises:
        CheckpointError: If there is no such file, or it is damaged, unsafe or something else.
    """
    return any(name.startswith(SEPARATOR) for name in read_contents(resolve(path).file).tensors)


def read_separator(path: str | Path, user_classes: UserClasses = ()) -> SeparatorCheckpoint:
    """Read and check the separator of a MixIT run, or of a file of ``sslam convert``.

    Raises:
        CheckpointError: See :func:`load_separator`.
    """
    file = resolve(path).file
    with naming(file):
        contents = read_contents(file)
        names = [name for name in contents.tensors if name.startswith(SEPARATOR)]
        if not names:
            raise CheckpointError(
                "The file holds no separator: none of its tensors is named separator.*. Give a checkpoint of a MixIT "
                "run, or a file that sslam convert made of one or of a published separator."
            )
        network = _stated_separator(contents.architecture, user_classes)
        tensors = {name.removeprefix(SEPARATOR): contents.tensors[name] for name in names}
        return SeparatorCheckpoint(
            network=network,
            tensors=_fitting(tensors, network, "Give a checkpoint that was not altered."),
            global_step=contents.global_step,
            source_sha256=contents.source_sha256,
            skipped=[*sorted(contents.tensors.keys() - set(names)), *contents.skipped],
        )


def _stated_separator(architecture: Mapping[str, Any], user_classes: UserClasses) -> Network:
    if is_stated(architecture):
        networks = read_networks(architecture, user_classes)
        if "separator" not in networks:
            raise CheckpointError("The file states no separator. Give a checkpoint that was not altered.")
        return networks["separator"]
    stated = architecture.get("separator")
    arguments = stated if isinstance(stated, dict) else {}
    names = inspect.signature(TDCN).parameters.keys() - {"checkpoint_blocks"}
    if different := arguments.keys() ^ names:
        raise CheckpointError(
            f"The file must state the arguments {', '.join(sorted(names))} of its separator, and differs in "
            f"{printable(', '.join(sorted(different)))}. Give a checkpoint that was not altered."
        )
    return read_networks({"separator": {"class_path": "sslam.networks.TDCN", "init_args": arguments}})["separator"]


def read_published_separator(
    path: str | Path, consistency: str | None = None, dilation_cycle: int = 8
) -> SeparatorCheckpoint:
    """Read and check the separator of a TensorFlow checkpoint of the authors' code.

    Args:
        path: What the names of its files begin with, or one of the files.
        consistency: Consistency of the model, "magsq", "uniform" or "none"; where it has weights for shares it is
            "pred_source" and may be left out.
        dilation_cycle: Dilation cycle of the model, which its variables do not tell: 1 to 32; published ones have 8.

    Raises:
        CheckpointError: If the bundle cannot be read, holds something else, or the consistency is not known.
    """
    if not 1 <= dilation_cycle <= MAX_DILATION_CYCLE:
        raise CheckpointError(
            f"dilation_cycle must be between 1 and {MAX_DILATION_CYCLE}, got {dilation_cycle}. Published models have 8."
        )
    with naming(path):
        variables = read_bundle(path)
        tensors = separator_state(variables)
        sizes = _sizes(tensors)
        window = tensors["encoder.weight"].shape[1]
        if window not in SAMPLE_RATES:
            known = ", ".join(f"{samples} ({rate} Hz)" for samples, rate in SAMPLE_RATES.items())
            raise CheckpointError(
                f"The window of {path} has {window} samples, which is of no published sample rate: {known}. Give a "
                "checkpoint of the published MixIT separation models."
            )
        network = Network(
            TDCN,
            {
                **sizes,
                "sample_rate": SAMPLE_RATES[window],
                "consistency": _consistency("shares.weight" in tensors, consistency),
                "dilation_cycle": dilation_cycle,
            },
        )
        training = [name for name in variables if our_separator_name(name) is None]
        step = variables.get("global_step", torch.empty(0))
        return SeparatorCheckpoint(
            network=network,
            tensors=_fitting(
                tensors, network, "Give a whole checkpoint of the published MixIT models.", published=True
            ),
            global_step=int(step) if step.numel() == 1 and not step.is_floating_point() else None,
            skipped=[f"{len(training)} variables of the training, such as {training[0]}"] if training else [],
        )


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


def _shown(ours: str) -> str:
    """A published tensor for a message."""
    return f"{published_separator_name(ours)} (ours: {ours})"


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """What published tensors tell of the arguments of a TDCN."""
    telling = {}
    for name in ("encoder.weight", "bottleneck.weight", "blocks.0.dense1.weight", "mask.weight"):
        if name not in tensors:
            raise CheckpointError(f"The file has no {_shown(name)}. Give a whole checkpoint of a separator.")
        shape = tuple(tensors[name].shape)
        # Bounded, so that a made-up shape asks for no memory.
        if len(shape) != 2 or not all(1 <= size <= MAX_SIZE for size in shape):
            raise CheckpointError(
                f"{_shown(name)} has the shape {printable(shape)}; it must have 2 axes of 1 to {MAX_SIZE}. Give a "
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
        "num_blocks": len({name.split(".")[1] for name in tensors if name.startswith("blocks.")}),
    }


def _fitting(
    tensors: Mapping[str, Tensor], network: Network, remedy: str, published: bool = False
) -> dict[str, Tensor]:
    """The tensors, which must be the very ones of the separator."""
    num_elements = sum(tensor.numel() for tensor in tensors.values())
    expected: dict[str, Tensor] = network.build_empty(num_elements).state_dict()
    shown = {name: _shown(name) for name in {*tensors, *expected}} if published else {}
    unknown = [shown.get(name, name) for name in tensors if name not in expected]
    if problems := list_problems(tensors, expected, unknown, shown):
        raise CheckpointError(f"The file's tensors are not those of its separator. {remedy}\n{problems}")
    return {name: as_weights(name, tensors[name], tensor) for name, tensor in expected.items()}
