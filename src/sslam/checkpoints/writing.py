"""Writing weights: our format (safetensors with a header) and the published names."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from sslam.atomic_write import torch_save, write_whole
from sslam.checkpoints import hub_layout, published
from sslam.checkpoints.architecture import statement
from sslam.checkpoints.contents import METADATA_KEY
from sslam.checkpoints.loading import Checkpoint
from sslam.checkpoints.separators import SEPARATOR, SeparatorCheckpoint
from sslam.errors import CheckpointError
from sslam.networks import AudioViT, Readout

CLASSIFIER_OF_THE_HUB = {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}


def write_sslam(checkpoint: Checkpoint, path: Path) -> None:
    """Write our format: safetensors with what a run's checkpoint states, and the source, in its header."""
    _write_safetensors(checkpoint.tensors, _header(checkpoint), path)


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


def _header(checkpoint: Checkpoint) -> dict[str, object]:
    return {
        "kind": checkpoint.kind,
        "architecture": stated(checkpoint),
        "class_names": checkpoint.class_names,
        "source_sha256": checkpoint.source_sha256,
    }


def write_hub(checkpoint: Checkpoint, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` with the Hub's names: the student's encoder, and the classifier.

    What they have no place for (front end, pooling) goes into the header, as in our format. Decoder and teacher are
    left out.

    Raises:
        CheckpointError: If the encoder or the classifier is not one that this layout has.
    """
    network = checkpoint.networks["encoder"]
    if network.network_class is not AudioViT:
        raise CheckpointError(f"The Hub's layout has no {network.network_class.__name__}. Write it in our format.")
    classifier = {name for name in checkpoint.tensors if name.startswith(published.FINE_TUNED_PARTS[1:])}
    if classifier and (classifier != CLASSIFIER_OF_THE_HUB or checkpoint.readout != Readout()):
        raise CheckpointError(
            "The Hub's layout has a classifier of the CLS token, a layer norm and a linear layer, and the checkpoint "
            "has another. Write it in our format."
        )
    encoder: AudioViT = network.build_empty(sum(tensor.numel() for tensor in checkpoint.tensors.values()))
    others = ("decoder.", "teacher.")
    tensors = {hub_layout.hub_name(name): v for name, v in checkpoint.tensors.items() if not name.startswith(others)}
    tensors[hub_layout.POSITIONS] = published.published_positions(encoder.width, encoder.num_rows)
    config = hub_layout.make_config(encoder, checkpoint.num_classes, checkpoint.class_names)
    folder.mkdir(exist_ok=True)
    header = _header(replace(checkpoint, networks={k: v for k, v in checkpoint.networks.items() if k != "decoder"}))
    _write_safetensors(tensors, header, folder / hub_layout.WEIGHTS[0])
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    write_whole(folder / hub_layout.CONFIG, lambda partial: partial.write_text(text, encoding="utf-8"))


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
    as_published = published.published_frontend(encoder["num_mel_bins"])
    # What is read of the published tensors alone.
    is_published = (encoder["num_heads"] * published.HEAD_WIDTH, encoder["num_mel_bins"]) == (encoder["width"], 128)
    is_published &= checkpoint.networks.get("frontend", as_published) == as_published
    if checkpoint.class_names or not is_published:
        root |= {"architecture": stated(checkpoint), "class_names": checkpoint.class_names}
    write_whole(path, lambda partial: torch_save(root, partial))
