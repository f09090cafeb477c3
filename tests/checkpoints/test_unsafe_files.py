"""Files made to do harm, and broken ones: refused or inert, never executed."""

import os
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sslam.checkpoints import CheckpointError, read_checkpoint
from sslam.commands.convert import main
from tests.checkpoints.published_files import pre_trained, rewrite_archive, save_published


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that exists once something was executed."""
    return tmp_path / "canary"


class Calls:
    """Pickles as the call ``function(*args)``."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def raw_global(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def raw_call(function: bytes, *args: bytes) -> bytes:
    return function + b"(" + b"".join(args) + b"tR"


def raw_file(path: Path, value: bytes, entry: str = "model") -> Path:
    """A checkpoint of one entry whose value is built by these opcodes."""
    torch.save({}, path)
    return rewrite_archive(path, {"data.pkl": b"\x80\x04}" + text(entry) + value + b"s."})


def test_the_attack_of_these_tests_works_where_nothing_guards(tmp_path: Path, canary: Path) -> None:
    path = save_published(tmp_path / "p.pt", pre_trained(), harm=Calls(os.system, f"touch {canary}"))
    torch.load(
        raw_file(tmp_path / "raw.pt", raw_call(raw_global("os", "system"), text(f"touch {canary}"))), weights_only=False
    )
    assert canary.exists()
    canary.unlink()
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    assert not canary.exists()


@pytest.mark.parametrize("bare", [False, True], ids=["zip", "bare pickle"])
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("__builtin__", "__import__"),
        ("importlib", "import_module"),
        ("runpy", "run_path"),
        ("sys", "modules"),
        ("shutil", "rmtree"),
        ("torch.hub", "load"),
    ],
)
def test_read_checkpoint__refuses_and_names_code_execution(
    tmp_path: Path, canary: Path, module: str, name: str, bare: bool
) -> None:
    call = raw_call(raw_global(module, name), text(f"touch {canary}"))
    path = raw_file(tmp_path / "p.pt", call)
    if bare:
        path.write_bytes(b"\x80\x04" + call + b".")
    with pytest.raises(CheckpointError, match=rf"asks to run {module}\.{name}.*Nothing was run"):
        read_checkpoint(path)
    assert not canary.exists()


def test_convert__a_harmful_entry_beside_good_weights_is_refused(tmp_path: Path, canary: Path, capsys: Any) -> None:
    path = save_published(tmp_path / "p.pt", pre_trained(), extra_state=Calls(eval, f"open({str(canary)!r}, 'w')"))
    assert main([str(path), str(tmp_path / "ours")]) == 2
    assert "asks to run builtins.eval" in capsys.readouterr().err.replace("__builtin__", "builtins")
    assert not canary.exists()
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    "function",
    [
        raw_call(raw_global("builtins", "getattr"), raw_global("torch.serialization", "os"), text("system")),
        raw_global("torch.serialization", "os.system"),
        raw_global("numpy.testing._private.utils", "runstring"),
        raw_call(raw_global("functools", "partial"), raw_global("torch.serialization", "os.system")),
    ],
    ids=["getattr of a module", "dotted name", "numpy's runstring", "partial"],
)
def test_read_checkpoint__other_calls_are_inert(tmp_path: Path, canary: Path, function: bytes) -> None:
    path = raw_file(tmp_path / "p.pt", raw_call(function, text(f"touch {canary}")))
    with pytest.raises(CheckpointError, match="holds no state dict under 'model'"):
        read_checkpoint(path)
    assert not canary.exists()


def test_read_checkpoint__nothing_named_is_imported(tmp_path: Path, canary: Path, monkeypatch: Any) -> None:
    (tmp_path / "trap.py").write_text(f"open({str(canary)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds no state dict .*model \(trap\.Model\)"):
        read_checkpoint(raw_file(tmp_path / "p.pt", raw_global("trap", "Model") + b")\x81"))
    assert not canary.exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        raw_global("torch._utils", "_rebuild_tensor_v2") + b"}" + text("__defaults__") + b"Nsb",
        raw_global("torch._utils", "_rebuild_tensor_v2") + b"N}" + text("function") + b"Ns\x86b",
        raw_global("torch", "FloatStorage") + b"N}" + text("dtype") + b"Ns\x86b",
        raw_global("collections", "OrderedDict") + b"N}" + text("get") + b"Ns\x86b",
        raw_global("fairseq", "Thing") + b"N}" + text("__setstate__") + b"Ns\x86b",
    ],
)
def test_read_checkpoint__a_file_cannot_alter_what_it_is_read_with(tmp_path: Path, opcodes: bytes) -> None:
    path = raw_file(tmp_path / "p.pt", opcodes)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    read_checkpoint(save_published(tmp_path / "good.pt", pre_trained()))


def test_read_checkpoint__placeholder_in_place_of_a_tensor(tmp_path: Path) -> None:
    model = pre_trained()
    model["blocks.0.norm1.bias"] = Calls(os.path.join, "a", "b")
    with pytest.raises(CheckpointError, match=r"Not tensors:\n  blocks\.0\.norm1\.bias \(posixpath\.join\)"):
        read_checkpoint(save_published(tmp_path / "p.pt", model))


class View:
    """Pickles as a tensor view of 4 numbers with any offset, shape and stride."""

    def __init__(self, offset: Any, shape: Any, stride: Any) -> None:
        self.view = (offset, shape, stride)

    def __reduce__(self) -> Any:
        storage = torch.zeros(4)._typed_storage()  # type: ignore[no-untyped-call]
        return torch._utils._rebuild_tensor_v2, (storage, *self.view, False, OrderedDict())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize(
    ("view", "message"),
    [
        (View(0, (64,), (1,)), "lies outside its storage of 4 elements"),
        (View(2**40, (64,), (1,)), "lies outside its storage"),
        (View(0, (64,), (0,)), "lies outside its storage"),
        (View(-1, (64,), (1,)), "cannot exist"),
        (View(0, (64,), (-1,)), "cannot exist"),
        (View(0, (64,), (1, 1)), "cannot exist"),
        (View(0, (2**70,), (1,)), "cannot exist"),
        (View(0, "64", (1,)), "cannot exist"),
    ],
)
def test_read_checkpoint__refuses_views_outside_their_storage(
    tmp_path: Path, view: View, message: str, legacy: bool
) -> None:
    model = pre_trained()
    model["blocks.0.norm1.bias"] = view
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(save_published(tmp_path / "p.pt", model, legacy=legacy))


def test_read_checkpoint__refuses_absurd_shapes_before_reserving_memory(tmp_path: Path) -> None:
    model = pre_trained()
    model["blocks.0.norm1.bias"] = View(0, (2**40,), (0,))
    with pytest.raises(CheckpointError, match=r"blocks\.0\.norm1\.bias \(1099511627776,\), expected \(64,\)"):
        read_checkpoint(save_published(tmp_path / "p.pt", model))
    path = raw_file(tmp_path / "memo.pt", b"}r\xff\xff\xff\x7f")
    with pytest.raises(CheckpointError, match="Object number 2147483647 in a pickle of"):
        read_checkpoint(path)


def test_read_checkpoint__refuses_a_storage_larger_than_the_file_holds(tmp_path: Path) -> None:
    path = save_published(tmp_path / "p.pt", pre_trained())
    with pytest.raises(CheckpointError, match="claims .* bytes but the file holds 8 for it"):
        read_checkpoint(rewrite_archive(path, {f"data/{i}": b"12345678" for i in range(12)}))


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "archive/../../evil", "C:\\evil", "..\\evil"])
def test_read_checkpoint__refuses_archive_entries_that_point_outside(tmp_path: Path, name: str) -> None:
    path = rewrite_archive(save_published(tmp_path / "p.pt", pre_trained()), {}, add={name: b"harm"})
    with pytest.raises(CheckpointError, match="points outside the archive"):
        read_checkpoint(path)
    assert [file.name for file in tmp_path.iterdir()] == ["p.pt"]


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.99])
def test_read_checkpoint__refuses_truncated_files(tmp_path: Path, share: float, legacy: bool) -> None:
    path = save_published(tmp_path / "p.pt", pre_trained(), legacy=legacy)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match="truncated|damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"# just a text file\n" * 10, "cannot be read as a checkpoint"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "cannot be read as a checkpoint"),
        (b"\x80\x04]q\x00.", "was not written by torch.save"),
        (struct.pack("<Q", 10) + b'{"a": 1 }x', "is damaged"),
        (struct.pack("<Q", 2**60) + b"{}", "is damaged"),
    ],
)
def test_read_checkpoint__refuses_what_is_no_checkpoint(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


def test_read_checkpoint__refuses_other_content(tmp_path: Path) -> None:
    path = tmp_path / "p.pt"
    torch.save([torch.zeros(3)], path)
    with pytest.raises(CheckpointError, match="it holds a list"):
        read_checkpoint(path)
    torch.save({"weights": {"a": torch.zeros(3)}, "n": 1}, path)
    with pytest.raises(CheckpointError, match=r"it holds weights \(dict\), n \(int\)"):
        read_checkpoint(path)
    torch.save({"model": {"a": torch.zeros(3)}}, path)
    with pytest.raises(CheckpointError, match="The file holds no encoder"):
        read_checkpoint(path)


def test_messages_do_not_obey_control_characters_of_the_file(tmp_path: Path) -> None:
    model = pre_trained()
    model["\x1b[2Jcleared"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(save_published(tmp_path / "p.pt", model))
    assert "\x1b" not in str(error.value)
    assert "'\\x1b[2Jcleared'" in str(error.value)
