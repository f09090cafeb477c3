"""What a checkpoint states beside its weights: front end, pooling, classes. It is carried along, checked, never run."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sslam.checkpoints import CheckpointError, load_encoder, read_checkpoint
from sslam.checkpoints.architecture import Network, state_networks, statement
from sslam.commands.convert import main
from sslam.frontends import KaldiFbank
from sslam.networks import AudioViT, ClassifierHead, Readout
from tests.checkpoints.published_files import fine_tuned, pre_trained, save_published

FRONTEND: dict[str, Any] = {"num_frames": 512, "num_mel_bins": 128, "mean": -6.627, "std": 5.359, "sample_rate": 16000}
NAMES = ["dog", "rooster, far", "Ruisseau à l'eau"]


def classifier(path: Path, pooling: str = "cls", **changes: Any) -> Path:
    """A checkpoint as a run of a classifier saves it."""
    encoder = AudioViT(width=48, depth=2, num_heads=4)
    width = Readout(pooling).width(encoder)  # type: ignore[arg-type]
    state = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    for part in ("", "probes.0.", "probes.1."):
        state |= {f"{part}fc_norm.weight": torch.ones(width), f"{part}fc_norm.bias": torch.zeros(width)}
        state |= {f"{part}head.weight": torch.randn(3, width), f"{part}head.bias": torch.randn(3)}
    architecture = state_networks({"encoder": encoder, "frontend": KaldiFbank(**FRONTEND)})
    architecture |= statement(
        {"head": Network(ClassifierHead, {"width": width, "num_classes": 3})},
        {"pooling": pooling, "activation": "softmax"},
    )
    root: dict[str, Any] = {"state_dict": state, "architecture": architecture, "class_names": NAMES, "epoch": 3}
    for key, value in changes.items():
        stated = (
            root if key not in architecture else architecture[key] if key == "head" else architecture[key]["init_args"]
        )
        stated |= value if key in architecture else {key: value}
    torch.save(root, path)
    return path


@pytest.mark.parametrize("pooling", ["cls", "mean", "both", "statistics", "row_statistics"])
def test_read_checkpoint__states_front_end_pooling_and_classes(tmp_path: Path, pooling: str) -> None:
    checkpoint = read_checkpoint(classifier(tmp_path / "last.ckpt", pooling))
    assert checkpoint.kind == "fine_tuned"
    assert checkpoint.networks["frontend"] == Network(KaldiFbank, FRONTEND)
    assert checkpoint.classifier == {"pooling": pooling, "activation": "softmax"}
    assert checkpoint.num_classes == 3
    assert checkpoint.class_names == NAMES
    assert {"probes.1.head.weight", "entry epoch"} <= set(checkpoint.skipped)
    assert not {"entry architecture", "entry class_names"} & set(checkpoint.skipped)
    assert not any(name.startswith("probes.") for name in checkpoint.tensors)


@pytest.mark.parametrize("pooling", ["mean", "both", "statistics", "row_statistics"])
def test_convert__carries_what_is_stated_to_both_formats_and_back(
    tmp_path: Path, pooling: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = classifier(tmp_path / "last.ckpt", pooling)
    ours, back, again = tmp_path / "ours.safetensors", tmp_path / "back.pt", tmp_path / "again.safetensors"
    for args in ([source, ours], [ours, back, "--to", "published"], [back, again]):
        assert main([str(arg) for arg in args]) == 0
    first, second = read_checkpoint(source), read_checkpoint(again)
    assert (first.networks, first.classifier) == (second.networks, second.classifier)
    assert first.class_names == second.class_names == NAMES
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    printed = capsys.readouterr().out
    assert "front end: num_frames 512, num_mel_bins 128, mean -6.627, std 5.359, sample_rate 16000" in printed
    assert "classes: 3 (dog, rooster, far, Ruisseau à l'eau)" in printed


def test_convert__a_published_file_brings_its_front_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_published(tmp_path / "published.pt", fine_tuned())
    assert main([str(path), str(tmp_path / "ours.safetensors")]) == 0
    checkpoint = read_checkpoint(tmp_path / "ours.safetensors")
    # Which is read of files that earlier versions converted, too.
    assert checkpoint.build_frontend().architecture() == KaldiFbank().architecture()
    # As the published classifiers are.
    assert checkpoint.classifier == {"pooling": "cls", "activation": "sigmoid"}
    assert checkpoint.class_names == []
    printed = capsys.readouterr().out
    assert "front end: num_frames 1024, num_mel_bins 128, mean -4.268, std 4.569, sample_rate 16000" in printed
    assert "classes: 5 (not named)" in printed


def test_load_encoder__drop_path_is_for_fine_tuning(tmp_path: Path) -> None:
    path = save_published(tmp_path / "published.pt", pre_trained())
    features = torch.randn(4, 64, 128)
    with torch.no_grad():
        with_drop_path, without = load_encoder(path, drop_path=0.9), load_encoder(path)
        assert torch.equal(with_drop_path.eval()(features), without.eval()(features))
        assert not torch.allclose(with_drop_path.train()(features), without.train()(features))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frontend": {"std": 0.0}}, "cannot be built: std must be greater than 0, got 0.0"),
        ({"frontend": {"std": float("nan")}}, "std must be greater than 0, got nan"),
        ({"frontend": {"std": "5.0"}}, "states std = '5.0' for its frontend, which must be float"),
        ({"frontend": {"mean": float("inf")}}, "mean must be at most 1e+06, got inf"),
        ({"frontend": {"mean": 10**400}}, "mean must be at most 1e+06, got 1000"),
        ({"frontend": {"num_frames": 0}}, "num_frames must be at least 1, got 0"),
        ({"frontend": {"num_frames": 10**12}}, "num_frames must be at most 1e+06, got 1000000000000"),
        ({"frontend": {"num_mel_bins": 10**12}}, "num_mel_bins must be at most 4096, got 1000000000000"),
        ({"frontend": {"sample_rate": 10**12}}, "sample_rate must be between 1000 and 768000, got 1000000000000"),
        ({"encoder": {"max_columns": 10**12}}, "the numbers in the table of positions, must be at most 134217728"),
        ({"encoder": {"depth": 10**12}}, "The AudioViT that the file states has far more weights than the file holds"),
        ({"encoder": {"depth": 1}}, "12 unknown:\n  encoder.blocks.1."),
        ({"encoder": {"extra": 1}}, "unexpected keyword argument 'extra'"),
        ({"frontend": {"num_mel_bins": 64}}, "num_mel_bins = 128, as the encoder's"),
        ({"head": {"pooling": "both"}}, "pooling = both, and it must be cls or mean"),
        ({"head": {"pooling": "row_statistics"}}, "pooling = row_statistics, and it must be cls or mean"),
        ({"head": {"layers": [1, 2]}}, "expected (3, 96)"),
        ({"head": {"layers": [3]}}, "no tokens for: layers must be at most 2, the number of layers of the AudioViT"),
        ({"head": {"layers": "12"}}, "layers = 12, and they must be numbers of layers"),
        ({"head": {"layers": [1.5]}}, "layers = [1.5], and they must be numbers of layers"),
        ({"head": {"activation": "\x1b[2Jrelu"}}, r"activation = '\\x1b[2Jrelu', and it must be sigmoid or softmax"),
        ({"head": {"init_args": {"width": 48, "num_classes": 4}}}, "head.weight (3, 48), expected (4, 48)"),
        ({"head": {"init_args": {"width": 48, "num_classes": 3, "hidden_width": 9}}}, "(3, 48), expected (3, 9)"),
        ({"class_names": ["a"]}, "names 1 classes and its classifier has 3"),
    ],
)
def test_read_checkpoint__refuses_what_cannot_be(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(classifier(tmp_path / "last.ckpt", **changes))
    assert message.replace("\\\\", "\\") in str(error.value)
    assert "\x1b" not in str(error.value)


class Call:
    """Pickles as a call of ``os.system``."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("key", ["frontend", "head", "class_names"])
def test_read_checkpoint__runs_nothing_that_stands_there(tmp_path: Path, key: str) -> None:
    call = Call(f"touch {tmp_path / 'canary'}")
    value = [call] * 3 if key == "class_names" else {"mean": call, "pooling": call}
    with pytest.raises(CheckpointError, match=r"asks to run (posix|os)\.system"):
        read_checkpoint(classifier(tmp_path / "last.ckpt", **{key: value}))
    assert not (tmp_path / "canary").exists()


def test_read_checkpoint__architecture_is_of_plain_values(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'architecture' holds more than plain values"):
        read_checkpoint(classifier(tmp_path / "last.ckpt", frontend={"mean": torch.zeros(1)}))


@pytest.mark.parametrize("version", [3, 10**30, 1.5, "2", None, True])
def test_read_checkpoint__a_newer_format_is_refused(tmp_path: Path, version: Any) -> None:
    path = classifier(tmp_path / "last.ckpt")
    root = torch.load(path, weights_only=True)
    root["architecture"]["format_version"] = version
    torch.save(root, path)
    with pytest.raises(CheckpointError, match=r"states its networks in format .*, and sslam .* reads .* to 2\. Update"):
        read_checkpoint(path)


@pytest.mark.parametrize("value", [None, 7, "text", [1, 2, 3], {"mean": "low"}, {"mean": True}, {1: 2}])
def test_read_checkpoint__what_is_of_another_type(tmp_path: Path, value: Any) -> None:
    path = classifier(tmp_path / "last.ckpt")
    root = torch.load(path, weights_only=True)
    root["class_names"] = value
    torch.save(root, path)
    assert read_checkpoint(path).class_names == []
    for role in ("head", "frontend", "encoder"):
        root["architecture"][role] = value
        torch.save(root, path)
        with pytest.raises(CheckpointError, match=f"states its {role} without class_path and init_args"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("class_path", "message"),
    [
        (
            "sslam.networks.Unheard",
            r"encoder is of the class sslam\.networks\.Unheard, which sslam .* has not\. Update sslam\.",
        ),
        ("sslam.networks.ConvDecoder", r"encoder is of the class sslam\.networks\.ConvDecoder, which is no Encoder"),
        ("sslam.networks.audio_vit.AudioViT", "which sslam .* has not"),
        (
            "os.system",
            r"os\.system, which is not sslam's; nothing of it was imported\. If you trust it, name it in",
        ),
    ],
)
def test_read_checkpoint__a_class_is_one_of_the_list(tmp_path: Path, class_path: str, message: str) -> None:
    path = classifier(tmp_path / "last.ckpt")
    root = torch.load(path, weights_only=True)
    root["architecture"]["encoder"]["class_path"] = class_path
    torch.save(root, path)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


def test_read_checkpoint__a_header_that_was_altered_is_refused(tmp_path: Path) -> None:
    main([str(classifier(tmp_path / "last.ckpt")), str(tmp_path / "ours.safetensors")])
    with safe_open(tmp_path / "ours.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["sslam"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header["architecture"]["frontend"]["init_args"]["std"] = -1.0
    save_file(tensors, tmp_path / "altered.safetensors", {"sslam": json.dumps(header)})
    with pytest.raises(CheckpointError, match="std must be greater than 0, got -1.0"):
        read_checkpoint(tmp_path / "altered.safetensors")
    save_file(tensors, tmp_path / "list.safetensors", {"sslam": "[1]"})
    with pytest.raises(CheckpointError, match="is damaged"):
        read_checkpoint(tmp_path / "list.safetensors")
