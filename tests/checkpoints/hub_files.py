"""Weights as EAT and SSLAM have them on the Hugging Face Hub, and a made-up cache of the Hub that holds them."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sslam.checkpoints import load_encoder
from tests.checkpoints.published_files import IMAGE
from tests.reference.formulas import input_formula

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAMES = {
    IMAGE + "context_encoder.norm.": "pre_norm.",
    IMAGE + "local_encoder.": "local_encoder.",
    IMAGE + "extra_tokens": "extra_tokens",
    IMAGE + "fixed_positional_encoder.": "fixed_positional_encoder.",
}


def hub_names(model: dict[str, Any]) -> dict[str, Any]:
    """A published state dict under the Hub's names, without decoder and teacher."""
    state = {}
    for name, tensor in model.items():
        if name == "_ema" or "decoder" in name:
            continue
        name = name.removeprefix("model.")
        for fairseq, hub in NAMES.items():
            name = name.replace(fairseq, hub)
        state[f"model.{name}"] = tensor
    return state


def config(state: dict[str, Any], **changes: Any) -> dict[str, Any]:
    width = state["model.extra_tokens"].shape[-1]
    return {
        "architectures": ["EATModel"],
        "auto_map": {"AutoModel": "modeling_eat.EATModel"},
        "model_type": "eat",
        "model_variant": "finetune" if "model.head.weight" in state else "pretrain",
        "embed_dim": width,
        "depth": len({name.split(".")[2] for name in state if ".blocks." in name}),
        "num_heads": width // 64,
        "patch_size": 16,
        "stride": 16,
        "in_chans": 1,
        "mel_bins": 128,
        "max_length": 768,
        "num_classes": len(state.get("model.head.weight", range(527))),
        "mlp_ratio": 4.0,
        "qkv_bias": True,
        "layer_norm_first": False,
        "norm_eps": 1e-6,
        "norm_affine": True,
        "fixed_positions": True,
        "img_size": [1024, 128],
        "drop_rate": 0.0,
    } | changes


def save_hub(folder: Path, model: dict[str, Any], weights: str = "model.safetensors", **changes: Any) -> Path:
    """Write a published state dict as a folder of the Hub, remote code included that must never run."""
    folder.mkdir(parents=True, exist_ok=True)
    state = hub_names(model)
    if weights.endswith(".safetensors"):
        save_file(state, folder / weights, {"format": "pt"})
    else:
        torch.save(state, folder / weights)
    (folder / "config.json").write_text(json.dumps(config(state, **changes)), encoding="utf-8")
    (folder / "modeling_eat.py").write_text("raise SystemExit('remote code was run')\n", encoding="utf-8")
    return folder


def put_into_cache(cache: Path, repository: str, folder: Path, commit: str = COMMIT) -> None:
    """Files of a folder as ``huggingface_hub`` keeps those of a repository's branch main."""
    root = cache / f"models--{repository.replace('/', '--')}"
    for name in ("refs", "blobs", f"snapshots/{commit}"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    for number, file in enumerate(sorted(folder.iterdir())):
        blob = root / "blobs" / f"{number:040x}"
        shutil.copy(file, blob)
        (root / "snapshots" / commit / file.name).symlink_to(f"../../blobs/{blob.name}")


@torch.no_grad()
def tokens(path: str | Path) -> torch.Tensor:
    """What the encoder of these weights makes of the formula's inputs."""
    return load_encoder(path).eval()(torch.from_numpy(input_formula(2)).squeeze(1))
