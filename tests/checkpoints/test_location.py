"""Where weights come from: a folder, or a cache of the Hub without a network."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import constants

from sslam.checkpoints import CheckpointError, load_pretraining_state, load_separator
from sslam.checkpoints.location import resolve
from sslam.checkpoints.provenance import read_encoder
from sslam.commands import convert, embed, evaluate, separate
from sslam.commands.evaluated_weights import weights_at
from sslam.networks import TDCN
from tests.checkpoints.hub_files import COMMIT, put_into_cache, save_hub, tokens
from tests.checkpoints.published_files import fine_tuned, pre_trained, save_published

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


def test_resolve__without_a_name_server_says_so_at_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the cache is there all the same."""

    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it asks again"))
    with pytest.raises(CheckpointError, match="is not in the cache, and the Hub cannot be reached. Check the network"):
        resolve("hf://owner/nothing")
    assert resolve("hf://owner/pretrain").revision == COMMIT


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
