"""The layout of EAT and SSLAM on the Hugging Face Hub: names of its tensors, and its ``config.json``.

A folder holds ``config.json`` and ``model.safetensors`` or ``pytorch_model.bin``: the student's encoder and, of
fine-tuned ones, ``fc_norm`` and ``head``; neither decoder nor teacher. The code that lies beside them is never read.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sslam.checkpoints.published import MAX_COLUMNS
from sslam.errors import CheckpointError, printable
from sslam.networks import AudioViT
from sslam.networks.audio_vit import LAYER_NORM_EPS

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first one that is there is read
MAX_CONFIG_BYTES = 2**20

PREFIX = "model."
ENCODER_NAMES = {
    "cls_token": "extra_tokens",
    "patch_embed.weight": "local_encoder.proj.weight",
    "patch_embed.bias": "local_encoder.proj.bias",
    "norm.weight": "pre_norm.weight",
    "norm.bias": "pre_norm.bias",
}
OUR_ENCODER_NAMES = {hub: ours for ours, hub in ENCODER_NAMES.items()}
POSITIONS = PREFIX + "fixed_positional_encoder.positions"
CLASSIFIER = (PREFIX + "fc_norm.", PREFIX + "head.")

# What the encoder computes in this one way; a file that states another would give other features.
SETTLED = {
    "in_chans": 1,
    "qkv_bias": True,
    "layer_norm_first": False,
    "norm_eps": LAYER_NORM_EPS,
    "norm_affine": True,
    "fixed_positions": True,
}
DROPOUT_RATES = ("drop_rate", "attn_drop_rate", "activation_dropout", "post_mlp_drop")


def is_hub_layout(names: Iterable[str]) -> bool:
    """Whether tensors have the Hub's names."""
    return any(name == PREFIX + "extra_tokens" or name.startswith(PREFIX + "local_encoder.") for name in names)


def our_name(published: str, fine_tuned: bool) -> str:
    """Our name of a tensor of the Hub. Names of nothing known go on as they are."""
    rest = published.removeprefix(PREFIX)
    if not published.startswith(PREFIX):
        return published
    if published.startswith(CLASSIFIER):
        return rest
    prefix = "encoder." if fine_tuned else "student."
    if rest in OUR_ENCODER_NAMES:
        return prefix + OUR_ENCODER_NAMES[rest]
    return prefix + rest if rest.startswith("blocks.") else published


def hub_name(ours: str) -> str:
    """The Hub's name of one of our tensors, which must be of the student, of an encoder or of a classifier."""
    name = ours.removeprefix("student.").removeprefix("encoder.")
    return PREFIX + ENCODER_NAMES.get(name, name)


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a folder, plain JSON; empty where there is none.

    Raises:
        CheckpointError: If it is no JSON mapping.
    """
    path = folder / CONFIG
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"it has more than {MAX_CONFIG_BYTES} bytes")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON ({printable(str(error))}). Download it again.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} must hold a JSON mapping, got {printable(config)}. Download it again.")
    return config


def stated_encoder(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an encoder that no tensor tells: ``num_heads`` and ``num_mel_bins``.

    Raises:
        CheckpointError: If one is no whole number of at least 1.
    """
    arguments = {}
    for entry, name in (("num_heads", "num_heads"), ("mel_bins", "num_mel_bins")):
        if entry in config:
            value = config[entry]
            if type(value) is not int or not 1 <= value <= MAX_CONFIG_BYTES:
                raise CheckpointError(
                    f"{CONFIG} states {entry} = {printable(repr(value))}, which must be a whole number of at least 1. "
                    "Give a file that was not altered."
                )
            arguments[name] = value
    return arguments


def class_names(config: Mapping[str, Any]) -> list[str]:
    """Names of a classifier's classes in their order, where ``id2label`` has more than numbers."""
    labels = config.get("id2label")
    if not isinstance(labels, dict) or any(type(label) is not str for label in labels.values()):
        return []
    names = [labels.get(str(number)) for number in range(len(labels))]
    is_placeholder = all(name == f"LABEL_{number}" for number, name in enumerate(names))
    return [] if None in names or is_placeholder else [str(name) for name in names]


def check_config(config: Mapping[str, Any], encoder: AudioViT, num_classes: int) -> None:
    """Refuse a ``config.json`` that is not of these tensors, or of another computation than the encoder's.

    Args:
        config: Its entries; those that are not there are not missed.
        encoder: The encoder that the tensors make.
        num_classes: Number of the classifier's classes, 0 without one.

    Raises:
        CheckpointError: With the first entry that differs.
    """
    of_tensors = {
        "embed_dim": encoder.width,
        "depth": encoder.depth,
        "mlp_ratio": encoder.mlp_ratio,
        "patch_size": encoder.patch_size,
        "stride": encoder.patch_size,
        "model_variant": "finetune" if num_classes else "pretrain",
    }
    if num_classes:
        of_tensors["num_classes"] = num_classes
    for name, expected in (of_tensors | SETTLED).items():
        stated = config.get(name, expected)
        if type(stated) not in (type(expected), int) or stated != expected:
            whose = "its tensors have" if name in of_tensors else "EAT and SSLAM have"
            raise CheckpointError(
                f"{CONFIG} states {name} = {printable(repr(stated))}, and {whose} {expected!r}. Give the file that "
                "belongs to the weights."
            )


def make_config(encoder: AudioViT, num_classes: int, names: list[str]) -> dict[str, Any]:
    """The entries of ``config.json`` for an encoder of ours, with a classifier where ``num_classes`` is not 0."""
    config: dict[str, Any] = {
        "architectures": ["EATModel"],
        "model_type": "eat",
        "model_variant": "finetune" if num_classes else "pretrain",
        "embed_dim": encoder.width,
        "depth": encoder.depth,
        "num_heads": encoder.num_heads,
        "mlp_ratio": encoder.mlp_ratio,
        "patch_size": encoder.patch_size,
        "stride": encoder.patch_size,
        "mel_bins": encoder.num_mel_bins,
        "img_size": [1024, encoder.num_mel_bins],
        "max_length": MAX_COLUMNS,
        "num_classes": num_classes or 527,
        **SETTLED,
        **dict.fromkeys(DROPOUT_RATES, 0.0),
    }
    if names:
        config |= {
            "id2label": {str(number): name for number, name in enumerate(names)},
            "label2id": {name: number for number, name in enumerate(names)},
        }
    return config
