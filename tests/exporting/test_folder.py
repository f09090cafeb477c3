"""An exported folder is the model: it loads with one call where nothing of the training is known."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from sslam.checkpoints import CheckpointError, load_encoder, load_separator, read_checkpoint
from sslam.commands.embed import main as embed
from sslam.embedding import AudioEmbedder
from tests.checkpoints.hub_files import put_into_cache
from tests.embedding.conftest import FRONTEND
from tests.exporting.conftest import WAVEFORM, heard

KINDS = ["pre_trained", "fine_tuned", "contrastive", "separator"]
Export = Callable[..., tuple[int, str]]
# What somebody else runs, who has the folder and a waveform.
ELSEWHERE = """
import sys
import numpy as np
from sslam.checkpoints import load_separator
from sslam.embedding import AudioEmbedder
from sslam.separation import separate_waveform

folder, waveform, output, kind = sys.argv[1:]
waveform = np.load(waveform)
if kind == "separator":
    arrays = [separate_waveform(load_separator(folder), waveform, 16_000)]
else:
    embeddings = AudioEmbedder.from_checkpoint(folder, device="cpu")(waveform)
    arrays = [embeddings.clip, embeddings.frames, *([] if embeddings.logits is None else [embeddings.logits])]
np.savez(output, *[array.numpy() for array in arrays])
"""


@pytest.mark.parametrize("kind", KINDS)
def test_export__gives_the_same_numbers_in_a_process_that_never_saw_the_training(
    kind: str, checkpoints: dict[str, Path], export: Export, tmp_path: Path
) -> None:
    expected = heard(checkpoints[kind])
    assert export(checkpoints[kind], tmp_path / "model") == (0, "")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "model").rename(elsewhere / "given")
    np.save(elsewhere / "waveform.npy", WAVEFORM)
    command = [sys.executable, "-c", ELSEWHERE, "given", "waveform.npy", "heard.npz", kind]
    subprocess.run(command, check=True, cwd=elsewhere)
    with np.load(elsewhere / "heard.npz") as arrays:
        assert len(arrays) == len(expected)
        for ours, theirs in zip(expected, arrays.values(), strict=True):
            np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_export__from_the_hub_it_is_the_same(
    kind: str, checkpoints: dict[str, Path], export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert export(checkpoints[kind], tmp_path / kind) == (0, "")
    put_into_cache(tmp_path / "hub", f"owner/{kind}", tmp_path / kind)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for ours, theirs in zip(heard(checkpoints[kind]), heard(f"hf://owner/{kind}"), strict=True):
        np.testing.assert_array_equal(theirs, ours)


def test_export__one_call_gives_encoder_and_separator(
    checkpoints: dict[str, Path], export: Export, tmp_path: Path
) -> None:
    assert export(checkpoints["pre_trained"], tmp_path / "encoder") == (0, "")
    assert export(checkpoints["separator"], tmp_path / "separator") == (0, "")
    encoder, original = load_encoder(tmp_path / "encoder"), load_encoder(checkpoints["pre_trained"])
    for name, tensor in original.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], tensor), name
    original_separator = load_separator(checkpoints["separator"])
    for name, tensor in load_separator(tmp_path / "separator").state_dict().items():
        assert torch.equal(original_separator.state_dict()[name], tensor), name


def test_export__has_no_decoder_and_one_encoder(checkpoints: dict[str, Path], export: Export, tmp_path: Path) -> None:
    for weights in ("student", "teacher"):
        assert export(checkpoints["pre_trained"], tmp_path / weights, "--weights", weights) == (0, "")
        held = load_file(tmp_path / weights / "model.safetensors")
        assert {name.partition(".")[0] for name in held} == {"student"}
        original = read_checkpoint(checkpoints["pre_trained"]).build_encoder(weights).state_dict()  # type: ignore[arg-type]
        assert {name.removeprefix("student."): tensor.sum() for name, tensor in held.items()} == {
            name: tensor.sum() for name, tensor in original.items()
        }


def test_export__states_front_end_and_classes(checkpoints: dict[str, Path], export: Export, tmp_path: Path) -> None:
    assert export(checkpoints["fine_tuned"], tmp_path / "model") == (0, "")
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["architecture"]["frontend"]["init_args"] == FRONTEND
    assert config["architecture"]["head"]["activation"] == "softmax"
    assert config["license"] == "cc-by-4.0"
    assert config["id2label"]["2"] == "siren, distant"
    embedder = AudioEmbedder.from_checkpoint(tmp_path / "model", device="cpu")
    assert (embedder.frontend.mean, embedder.frontend.std, embedder.num_classes) == (-5.0, 3.0, 4)


def test_export__a_fine_tuned_one_tags_with_words(checkpoints: dict[str, Path], export: Export, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", WAVEFORM, 16_000)
    assert export(checkpoints["fine_tuned"], tmp_path / "model") == (0, "")
    args = [tmp_path / "a.wav", "--checkpoint", tmp_path / "model", "--output", tmp_path / "tags.csv", "--tags", 4]
    assert embed([str(arg) for arg in args]) == 0
    labels = {line.split(",")[2] for line in (tmp_path / "tags.csv").read_text().replace(", ", "; ").splitlines()[1:]}
    assert labels == {"cat", "dog", '"siren; distant"', "rain"}


def test_export__everybody_may_read_it(checkpoints: dict[str, Path], export: Export, tmp_path: Path) -> None:
    assert export(checkpoints["pre_trained"], tmp_path / "model") == (0, "")
    (tmp_path / "new").touch()
    assert {file.stat().st_mode for file in (tmp_path / "model").iterdir()} == {(tmp_path / "new").stat().st_mode}


def test_export__refuses_and_leaves_nothing(checkpoints: dict[str, Path], export: Export, tmp_path: Path) -> None:
    bare = tmp_path / "bare.pt"
    torch.save({f"student.{n}": t for n, t in load_encoder(checkpoints["pre_trained"]).state_dict().items()}, bare)
    for checkpoint, more, message in (
        (tmp_path / "nothing.pt", [], "There is no file"),
        (checkpoints["separator"], ["--format", "hub"], "layout of EAT and SSLAM has no separator"),
        (checkpoints["separator"], ["--onnx"], "--onnx is for encoders, and this is a separator"),
        (checkpoints["contrastive"], ["--format", "hub"], "The Hub's layout has no CNN14"),
        (checkpoints["fine_tuned"], ["--weights", "teacher"], "The file holds no teacher"),
        (bare, [], "does not state"),
    ):
        code, said = export(checkpoint, tmp_path / "model", *more)
        assert (code, said.count("\n")) == (2, 1), said
        assert message in said
        assert {path.name for path in tmp_path.iterdir()} == {"bare.pt"}
    (tmp_path / "model").mkdir()
    assert "exists already" in export(checkpoints["pre_trained"], tmp_path / "model")[1]


def test_encoder_alone__of_the_hub_layout_needs_no_option(
    checkpoints: dict[str, Path], export: Export, tmp_path: Path
) -> None:
    assert export(checkpoints["pre_trained"], tmp_path / "hub", "--format", "hub") == (0, "")
    assert export(tmp_path / "hub", tmp_path / "ours") == (0, "")
    np.testing.assert_array_equal(heard(tmp_path / "ours")[0], heard(checkpoints["pre_trained"])[0])
    with pytest.raises(CheckpointError, match="holds no teacher"):
        load_encoder(tmp_path / "ours", weights="teacher")
