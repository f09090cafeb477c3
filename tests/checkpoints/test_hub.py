"""Weights in the layout of the Hugging Face Hub, from a file, a folder or a cache of the Hub without a network."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from sslam.checkpoints import CheckpointError, load_encoder, load_pretraining_state, load_separator, read_checkpoint
from sslam.checkpoints.location import resolve
from sslam.checkpoints.provenance import read_encoder
from sslam.commands import convert, embed, evaluate, separate
from sslam.commands.evaluated_weights import weights_at
from sslam.frontends import KaldiFbank
from sslam.networks import TDCN
from tests.checkpoints.hub_files import COMMIT, config, hub_names, put_into_cache, save_hub
from tests.checkpoints.published_files import fine_tuned, pre_trained, save_published
from tests.reference.formulas import input_formula

MODELS = {"pre-trained": pre_trained, "fine-tuned": fine_tuned}


@torch.no_grad()
def tokens(path: str | Path) -> torch.Tensor:
    return load_encoder(path).eval()(torch.from_numpy(input_formula(2)).squeeze(1))


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


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_resolve__a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"which holds none\. Name the file: .*run/FILE\."):
        resolve(folder)
    (folder / "checkpoints" / "last.ckpt").touch()
    assert resolve(folder).file == folder / "checkpoints" / "last.ckpt"
    assert (resolve(folder).name, resolve(folder).revision) == ("run", None)
    (folder / "checkpoints" / "step=1.ckpt").touch()
    with pytest.raises(CheckpointError, match=r"which holds last\.ckpt, step=1\.ckpt\. Name the file"):
        resolve(folder)
    for name in ("SSLAM_pretrained.pt", "pytorch_model.bin", "model.safetensors"):  # each is preferred to the last
        (folder / name).touch()
        assert resolve(folder).file == folder / name


# ---- the Hub, without a network --------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the Hub with weights under owner/pretrain, owner/finetuned and owner/separator."""
    path = tmp_path / "cache"
    fairseq = save_published(tmp_path / "SSLAM_pretrained.pt", pre_trained())
    shutil.copy(fairseq, save_hub(tmp_path / "pretrain", pre_trained()))
    put_into_cache(path, "owner/pretrain", tmp_path / "pretrain")
    put_into_cache(path, "owner/finetuned", save_hub(tmp_path / "finetuned", fine_tuned(), "pytorch_model.bin"))
    separator = TDCN(num_sources=2, num_basis=8, width=8, hidden_width=8, num_blocks=2)
    state = {f"separator.{name}": tensor for name, tensor in separator.state_dict().items()}
    (tmp_path / "mixit").mkdir()
    torch.save(
        {"state_dict": state, "architecture": {"separator": separator.architecture()}}, tmp_path / "mixit" / "last.ckpt"
    )
    put_into_cache(path, "owner/separator", tmp_path / "mixit")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return path


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    folder.mkdir()
    for number in range(2):
        samples = np.sin(np.arange(16_000) * (0.05 + 0.01 * number)).astype(np.float32) * 0.3
        soundfile.write(folder / f"{number}.wav", samples, 16_000)
    return folder


@pytest.mark.parametrize(
    ("address", "file"),
    [
        ("hf://owner/pretrain", "model.safetensors"),
        ("hf://owner/pretrain@main", "model.safetensors"),
        (f"hf://owner/pretrain@{COMMIT}", "model.safetensors"),
        ("hf://owner/pretrain/SSLAM_pretrained.pt", "SSLAM_pretrained.pt"),
        (Path("hf://owner/pretrain@main/SSLAM_pretrained.pt"), "SSLAM_pretrained.pt"),
        ("hf://owner/finetuned", "pytorch_model.bin"),
        ("hf://owner/separator", "last.ckpt"),
    ],
)
def test_resolve__an_address_of_the_hub(cache: Path, address: str | Path, file: str) -> None:
    location = resolve(address)
    repository = str(address).replace("hf://", "hf:/").removeprefix("hf:/").split("@")[0]
    owner, name = repository.split("/")[:2]
    assert location.address == f"hf://{owner}/{name}@{COMMIT}/{file}"
    assert (location.name, location.revision, location.file.name) == (name, COMMIT, file)
    assert location.file.is_file()
    assert resolve(location.address) == location


def test_read_encoder__records_the_commit(cache: Path) -> None:
    trained = read_encoder("hf://owner/pretrain")
    assert trained.provenance["path"] == f"hf://owner/pretrain@{COMMIT}/model.safetensors"
    assert trained.provenance["revision"] == COMMIT
    assert trained.provenance["label"] == "student of pretrain"
    assert len(trained.provenance["sha256"]) == 64


def test_load__from_the_hub(cache: Path, tmp_path: Path) -> None:
    torch.testing.assert_close(tokens("hf://owner/pretrain"), tokens(tmp_path / "pretrain"), rtol=0, atol=0)
    assert load_separator("hf://owner/separator").num_sources == 2
    with pytest.warns(UserWarning, match=r"hf://owner/pretrain holds no decoder and no teacher"):
        load_pretraining_state("hf://owner/pretrain")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_pretraining_state("hf://owner/pretrain/SSLAM_pretrained.pt")


def test_embed__from_the_hub(cache: Path, recordings: Path, tmp_path: Path) -> None:
    for repository, output, more in (("pretrain", "a.npz", []), ("finetuned", "a.csv", ["--tags", "2"])):
        output_path = tmp_path / output
        args = [str(recordings), "--checkpoint", f"hf://owner/{repository}", "--output", str(output_path), *more]
        assert embed.main([*args, "--device", "cpu"]) == 0
        assert output_path.is_file()


def test_separate__from_the_hub(cache: Path, recordings: Path, tmp_path: Path) -> None:
    args = [str(recordings), "--checkpoint", "hf://owner/separator", "--device", "cpu"]
    assert separate.main([*args, "--output", str(tmp_path / "separated")]) == 0
    assert (tmp_path / "separated" / "1_source2.wav").is_file()
    assert COMMIT in (tmp_path / "separated" / "separation.jsonl").read_text()
    assert separate.main([*args, "--cache", str(tmp_path / "channels")]) == 0
    assert (tmp_path / "channels" / "separator").is_dir()


def test_convert__from_the_hub(cache: Path, tmp_path: Path) -> None:
    for repository in ("pretrain", "finetuned", "separator"):
        output = tmp_path / f"{repository}.safetensors"
        assert convert.main([f"hf://owner/{repository}", str(output)]) == 0
        assert output.is_file()


def test_evaluate__gives_every_run_the_same_commit(cache: Path) -> None:
    row = weights_at(None, "hf://owner/pretrain")
    assert (row.label, row.file) == ("pretrain", f"hf://owner/pretrain@{COMMIT}/model.safetensors")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://owner/nothing", "hf://owner/nothing is not in the cache, and HF_HUB_OFFLINE is set."),
        ("hf://owner/pretrain@other", "hf://owner/pretrain@other is not in the cache, and HF_HUB_OFFLINE is set."),
        ("hf://owner/pretrain/other.pt", "hf://owner/pretrain/other.pt is not in the cache"),
        ("hf://owner/pretrain/modeling_eat.py", "names no file of weights. Its name must end in .safetensors"),
        ("hf://owner/pretrain/../../secret.pt", "names no file of weights."),
        ("hf://owner", "hf://owner is no address of the Hub. Write it as hf://owner/name"),
        ("hf://owner/na me", "is no address of the Hub."),
    ],
)
def test_commands__say_in_one_line_what_the_hub_has_not(
    cache: Path, recordings: Path, tmp_path: Path, address: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "out.npz")
    for main, args in (
        (convert.main, [address, output]),
        (embed.main, [str(recordings), "--checkpoint", address, "--output", output]),
        (separate.main, [str(recordings), "--checkpoint", address, "--output", str(tmp_path / "separated")]),
        (evaluate.main, ["--checkpoint", address, "--task", "esc50", "--method", "linear_probe"]),
    ):
        assert main(args) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1


def test_resolve__a_commit_in_the_cache_needs_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert resolve(f"hf://owner/pretrain@{COMMIT}").revision == COMMIT


@pytest.mark.slow
def test_convert__no_network_is_one_line(tmp_path: Path) -> None:
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "sslam", "convert", "hf://owner/nothing", str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "sslam convert: hf://owner/nothing is not in the cache, and the Hub cannot be reached. Check the network, or "
        "give a local file.\n"
    )


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("GatedRepoError", "hf://owner/other is gated: ask for access on its page, then log in"),
        ("RepositoryNotFoundError", "hf://owner/other is no repository on the Hub, or a private one"),
        ("RevisionNotFoundError", "hf://owner/other has no such revision"),
        ("HfHubHTTPError", "hf://owner/other cannot be downloaded (refused). Try again later."),
    ],
)
def test_resolve__what_the_hub_refuses(cache: Path, monkeypatch: pytest.MonkeyPatch, error: str, message: str) -> None:
    import httpx
    import huggingface_hub

    def refuse(*args: Any, **kwargs: Any) -> str:
        response = httpx.Response(403, request=httpx.Request("HEAD", "https://huggingface.co"))
        raise getattr(huggingface_hub.errors, error)("refused", response=response)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        resolve("hf://owner/other")
