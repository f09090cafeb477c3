"""`--push` with a stand-in for the Hub."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import huggingface_hub
import pytest

from tests.checkpoints.hub_files import COMMIT

Export = Callable[..., tuple[int, str]]


class StandIn:
    """Takes what the Hub's API would be given."""

    calls: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012
    refuses = False

    def create_repo(self, repository: str, **kwargs: Any) -> None:
        if self.refuses:
            response = httpx.Response(403, request=httpx.Request("POST", "https://hub.invalid"))
            raise huggingface_hub.errors.HfHubHTTPError("403 Forbidden", response=response)
        self.calls.append((repository, kwargs))

    def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> SimpleNamespace:
        files = {file.name for file in Path(folder_path).iterdir()}
        self.calls.append((repo_id, {"files": files, "card": (Path(folder_path) / "README.md").read_text()}))
        return SimpleNamespace(oid=COMMIT)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    stand_in = type("Hub", (StandIn,), {"calls": []})
    monkeypatch.setattr(huggingface_hub, "HfApi", stand_in)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
    return stand_in


@pytest.mark.parametrize("private", [False, True])
def test_push__makes_the_repository_and_uploads_all_files(
    private: bool, checkpoints: dict[str, Path], export: Export, tmp_path: Path, hub: type[StandIn]
) -> None:
    more = ["--private"] if private else []
    assert export(checkpoints["pre_trained"], tmp_path / "model", "--push", "me/mine", *more) == (0, "")
    made, uploaded = hub.calls
    assert made == ("me/mine", {"private": private, "exist_ok": True})
    assert uploaded[0] == "me/mine"
    assert uploaded[1]["files"] == {"README.md", "config.json", "model.safetensors"}
    assert 'AudioEmbedder.from_checkpoint("hf://me/mine")' in uploaded[1]["card"]
    assert uploaded[1]["card"].split("# ")[1].startswith("mine\n")


def test_push__without_a_login_is_one_line_and_writes_nothing(
    checkpoints: dict[str, Path], export: Export, tmp_path: Path, hub: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    said = (
        "sslam export: You are not logged in to the Hub. Log in with hf auth login or HF_TOKEN, or leave --push out.\n"
    )
    assert export(checkpoints["pre_trained"], tmp_path / "model", "--push", "me/mine") == (2, said)
    assert list(tmp_path.iterdir()) == []
    assert hub.calls == []


def test_push__what_the_hub_refuses_leaves_the_folder(
    checkpoints: dict[str, Path], export: Export, tmp_path: Path, hub: type[StandIn]
) -> None:
    hub.refuses = True
    code, said = export(checkpoints["pre_trained"], tmp_path / "model", "--push", "me/mine")
    assert (code, said.count("\n")) == (2, 1)
    assert "me/mine was not uploaded (403 Forbidden" in said
    assert f"hf upload me/mine {tmp_path / 'model'}" in said
    assert (tmp_path / "model/README.md").is_file()


@pytest.mark.parametrize("name", ["mine", "hf://me/mine", "me/mine/model", "me/my model"])
def test_push__other_names_are_refused(
    name: str, checkpoints: dict[str, Path], export: Export, tmp_path: Path, hub: type[StandIn]
) -> None:
    code, said = export(checkpoints["pre_trained"], tmp_path / "model", "--push", name)
    assert (code, "--push must be owner/name" in said) == (2, True)
    assert not (tmp_path / "model").exists()


def test_private__needs_push(checkpoints: dict[str, Path], export: Export, tmp_path: Path) -> None:
    assert (
        "--private is of the repository of --push" in export(checkpoints["pre_trained"], tmp_path / "m", "--private")[1]
    )
