"""Checkpoints of separation-contrastive pre-training: the encoder, whichever it is, and its front end."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sslam.checkpoints import CheckpointError, load_encoder, load_pretraining_state, read_checkpoint
from sslam.checkpoints.architecture import state_networks, statement
from sslam.commands.convert import main
from sslam.embedding.embedder import AudioEmbedder
from sslam.frontends import Frontend, KaldiFbank, LogMel
from sslam.losses import Coincidence, CrossEntropy, NTXent
from sslam.methods import FineTune, LinearProbe, SeparationContrastive
from sslam.networks import CNN14, AudioViT, Encoder
from sslam.transforms import Augmentation, MixtureAgainstMixture

LOG_MEL: dict[str, Any] = {"num_frames": 32, "mean": -2.0, "std": 3.0, "log_offset": 0.01}


def cnn14() -> CNN14:
    torch.manual_seed(0)
    return CNN14(width=12, channels=(4, 6, 8), num_mel_bins=64)


def vit() -> AudioViT:
    torch.manual_seed(0)
    return AudioViT(width=32, depth=2, num_heads=4)


def contrastive_run(path: Path, encoder: Encoder, frontend: Frontend) -> Path:
    """A checkpoint as a run of contrastive pre-training saves it."""
    model = SeparationContrastive(encoder, frontend, MixtureAgainstMixture(), None, NTXent(), Coincidence())
    checkpoint: dict[str, Any] = {"state_dict": model.state_dict(), "global_step": 7, "epoch": 1}
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


@pytest.mark.parametrize(
    ("encoder", "frontend"), [(cnn14(), LogMel(**LOG_MEL)), (vit(), KaldiFbank(num_frames=96, mean=-5.0))]
)
def test_read_checkpoint__encoder_and_front_end_of_a_contrastive_run(
    encoder: Encoder, frontend: Frontend, tmp_path: Path
) -> None:
    path = contrastive_run(tmp_path / "last.ckpt", encoder, frontend)
    checkpoint = read_checkpoint(path)
    assert checkpoint.kind == "contrastive"
    assert {"similarity_head.", "coincidence_head."} <= {name.partition(".")[0] + "." for name in checkpoint.skipped}
    assert not any(line.startswith("no ") for line in checkpoint.skipped)
    built = checkpoint.build_frontend()
    assert (type(built), built.architecture()) == (type(frontend), frontend.architecture())
    loaded = load_encoder(path)
    assert type(loaded) is type(encoder)
    assert loaded.architecture() == encoder.architecture()
    features = torch.randn(2, 48, encoder.num_mel_bins)
    assert torch.equal(loaded.eval()(features), encoder.eval()(features))
    fresh = checkpoint.new_encoder()
    assert any(not torch.equal(a, b) for a, b in zip(fresh.parameters(), loaded.parameters(), strict=True))


@pytest.mark.parametrize(("encoder", "frontend"), [(cnn14(), LogMel(**LOG_MEL)), (vit(), KaldiFbank())])
def test_convert__a_contrastive_run_to_safetensors(encoder: Encoder, frontend: Frontend, tmp_path: Path) -> None:
    path, ours = contrastive_run(tmp_path / "last.ckpt", encoder, frontend), tmp_path / "ours.safetensors"
    assert main([str(path), str(ours)]) == 0
    first, second = read_checkpoint(path), read_checkpoint(ours)
    assert first.networks == second.networks
    assert (second.kind, second.networks["encoder"].network_class) == ("contrastive", type(encoder))
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    assert second.source_sha256


def test_convert__the_published_format_has_no_cnn14(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = contrastive_run(tmp_path / "last.ckpt", cnn14(), LogMel(**LOG_MEL))
    assert main([str(path), str(tmp_path / "published.pt"), "--to", "published"]) == 2
    assert "The published format has no place for a CNN14. Write it in ours." in capsys.readouterr().err
    assert not (tmp_path / "published.pt").exists()


def test_convert__a_contrastive_transformer_to_the_published_format_and_back(tmp_path: Path) -> None:
    encoder = vit()
    path = contrastive_run(tmp_path / "last.ckpt", encoder, KaldiFbank())
    assert main([str(path), str(tmp_path / "published.pt"), "--to", "published"]) == 0
    loaded = load_encoder(tmp_path / "published.pt")
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in encoder.state_dict().items())


def edited(path: Path, edit: Any) -> Path:
    root = torch.load(path, weights_only=True)
    edit(root)
    torch.save(root, path)
    return path


def halve(root: dict[str, Any]) -> None:
    root["state_dict"]["encoder.blocks.1.conv2.weight"] = torch.zeros(6, 3, 3, 3)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda root: root["state_dict"].pop("encoder.blocks.1.conv2.bias"), "1 missing:\n  encoder.blocks.1.conv2.b"),
        (halve, "1 of another shape:\n  encoder.blocks.1.conv2.weight (6, 3, 3, 3), expected (6, 6, 3, 3)"),
        (
            lambda root: root["state_dict"].pop("encoder.blocks.0.conv1.weight"),
            "1 missing:\n  encoder.blocks.0.conv1.weight",
        ),
        (lambda root: root["state_dict"].update({"extra": torch.zeros(1)}), "1 unknown:\n  extra"),
        (
            lambda root: root["architecture"]["frontend"]["init_args"].update(low_frequency=9e3),
            "The LogMel that the file states cannot be built: low_frequency must be below high_frequency",
        ),
        (
            lambda root: root["architecture"]["frontend"]["init_args"].update(log_offset=0.0),
            "log_offset must be greater than 0, got 0.0.",
        ),
        (
            lambda root: root["architecture"]["encoder"]["init_args"].update(num_mel_bins=2),
            "num_mel_bins must be at least 4 for the poolings between 3 blocks, got 2.",
        ),
    ],
)
def test_read_checkpoint__refuses_what_is_no_whole_encoder(edit: Any, message: str, tmp_path: Path) -> None:
    path = edited(contrastive_run(tmp_path / "last.ckpt", cnn14(), LogMel(**LOG_MEL)), edit)
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(path)
    assert message in str(error.value)


def test_build_frontend__a_run_that_states_none(tmp_path: Path) -> None:
    path = contrastive_run(tmp_path / "last.ckpt", cnn14(), LogMel(**LOG_MEL))
    without = edited(path, lambda root: root["architecture"].pop("frontend"))
    with pytest.raises(
        CheckpointError, match="does not state its front end. Give one that fits, such as frontend sslam.front"
    ):
        read_checkpoint(without).build_frontend()
    with pytest.raises(CheckpointError, match="does not state its front end"):
        AudioEmbedder.from_checkpoint(without, device="cpu")


def test_load_encoder__what_cnn14_has_not(tmp_path: Path) -> None:
    path = contrastive_run(tmp_path / "last.ckpt", cnn14(), LogMel(**LOG_MEL))
    with pytest.raises(CheckpointError, match=r"drop_path must be 0 for CNN14, .* got 0.1. Give drop_path 0."):
        load_encoder(path, drop_path=0.1)
    with pytest.raises(CheckpointError, match="The file holds no teacher."):
        load_encoder(path, weights="teacher")
    with pytest.raises(CheckpointError, match="is a contrastive checkpoint without student, decoder, teacher.encoder"):
        load_pretraining_state(path)


def test_classifiers__begin_with_a_contrastive_run_and_are_read_themselves(tmp_path: Path) -> None:
    path = contrastive_run(tmp_path / "last.ckpt", cnn14(), LogMel(**LOG_MEL))
    model = FineTune(
        Augmentation(), drop_path=0.0, loss=CrossEntropy(), num_classes=3, initial_checkpoint=str(path), pooling="both"
    )
    assert isinstance(model.frontend, LogMel)
    assert model.frontend.architecture() == LogMel(**LOG_MEL).architecture()
    state: dict[str, Any] = {"state_dict": model.state_dict(), "class_names": ["a", "b", "c"]}
    state["architecture"] = {
        **state_networks({"encoder": model.encoder, "frontend": model.frontend}),
        **statement({"head": model.stated_head}, {"pooling": "both", "activation": "softmax"}),
    }
    torch.save(state, tmp_path / "tuned.ckpt")
    tuned = read_checkpoint(tmp_path / "tuned.ckpt")
    assert (tuned.kind, tuned.num_classes, tuned.class_names) == ("fine_tuned", 3, ["a", "b", "c"])
    embedder = AudioEmbedder.from_checkpoint(tmp_path / "tuned.ckpt", device="cpu")
    assert embedder.num_classes == 3
    random = LinearProbe(loss=CrossEntropy(), num_classes=3, initial_checkpoint=str(path), weights="random")
    assert random.provenance["label"] == "random weights"
    pairs = zip(random.encoder.parameters(), model.encoder.parameters(), strict=True)
    assert any(not torch.equal(first, second) for first, second in pairs)


def test_embedder__of_a_contrastive_run(tmp_path: Path) -> None:
    encoder = cnn14().eval()
    path = contrastive_run(tmp_path / "last.ckpt", encoder, LogMel(**LOG_MEL))
    embedder = AudioEmbedder.from_checkpoint(path, device="cpu")
    clips = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0)) * 0.1
    embeddings = embedder(clips, torch.tensor([16000, 9600]))
    assert embeddings.clip.shape == (2, 12)
    assert embeddings.num_columns.tolist() == [25, 15]  # of four frames
    assert embeddings.frames.shape == (2, 25, 12)
    assert not embeddings.frames[1, 15:].any()
    with torch.no_grad():
        expected = encoder(LogMel(**LOG_MEL | {"num_frames": 60})(clips[1:, :9600]))
    torch.testing.assert_close(embeddings.clip[1], expected[0, 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(embedder.column_times(2).numpy(), [0.0275, 0.0675], atol=1e-6)
