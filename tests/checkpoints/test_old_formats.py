"""Files of format 1, which stated arguments without classes, and what is made of them: the very networks of then."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sslam.checkpoints import CheckpointError, load_pretraining_state, load_separator, read_checkpoint
from sslam.checkpoints.architecture import Network
from sslam.commands.convert import main
from sslam.frontends import KaldiFbank, LogMel
from sslam.networks import CNN14, TDCN, AudioViT, ClassifierHead, ConvDecoder

VIT = {"width": 48, "depth": 2, "num_heads": 4, "mlp_ratio": 4.0, "patch_size": 16, "num_mel_bins": 128}
DECODER = {"width": 48, "decoder_width": 32, "depth": 2, "kernel_size": 3, "groups": 8}
CNN = {"width": 12, "channels": [4, 6, 8], "num_mel_bins": 64}
FBANK = {"num_frames": 512, "num_mel_bins": 128, "mean": -6.627, "std": 5.359, "sample_rate": 16000}
LOG_MEL = {
    "num_frames": 32, "num_mel_bins": 64, "mean": -2.0, "std": 3.0, "sample_rate": 16000,
    "low_frequency": 125.0, "high_frequency": 7500.0, "log_offset": 0.01,
}  # fmt: skip
SEPARATOR = {
    "num_sources": 3, "sample_rate": 16000, "consistency": "magsq", "num_basis": 6, "width": 4, "hidden_width": 5,
    "num_blocks": 3, "dilation_cycle": 2,
}  # fmt: skip
HEAD = {"pooling": "mean", "activation": "softmax"}
NETWORKS_OF_A_CLASSIFIER = {
    "encoder": Network(AudioViT, VIT),
    "frontend": Network(KaldiFbank, FBANK),
    "head": Network(ClassifierHead, {"num_classes": 3, "width": 48}),
}
NAMES = ["dog", "rain", "siren"]
SHA256 = "0" * 64
VIT_OF_A_RUN = VIT | {"max_columns": 768}  # a file of sslam convert did not have the last one


def tensors(**parts: nn.Module) -> dict[str, Tensor]:
    """State dict of a module with these parts; dots in their names are underscores here."""
    return {
        f"{part.replace('_of_', '.')}.{name}": tensor
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }


def pre_trained() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return tensors(
        student=AudioViT(**VIT),
        decoder=ConvDecoder(**DECODER),
        teacher_of_encoder=AudioViT(**VIT),  # type: ignore[arg-type]
    )


def contrastive() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return tensors(encoder=CNN14(**CNN))  # type: ignore[arg-type]


def classifier() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return tensors(encoder=AudioViT(**VIT), fc_norm=nn.LayerNorm(48), head=nn.Linear(48, 3))  # type: ignore[arg-type]


def separator() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return tensors(separator=TDCN(**SEPARATOR))  # type: ignore[arg-type]


def run(path: Path, state: Mapping[str, Tensor], architecture: dict[str, Any], **entries: Any) -> Path:
    """A checkpoint as Lightning writes it."""
    root = {"epoch": 1, "global_step": 7, "pytorch-lightning_version": "2.6.4", "state_dict": dict(state)}
    torch.save(root | {"architecture": architecture} | entries, path)
    return path


def converted(path: Path, state: dict[str, Tensor], kind: str, hyper_parameters: Any, **entries: Any) -> Path:
    """A file as ``sslam convert`` wrote it."""
    header = {"format_version": 1, "kind": kind, "hyper_parameters": hyper_parameters, "source_sha256": SHA256}
    save_file(state, path, {"format": "pt", "sslam": json.dumps(header | entries)})
    return path


@pytest.mark.parametrize("is_converted", [False, True], ids=["run", "converted"])
def test_pre_training(tmp_path: Path, is_converted: bool) -> None:
    state, path = pre_trained(), tmp_path / "file"
    stated = {"encoder": VIT, "decoder": DECODER, "frontend": FBANK}
    if is_converted:
        converted(path, state, "pre_trained", stated, class_names=[])
    else:
        run(path, state | {"frontend.window": torch.ones(3)}, stated | {"encoder": VIT_OF_A_RUN})
    checkpoint = read_checkpoint(path)
    assert checkpoint.kind == "pre_trained"
    assert checkpoint.networks == {
        "encoder": Network(AudioViT, VIT),
        "decoder": Network(ConvDecoder, DECODER),
        "frontend": Network(KaldiFbank, FBANK),
    }
    assert checkpoint.source_sha256 == (SHA256 if is_converted else "")
    for part, prefix in (("student", "student."), ("teacher", "teacher.encoder.")):
        built = checkpoint.build_encoder(part).state_dict()  # type: ignore[arg-type]
        assert all(torch.equal(built[name], state[prefix + name]) for name in built)
    assert checkpoint.build_frontend().architecture() == FBANK
    loaded = load_pretraining_state(path)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


@pytest.mark.parametrize("is_converted", [False, True], ids=["run", "converted"])
def test_contrastive(tmp_path: Path, is_converted: bool) -> None:
    state, path, stated = contrastive(), tmp_path / "file", {"encoder": CNN, "frontend": LOG_MEL}
    if is_converted:
        converted(path, state, "contrastive", stated, class_names=[])
    else:
        run(path, state | {"similarity_head.0.weight": torch.ones(3, 12)}, stated)
    checkpoint = read_checkpoint(path)
    assert checkpoint.kind == "contrastive"
    assert checkpoint.networks == {"encoder": Network(CNN14, CNN), "frontend": Network(LogMel, LOG_MEL)}
    built = checkpoint.build_encoder().state_dict()
    assert all(torch.equal(built[name], state[f"encoder.{name}"]) for name in built)


@pytest.mark.parametrize("kind", ["fine-tuned run", "linear probe", "converted"])
def test_classifier(tmp_path: Path, kind: str) -> None:
    state, path = classifier(), tmp_path / "file"
    stated = {"encoder": VIT, "frontend": FBANK, "head": HEAD}
    if kind == "converted":
        converted(path, state, "fine_tuned", stated | {"num_classes": 3}, class_names=NAMES)
    else:
        more = tensors(probes_of_0_of_head=nn.Linear(48, 3)) if kind == "linear probe" else {}
        provenance = {"label": "student of last", "weights": "student", "path": "last.ckpt", "sha256": SHA256}
        run(path, state | more, stated | {"encoder": VIT_OF_A_RUN}, class_names=NAMES, provenance=provenance)
    checkpoint = read_checkpoint(path)
    assert (checkpoint.kind, checkpoint.classifier, checkpoint.class_names) == ("fine_tuned", HEAD, NAMES)
    assert checkpoint.networks == NETWORKS_OF_A_CLASSIFIER
    assert checkpoint.tensors.keys() == state.keys()
    assert all(torch.equal(checkpoint.tensors[name], state[name]) for name in state)


@pytest.mark.parametrize("is_converted", [False, True], ids=["run", "converted"])
def test_separator(tmp_path: Path, is_converted: bool) -> None:
    state, path = separator(), tmp_path / "file"
    if is_converted:
        converted(path, state, "separator", {"separator": SEPARATOR}, global_step=7)
    else:
        run(path, state, {"separator": SEPARATOR})
    loaded = load_separator(path)
    assert type(loaded) is TDCN
    assert loaded.architecture() == SEPARATOR
    assert all(torch.equal(tensor, state[f"separator.{name}"]) for name, tensor in loaded.state_dict().items())


def test_a_file_in_the_published_format_that_states_what_that_has_no_place_for(tmp_path: Path) -> None:
    first, path = tmp_path / "first.ckpt", tmp_path / "published.pt"
    run(first, classifier(), {"encoder": VIT_OF_A_RUN, "frontend": FBANK, "head": HEAD}, class_names=NAMES)
    assert main([str(first), str(path), "--to", "published"]) == 0
    root = torch.load(path, weights_only=True)
    root["architecture"] = {"encoder": VIT, "frontend": FBANK, "head": HEAD}
    torch.save(root, path)
    checkpoint = read_checkpoint(path)
    assert (checkpoint.classifier, checkpoint.class_names) == (HEAD, NAMES)
    assert checkpoint.networks == NETWORKS_OF_A_CLASSIFIER


@pytest.mark.parametrize("value", [None, 7, "text", [1, 2, 3], {"mean": "low"}, {"mean": True}, {1: 2}])
def test_what_is_of_another_type_is_passed_over(tmp_path: Path, value: Any) -> None:
    stated = {"encoder": VIT, "frontend": value, "head": value}
    checkpoint = read_checkpoint(run(tmp_path / "run.ckpt", classifier(), stated, class_names=value))
    assert "frontend" not in checkpoint.networks
    assert checkpoint.classifier == {"pooling": "cls", "activation": "sigmoid"}
    assert checkpoint.class_names == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 3}, "differs in depth"),
        ({"checkpoint_blocks": 1}, "differs in checkpoint_blocks"),
        ({"num_blocks": 4}, "12 missing:\n  blocks.3."),
        ({"consistency": "pred_source"}, "1 missing:\n  shares.weight"),
        ({"dilation_cycle": True}, "states dilation_cycle = True for its separator, which must be int"),
    ],
)
def test_separators_that_cannot_be(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = run(tmp_path / "run.ckpt", separator(), {"separator": SEPARATOR | changes})
    with pytest.raises(CheckpointError) as error:
        load_separator(path)
    assert message in str(error.value)


def test_encoders_that_cannot_be(tmp_path: Path) -> None:
    path, state = tmp_path / "run.ckpt", contrastive()
    run(path, {k: v for k, v in state.items() if k != "encoder.blocks.0.conv1.weight"}, {"encoder": CNN})
    with pytest.raises(CheckpointError, match="The file holds no whole CNN14"):
        read_checkpoint(path)
    run(path, state, {"encoder": CNN, "frontend": LOG_MEL | {"num_mel_bins": 32}})
    with pytest.raises(CheckpointError, match="it must have num_mel_bins = 64, as the encoder's"):
        read_checkpoint(path)
    run(path, state, {"encoder": CNN, "frontend": LOG_MEL | {"low_frequency": 9e3}})
    with pytest.raises(
        CheckpointError, match="The LogMel that the file states cannot be built: low_frequency must be below"
    ):
        read_checkpoint(path)
