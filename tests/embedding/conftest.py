"""Small checkpoints as our runs save them."""

from pathlib import Path

import pytest
import torch

from sslam.networks import AudioViT

RATE = 16_000
FRONTEND = {"num_frames": 512, "num_mel_bins": 64, "mean": -5.0, "std": 3.0, "sample_rate": RATE}
ENCODER = {"width": 32, "depth": 2, "num_heads": 4, "num_mel_bins": 64}


def encoder_state(prefix: str, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {prefix + name: tensor for name, tensor in AudioViT(**ENCODER).state_dict().items()}  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def pre_trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of pre-training with its front end, without decoder."""
    path = tmp_path_factory.mktemp("pre_trained") / "last.ckpt"
    state = encoder_state("student.", 0) | encoder_state("teacher.encoder.", 1)
    torch.save({"state_dict": state, "architecture": {"encoder": ENCODER, "frontend": FRONTEND}}, path)
    return path


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned checkpoint of four classes, pooled by the mean of the patches, for one label per clip."""
    path = tmp_path_factory.mktemp("classifier") / "last.ckpt"
    state = encoder_state("encoder.", 2)
    state |= {"fc_norm.weight": torch.ones(32), "fc_norm.bias": torch.zeros(32)}
    state |= {"head.weight": torch.randn(4, 32), "head.bias": torch.randn(4), "probes.1.head.bias": torch.randn(4)}
    head = {"num_classes": 4, "pooling": "mean", "activation": "softmax"}
    architecture = {"encoder": ENCODER, "frontend": FRONTEND, "head": head}
    names = ["cat", "dog", "siren, distant", "rain"]
    torch.save({"state_dict": state, "architecture": architecture, "class_names": names}, path)
    return path
