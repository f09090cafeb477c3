"""Reading an encoder with its front end and its origin, and the random weights that a seed has always given."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from sslam.checkpoints import CheckpointError
from sslam.checkpoints.provenance import read_encoder
from sslam.frontends import KaldiFbank, LogMel
from sslam.losses import CrossEntropy
from sslam.methods import FineTune
from sslam.networks import AudioViT, ClassifierHead
from sslam.transforms import Augmentation
from tests.checkpoints.published_files import pre_trained, save_published

ENCODER: dict[str, Any] = {"width": 32, "depth": 2, "num_heads": 2}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A run of pre-training."""
    torch.manual_seed(0)
    student, teacher = AudioViT(**ENCODER), AudioViT(**ENCODER)
    state = {f"student.{name}": value for name, value in student.state_dict().items()}
    state |= {f"teacher.encoder.{name}": value for name, value in teacher.state_dict().items()}
    architecture = {"encoder": student.architecture(), "frontend": KaldiFbank(num_frames=128, mean=-5.0).architecture()}
    torch.save({"state_dict": state, "architecture": architecture}, tmp_path / "run.ckpt")
    return tmp_path / "run.ckpt"


def test_read_encoder__says_where_it_comes_from(path: Path) -> None:
    state = torch.load(path, weights_only=True)["state_dict"]
    origin = {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    for weights, prefix in (("student", "student."), ("teacher", "teacher.encoder.")):
        trained = read_encoder(path, weights)  # type: ignore[arg-type]
        assert trained.provenance == {"label": f"{weights} of run", "weights": weights} | origin
        for name, value in trained.encoder.state_dict().items():
            assert torch.equal(value, state[prefix + name]), name
    assert read_encoder(path, label="mine").provenance["label"] == "mine"
    random = read_encoder(path, "random")
    assert random.provenance == {"label": "random weights", "weights": "random"} | origin


def test_read_encoder__its_front_end_is_the_files_or_makes_the_same_features(path: Path) -> None:
    trained = read_encoder(path)
    assert trained.frontend().architecture() == KaldiFbank(num_frames=128, mean=-5.0).architecture()
    given = KaldiFbank(num_frames=512, mean=0.0, std=1.0)
    assert trained.frontend(given) is given
    with pytest.raises(ValueError, match=r"run\.ckpt was trained on KaldiFbank features .* makes LogMel features"):
        trained.frontend(LogMel())


def test_read_encoder__published_weights_bring_the_front_end_of_audioset(tmp_path: Path) -> None:
    trained = read_encoder(save_published(tmp_path / "published.pt", pre_trained()))
    assert trained.frontend().architecture() == KaldiFbank(1024, 128, -4.268, 4.569, 16_000).architecture()
    given = KaldiFbank(num_frames=512, mean=-6.627, std=5.359)
    assert trained.frontend(given) is given
    with pytest.raises(ValueError, match=r"published\.pt was trained on KaldiFbank features .* makes LogMel features"):
        trained.frontend(LogMel())


def test_read_encoder__a_run_that_states_no_front_end_accepts_any(path: Path) -> None:
    root = torch.load(path, weights_only=True)
    del root["architecture"]["frontend"]
    torch.save(root, path)
    trained = read_encoder(path)
    given = LogMel()
    assert trained.frontend(given) is given
    with pytest.raises(CheckpointError, match="does not state its front end"):
        trained.frontend()


def test_read_encoder__a_seed_gives_the_random_weights_that_it_always_gave(path: Path) -> None:
    """Those drawn after the ones of an encoder that the file's weights replace; then those of the head."""
    torch.manual_seed(5)
    AudioViT(**ENCODER)
    head_of_trained = ClassifierHead(32, 4)
    torch.manual_seed(5)
    AudioViT(**ENCODER)
    random, head_of_random = AudioViT(**ENCODER), ClassifierHead(32, 4)
    for weights, head in (("student", head_of_trained), ("random", head_of_random)):
        torch.manual_seed(5)
        model = FineTune(
            Augmentation(), loss=CrossEntropy(), num_classes=4, initial_checkpoint=str(path), weights=weights
        )
        assert torch.equal(model.head.weight, head.head.weight), weights
        drawn = all(torch.equal(*pair) for pair in zip(model.encoder.parameters(), random.parameters(), strict=True))
        assert drawn == (weights == "random")
