"""An encoder that is no part of sslam: trained, evaluated, embedded with, reloaded; and refused without permission."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml

from sslam.__main__ import main
from sslam.checkpoints import CheckpointError, load_encoder, read_checkpoint
from sslam.checkpoints.architecture import state_networks

CLASS = "my_encoders.TinyEncoder"
MODULE = '''
import torch
from torch import nn

from sslam.networks import Encoder


class TinyEncoder(Encoder):
    """Patches of the spectrogram and their mean, with batch norm."""

    def __init__(self, width: int = 8, rates: tuple = (0.0, 0.1), num_mel_bins: int = 64, patch_size: int = 8):
        super().__init__()
        self.width, self.num_mel_bins, self.patch_size = width, num_mel_bins, patch_size
        # Values of a tensor, which the meta device does not have.
        self.rate = torch.linspace(*rates, 3).tolist()[-1]
        self.patches = nn.Conv2d(1, width, patch_size, stride=patch_size)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, features):
        tokens = self.norm(self.patches(features.unsqueeze(1))).flatten(2).transpose(1, 2)
        return torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)


class NotAnEncoder(nn.Module):
    pass
'''
DATA = {
    "class_path": "data_modules.SoundscapesDataModule",
    "init_args": {"batch_size": 4, "num_workers": 0, "clip_seconds": 1.0, "num_train_scenes": 8, "num_test_scenes": 4},
}
CONTRASTIVE = {
    "model": {
        "class_path": "sslam.methods.SeparationContrastive",
        "init_args": {
            "encoder": {"class_path": CLASS, "init_args": {"width": 6}},
            "frontend": {"class_path": "sslam.frontends.LogMel", "init_args": {"num_frames": 32}},
            "comparison": "sslam.transforms.MixtureAgainstMixture",
            "similarity": "sslam.losses.NTXent",
        },
    },
    "data": DATA,
    "trainer": {"accelerator": "cpu", "max_steps": 2, "limit_val_batches": 0, "callbacks": []},
}
PROBE = {
    "model": {
        "class_path": "sslam.methods.LinearProbe",
        "init_args": {"loss": "sslam.losses.LabelNormalisedBCE", "num_classes": 14, "epochs": 2, "seeds": [0]},
    },
    "data": DATA | {"init_args": DATA["init_args"] | {"training_augmentation": False}},  # type: ignore[operator]
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 1,
        "limit_val_batches": 0,
        "callbacks": ["callbacks.EvaluationResults"],
    },
    "test_after_fit": True,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory with the user's module, his configurations and a recording."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_encoders", raising=False)
    (tmp_path / "my_encoders.py").write_text(MODULE)
    for name, config in {"contrastive": CONTRASTIVE, "probe": PROBE}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config))
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    soundfile.write(tmp_path / "noise.wav", noise, 16_000)
    return tmp_path


def checkpoint_of(run: str) -> Path:
    return Path("runs") / run / "one/checkpoints/last.ckpt"


def test_a_users_encoder_is_trained_evaluated_embedded_with_and_reloaded(folder: Path) -> None:
    assert main(["fit", "--config", "contrastive.yaml", "--run_id", "one"]) == 0
    trained = checkpoint_of("contrastive")
    stated = torch.load(trained, weights_only=True)["architecture"]
    assert stated["format_version"] == 2
    assert stated["encoder"] == {
        "class_path": CLASS,
        "init_args": {"width": 6, "rates": [0.0, 0.1], "num_mel_bins": 64, "patch_size": 8},
    }
    # A run that goes on takes the class from its configuration.
    more = ["--ckpt_path", "last", "--trainer.max_steps", "3"]
    assert main(["fit", "--config", "contrastive.yaml", "--run_id", "one", *more]) == 0
    weights = torch.load(trained, weights_only=True)["state_dict"]
    assert weights["encoder.norm.num_batches_tracked"] == 3

    for user_classes in ([CLASS], [sys.modules["my_encoders"].TinyEncoder]):
        encoder = load_encoder(trained, user_classes=user_classes)
        assert type(encoder).__name__ == "TinyEncoder"
        assert all(torch.equal(value, weights[f"encoder.{name}"]) for name, value in encoder.state_dict().items())

    assert main(["convert", str(trained), "ours.safetensors", "--user_classes", CLASS]) == 0
    converted = load_encoder("ours.safetensors", user_classes=[CLASS]).state_dict()
    assert all(torch.equal(value, weights[f"encoder.{name}"]) for name, value in converted.items())

    initial = ["--model.initial_checkpoint", str(trained), "--model.user_classes", json.dumps([CLASS])]
    assert main(["fit", "--config", "probe.yaml", "--run_id", "one", *initial]) == 0
    assert json.loads(Path("runs/probe/one/results-test.json").read_text())["metrics"]
    probe = read_checkpoint(checkpoint_of("probe"), user_classes=[CLASS])
    assert (probe.kind, probe.num_classes) == ("fine_tuned", 14)

    embed = ["embed", "noise.wav", "--device", "cpu", "--user_classes", CLASS]
    assert main([*embed, "--checkpoint", str(trained), "--output", "clips.npz"]) == 0
    assert main([*embed, "--checkpoint", str(trained), "--output", "frames.npz", "--level", "frame"]) == 0
    assert main([*embed, "--checkpoint", str(checkpoint_of("probe")), "--output", "tags.csv", "--tags", "2"]) == 0
    assert np.load("clips.npz")["embeddings"].shape == (1, 6)
    assert np.load("frames.npz")["embeddings"].shape == (13, 6)  # 100 frames, 8 to a column
    assert Path("tags.csv").read_text().count("\n") == 3


def save_a_checkpoint(path: Path) -> None:
    """Of the user's encoder, without its training."""
    from my_encoders import TinyEncoder  # type: ignore[import-not-found]

    from sslam.frontends import LogMel

    encoder: Any = TinyEncoder()
    state = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    torch.save({"state_dict": state, "architecture": state_networks({"encoder": encoder, "frontend": LogMel()})}, path)


def refusal(command: str, stderr: str) -> bool:
    """Whether a command has said in one line what is wrong and how to allow it."""
    (said,) = [line for line in stderr.splitlines() if line.startswith(f"sslam {command}:")]
    what = f"mine.ckpt: The file's encoder is of the class {CLASS}, which is not sslam's; nothing of it was imported."
    return said.endswith(f"{what} If you trust it, name it in user_classes: {CLASS}.")


@pytest.mark.parametrize(
    "args",
    [
        ["embed", "noise.wav", "--device", "cpu", "--checkpoint", "mine.ckpt", "--output", "clips.npz"],
        ["convert", "mine.ckpt", "ours.safetensors"],
        ["fit", "--config", "probe.yaml", "--model.initial_checkpoint", "mine.ckpt"],
    ],
    ids=["embed", "convert", "fit"],
)
def test_a_users_encoder_is_refused_without_permission_and_not_imported(
    folder: Path, args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    save_a_checkpoint(folder / "mine.ckpt")
    del sys.modules["my_encoders"]
    assert main(args) == 2
    assert refusal(args[0], capsys.readouterr().err)
    assert "my_encoders" not in sys.modules


def test_a_users_encoder_is_not_imported_by_a_process_that_never_has(folder: Path) -> None:
    save_a_checkpoint(folder / "mine.ckpt")
    script = (
        "import sys; from sslam.__main__ import main; code = main(sys.argv[1:]);"
        "print('imported' if 'my_encoders' in sys.modules else 'not imported'); sys.exit(code)"
    )
    command = ["embed", "noise.wav", "--device", "cpu", "--checkpoint", "mine.ckpt", "--output", "clips.npz"]
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    ended = subprocess.run(
        [sys.executable, "-c", script, *command],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 2, ended.stderr
    assert refusal("embed", ended.stderr)
    assert ended.stdout.endswith("not imported\n")


@pytest.mark.parametrize(
    ("user_class", "message"),
    [
        ("my_encoders.Missing", r"user_classes names my_encoders\.Missing, which cannot be imported \(.*'Missing'"),
        ("no_such_module.Encoder", r"which cannot be imported \(No module named 'no_such_module'\)"),
        ("my_encoders.NotAnEncoder", "which is no encoder, decoder, front end or separator"),
        ("torch.nn.Linear", "which is no encoder, decoder, front end or separator"),
        ("sslam.networks.CNN14", f"encoder is of the class {CLASS}, which is not sslam's"),
    ],
)
def test_what_is_no_permission(folder: Path, user_class: str, message: str) -> None:
    save_a_checkpoint(folder / "mine.ckpt")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder / "mine.ckpt", user_classes=[user_class])


def test_an_encoder_whose_arguments_are_not_plain_says_so(folder: Path) -> None:
    from my_encoders import TinyEncoder

    with pytest.raises(ValueError, match="arguments of TinyEncoder, which must be numbers, texts, lists and dicts"):
        state_networks({"encoder": TinyEncoder(rates=torch.tensor([0.0, 0.1]))})
