"""Writing weights: our format (safetensors with a header) and the published names."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sslam.atomic_write import write_whole
from sslam.checkpoints import published
from sslam.checkpoints.architecture import statement
from sslam.checkpoints.contents import METADATA_KEY
from sslam.checkpoints.loading import Checkpoint
from sslam.checkpoints.separators import SEPARATOR, SeparatorCheckpoint
from sslam.errors import CheckpointError
from sslam.networks import AudioViT


def write_sslam(checkpoint: Checkpoint, path: Path) -> None:
    """Write our format: safetensors with what a run's checkpoint states, and the source, in its header."""
    header = {
        "kind": checkpoint.kind,
        "architecture": stated(checkpoint),
        "class_names": checkpoint.class_names,
        "source_sha256": checkpoint.source_sha256,
    }
    _write_safetensors(checkpoint.tensors, header, path)


def write_separator(checkpoint: SeparatorCheckpoint, path: Path) -> None:
    """Write our format, as :func:`write_sslam`, with the names of a MixIT run's checkpoint."""
    header = {
        "kind": "separator",
        "architecture": statement({"separator": checkpoint.network}),
        "global_step": checkpoint.global_step,
        "source_sha256": checkpoint.source_sha256,
    }
    _write_safetensors({SEPARATOR + name: tensor for name, tensor in checkpoint.tensors.items()}, header, path)


def stated(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a run's checkpoint has under ``architecture``."""
    return statement(checkpoint.networks, checkpoint.classifier)


def _write_safetensors(tensors: dict[str, Tensor], header: Mapping[str, object], path: Path) -> None:
    metadata = {"format": "pt", METADATA_KEY: json.dumps(header)}
    write_whole(path, lambda partial: save_file(tensors, partial, metadata))


def write_published(checkpoint: Checkpoint, path: Path) -> None:
    """Write ``{"model": state dict}`` with the published names, the teacher under ``_ema``, positions included.

    What the published format has no place for (front end, pooling, names of classes) goes beside it under the names of
    our runs, which other readers pass over.
    """
    encoder_class, encoder = checkpoint.networks["encoder"].network_class, checkpoint.networks["encoder"].arguments
    if encoder_class is not AudioViT:
        raise CheckpointError(f"The published format has no place for a {encoder_class.__name__}. Write it in ours.")
    positions = published.published_positions(encoder["width"], encoder["num_mel_bins"] // encoder["patch_size"])
    tensors = {published.published_name(name): tensor for name, tensor in checkpoint.tensors.items()}
    prefix = published.EMA + "."
    state_dict: dict[str, object] = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    state_dict[("" if checkpoint.kind == "pre_trained" else "model.") + published.POSITIONS] = positions
    teacher = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if teacher:
        state_dict[published.EMA] = {**teacher, published.POSITIONS: positions.clone()}
    root: dict[str, object] = {"model": state_dict}
    if checkpoint.class_names or "frontend" in checkpoint.networks:
        root |= {"architecture": stated(checkpoint), "class_names": checkpoint.class_names}
    write_whole(path, lambda partial: torch.save(root, partial))
