"""Weights in the layout of the Hugging Face Hub: read, refused, and converted."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sslam.checkpoints import CheckpointError, load_encoder, load_pretraining_state, read_checkpoint
from sslam.commands import convert
from sslam.frontends import KaldiFbank
from tests.checkpoints.hub_files import config, hub_names, save_hub, tokens
from tests.checkpoints.published_files import fine_tuned, pre_trained, save_published

MODELS = {"pre-trained": pre_trained, "fine-tuned": fine_tuned}


# ---- the layout ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("kind", MODELS)
def test_hub_layout__features_are_those_of_the_fairseq_file(tmp_path: Path, kind: str, weights: str) -> None:
    model = MODELS[kind]()
    fairseq = save_published(tmp_path / "published.pt", model)
    folder = save_hub(tmp_path / "hub", model, weights)
    expected = tokens(fairseq)
    for path in (folder, folder / weights, str(folder)):
        torch.testing.assert_close(tokens(path), expected, rtol=0, atol=1e-6)
    ours, theirs = read_checkpoint(folder), read_checkpoint(fairseq)
    assert ours.kind == theirs.kind
    assert {name: ours.networks[name] for name in ("encoder", "frontend")} == {
        name: theirs.networks[name] for name in ("encoder", "frontend")
    }
    assert ours.classifier == theirs.classifier
    if kind == "fine-tuned":
        for name in ("fc_norm.weight", "head.weight", "head.bias"):
            assert torch.equal(ours.tensors[name], model[name])


@pytest.mark.parametrize("kind", MODELS)
def test_hub_layout__of_the_large_size(tmp_path: Path, kind: str) -> None:
    folder = save_hub(tmp_path / "large", MODELS[kind](width=1024, depth=1))
    checkpoint = read_checkpoint(folder)
    expected = {
        "width": 1024, "depth": 1, "num_heads": 16, "mlp_ratio": 4.0, "patch_size": 16, "num_mel_bins": 128,
    }  # fmt: skip
    assert checkpoint.networks["encoder"].arguments == expected
    assert checkpoint.kind == kind.replace("-", "_")


def test_hub_layout__config_tells_the_heads_that_no_tensor_tells(tmp_path: Path) -> None:
    folder = save_hub(tmp_path / "hub", pre_trained(), num_heads=4)
    assert load_encoder(folder).num_heads == 4
    assert load_encoder(folder, num_heads=2).num_heads == 2
    (folder / "config.json").unlink()
    assert load_encoder(folder).num_heads == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": 768}, "config.json states embed_dim = 768, and its tensors have 64."),
        ({"depth": 12}, "states depth = 12, and its tensors have 2."),
        ({"patch_size": 8}, "states patch_size = 8, and its tensors have 16."),
        ({"stride": 10}, "states stride = 10, and its tensors have 16."),
        ({"model_variant": "finetune"}, "states model_variant = 'finetune', and its tensors have 'pretrain'."),
        ({"layer_norm_first": True}, "states layer_norm_first = True, and EAT and SSLAM have False."),
        ({"norm_eps": 1e-5}, "states norm_eps = 1e-05, and EAT and SSLAM have 1e-06."),
        ({"num_heads": "os.system"}, "states num_heads = 'os.system', which must be a whole number of at least 1."),
        ({"num_heads": 5}, "width must be a multiple of num_heads, got width=64 and num_heads=5."),
        ({"mel_bins": 64}, "it must be (1, columns x 4, 64)|differs by up to"),
    ],
)
def test_hub_layout__a_config_of_other_weights_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = save_hub(tmp_path / "hub", pre_trained(), **changes)
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(folder)
    assert any(part in str(error.value) for part in message.split("|"))
    assert "\n" not in str(error.value)


def test_hub_layout__another_number_of_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="states num_classes = 527, and its tensors have 5"):
        read_checkpoint(save_hub(tmp_path / "hub", fine_tuned(), num_classes=527))


def test_hub_layout__a_config_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    folder = save_hub(tmp_path / "hub", pre_trained())
    for text, message in (("[" * 10**5, "is no JSON"), ("{", "is no JSON"), ("[1]", "must hold a JSON mapping")):
        (folder / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(folder)


def test_hub_layout__missing_and_unknown_tensors_are_named_as_the_file_names_them(tmp_path: Path) -> None:
    state = hub_names(pre_trained())
    del state["model.pre_norm.bias"]
    state["model.surprise"] = torch.zeros(1)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing:\n  model\.pre_norm\.bias\n1 unknown:\n  model\.surprise"):
        read_checkpoint(tmp_path / "model.safetensors")


def test_hub_layout__a_hostile_pickle_is_refused_unexecuted(tmp_path: Path) -> None:
    trace = tmp_path / "executed"

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (trace,)

    class Shell:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {trace}",)

    folder = save_hub(tmp_path / "hub", pre_trained(), "pytorch_model.bin")
    for hostile in (Hostile(), Shell()):
        torch.save(hub_names(pre_trained()) | {"model.surprise": hostile}, folder / "pytorch_model.bin")
        with pytest.raises(CheckpointError):
            read_checkpoint(folder)
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(hostile))
        with pytest.raises(CheckpointError):
            read_checkpoint(folder)
    assert not trace.exists()


def test_published_weights__bring_their_front_end(tmp_path: Path) -> None:
    for path in (save_hub(tmp_path / "hub", pre_trained()), save_published(tmp_path / "p.pt", pre_trained())):
        assert read_checkpoint(path).build_frontend().architecture() == KaldiFbank().architecture()


# ---- converting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("source", ["fairseq", "hub", "sslam"])
def test_convert__to_the_hub_and_back(tmp_path: Path, kind: str, source: str) -> None:
    model = MODELS[kind]()
    given: Path = save_published(tmp_path / "published.pt", model)
    if source == "hub":
        given = save_hub(tmp_path / "given", model)
    elif source == "sslam":
        assert convert.main([str(given), str(tmp_path / "ours.safetensors")]) == 0
        given = tmp_path / "ours.safetensors"
    out, back, again = tmp_path / "out", tmp_path / "back.pt", tmp_path / "again"
    assert convert.main([str(given), str(out), "--to", "hub"]) == 0
    assert sorted(file.name for file in out.iterdir()) == ["config.json", "model.safetensors"]
    written, expected = load_file(out / "model.safetensors"), hub_names(model)
    assert written.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(written[name], tensor, rtol=0, atol=1e-6 if "positions" in name else 0)
    stated = json.loads((out / "config.json").read_text())
    for name, value in config(expected).items():
        if name not in ("architectures", "auto_map"):
            assert stated[name] == value, name
    assert convert.main([str(out), str(back), "--to", "published"]) == 0
    assert list(torch.load(back, weights_only=True)) == ["model"]
    assert convert.main([str(back), str(again), "--to", "hub"]) == 0
    second = load_file(again / "model.safetensors")
    assert all(torch.equal(written[name], second[name]) for name in written)
    assert json.loads((again / "config.json").read_text()) == stated


def test_convert__to_the_hub_keeps_what_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_hub(tmp_path / "hub", pre_trained())
    assert convert.main([str(folder / "model.safetensors"), str(folder), "--to", "hub"]) == 2
    assert "exists already" in capsys.readouterr().err


# ---- pre-training from a file without decoder and teacher -----------------------------------------------------------


def test_load_pretraining_state__says_what_is_new(tmp_path: Path) -> None:
    folder = save_hub(tmp_path / "hub", pre_trained())
    with pytest.warns(UserWarning, match="the decoder is new") as caught:
        state = load_pretraining_state(folder)
    assert [str(warning.message) for warning in caught] == [
        f"{folder} holds no decoder and no teacher: the decoder is new, with random weights, and the teacher is a copy "
        "of the student."
    ]
    student = {name.removeprefix("student."): v for name, v in state.items() if name.startswith("student.")}
    assert state.keys() == {prefix + name for prefix in ("student.", "teacher.encoder.") for name in student}
    assert all(torch.equal(state[f"teacher.encoder.{name}"], tensor) for name, tensor in student.items())
    model = pre_trained()
    del model["_ema"]
    with pytest.warns(UserWarning, match=r"holds no teacher: the teacher is a copy of the student\.$"):
        state = load_pretraining_state(save_published(tmp_path / "stripped.pt", model))
    assert "decoder.projection.weight" in state
    with pytest.raises(CheckpointError, match="fine_tuned checkpoint without student"):
        load_pretraining_state(save_hub(tmp_path / "fine_tuned", fine_tuned()))
