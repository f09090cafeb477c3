"""`--format hub`: what users of EAT and SSLAM on the Hub compute with it, written out here from the public model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from sslam.checkpoints import load_encoder, read_checkpoint
from tests.checkpoints.hub_files import config as public_config
from tests.checkpoints.published_files import fine_tuned, pre_trained, save_published
from tests.reference.formulas import input_formula

Export = Callable[..., tuple[int, str]]


def public_forward(state: dict[str, Tensor], config: dict[str, Any], features_BLF: Tensor) -> Tensor:
    """Tokens (B, 1 + P, D), or logits (B, C) of a fine-tuned one: post-norm blocks behind a norm of all tokens."""
    held = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    width, num_heads, eps = config["embed_dim"], config["num_heads"], config["norm_eps"]

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ held[f"{name}.weight"].T + held[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + eps).sqrt()
        return scaled * held[f"{name}.weight"] + held[f"{name}.bias"]

    def attention(name: str, x: Tensor) -> Tensor:
        B, N, _ = x.shape
        q, k, v = linear(f"{name}.qkv", x).reshape(B, N, 3, num_heads, -1).permute(2, 0, 3, 1, 4)
        weights = ((q @ k.transpose(-2, -1)) / (width / num_heads) ** 0.5).softmax(dim=-1)
        return linear(f"{name}.proj", (weights @ v).transpose(1, 2).reshape(B, N, width))

    patches = F.conv2d(
        features_BLF[:, None], held["local_encoder.proj.weight"], held["local_encoder.proj.bias"], config["stride"]
    )
    x = patches.flatten(2).transpose(1, 2)
    x = x + held["fixed_positional_encoder.positions"][:, : x.shape[1]]
    x = norm("pre_norm", torch.cat([held["extra_tokens"].expand(len(x), -1, -1), x], dim=1))
    for layer in range(config["depth"]):
        block = f"blocks.{layer}"
        x = norm(f"{block}.norm1", x + attention(f"{block}.attn", x))
        hidden = F.gelu(linear(f"{block}.mlp.fc1", x))
        x = norm(f"{block}.norm2", x + linear(f"{block}.mlp.fc2", hidden))
    return x if config["model_variant"] == "pretrain" else linear("head", norm("fc_norm", x[:, 0]))


@torch.no_grad()
@pytest.mark.parametrize("model", [pre_trained(), fine_tuned()], ids=["pre_trained", "fine_tuned"])
def test_export__the_public_forward_gives_the_same(model: Any, export: Export, tmp_path: Path) -> None:
    original = save_published(tmp_path / "published.pt", model)
    assert export(original, tmp_path / "hub", "--format", "hub") == (0, "")
    state = load_file(tmp_path / "hub/model.safetensors")
    config = json.loads((tmp_path / "hub/config.json").read_text())
    features_BLF = torch.from_numpy(input_formula(2)).squeeze(1)
    tokens_BPD = load_encoder(original).eval()(features_BLF)
    expected = tokens_BPD
    if config["model_variant"] == "finetune":
        head = read_checkpoint(original).networks["head"].build()
        head.load_state_dict({name: model[name] for name in head.state_dict()})
        expected = head(tokens_BPD[:, 0])
    torch.testing.assert_close(public_forward(state, config, features_BLF), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("model", [pre_trained(), fine_tuned()], ids=["pre_trained", "fine_tuned"])
def test_export__names_and_configuration_are_the_public_ones(model: Any, export: Export, tmp_path: Path) -> None:
    original = save_published(tmp_path / "published.pt", model)
    assert export(original, tmp_path / "hub", "--format", "hub") == (0, "")
    state = load_file(tmp_path / "hub/model.safetensors")
    config = json.loads((tmp_path / "hub/config.json").read_text())
    public = public_config(state)
    assert config.items() >= {name: value for name, value in public.items() if name != "auto_map"}.items()
    back = read_checkpoint(tmp_path / "hub")
    for name, tensor in read_checkpoint(original).tensors.items():
        if not name.startswith(("decoder.", "teacher.")):
            assert torch.equal(back.tensors[name], tensor), name
    card = (tmp_path / "hub/README.md").read_text()
    assert "`configuration_eat.py`, `modeling_eat.py`" in card
