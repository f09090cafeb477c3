"""Files made to do harm, and broken ones: refused or inert, never executed."""

import os
import resource
import struct
import zipfile
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
    return f"c{module}\n{name}\n".encode()


def raw_global_of_protocol_4(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def raw_call(function: bytes, *args: bytes) -> bytes:
    return function + b"(" + b"".join(args) + b"tR"


def raw_file(path: Path, value: bytes, entry: str = "model") -> Path:
    """A checkpoint of one entry whose value is built by these opcodes."""
    torch.save({}, path)
    return rewrite_archive(path, {"data.pkl": b"\x80\x02}" + text(entry) + value + b"s."})


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
        path.write_bytes(b"\x80\x02" + call + b".")
    module = module.replace("__builtin__", "builtins")
    with pytest.raises(CheckpointError, match=rf"asks to run {module}\.{name}.*Nothing was run"):
        read_checkpoint(path)
    assert not canary.exists()


@pytest.mark.parametrize("bare", [False, True], ids=["zip", "bare pickle"])
def test_read_checkpoint__refuses_code_that_only_later_protocols_can_name(
    tmp_path: Path, canary: Path, bare: bool
) -> None:
    call = raw_call(raw_global_of_protocol_4("os", "system"), text(f"touch {canary}"))
    path = raw_file(tmp_path / "p.pt", call)
    if bare:
        path.write_bytes(b"\x80\x04" + call + b".")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint .*Unsupported operand 147"):
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
    with pytest.raises(
        CheckpointError, match="holds no state dict under 'model'|call reduce for unrecognized function"
    ):
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
        (View(0, (64,), (1,)), "resize storage|storage has wrong byte size"),
        (View(2**40, (64,), (1,)), "resize storage|allocate memory"),
        (View(0, (64,), (0,)), "of shape .64,. lies outside its storage of 4 elements"),
        (View(-1, (64,), (1,)), "invalid storage offset -1"),
        (View(0, (64,), (-1,)), "Storage size calculation overflowed"),
        (View(0, (64,), (1, 1)), r"unequal size length \(1\) and stride length \(2\)"),
        (View(0, (2**70,), (1,)), "argument 'size' failed to unpack"),
        (View(0, "64", (1,)), "invalid combination of arguments"),
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
    with pytest.raises(
        CheckpointError, match=r"norm1\.bias of shape \(1099511627776,\) lies outside its storage of 4 e"
    ):
        read_checkpoint(save_published(tmp_path / "p.pt", model))
    # An object with an absurd number, for which another unpickler would reserve memory.
    path = raw_file(tmp_path / "memo.pt", b"}r\xff\xff\xff\x7f")
    with pytest.raises(CheckpointError, match="holds no encoder"):
        read_checkpoint(path)


def test_read_checkpoint__refuses_a_storage_larger_than_the_file_holds(tmp_path: Path) -> None:
    path = save_published(tmp_path / "p.pt", pre_trained())
    with pytest.raises(CheckpointError, match="claims other bytes than its entry in the archive has"):
        read_checkpoint(rewrite_archive(path, {f"data/{i}": b"12345678" for i in range(12)}))


@pytest.mark.parametrize(
    "value",
    [
        Calls(torch.FloatTensor, 2**28),
        Calls(torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (2**33,), (1,), False),
        Calls(torch._utils._rebuild_sparse_tensor, torch.sparse_coo, (torch.zeros(1, 0).long(), torch.zeros(0), (64,))),
    ],
    ids=["of no storage of the file", "without numbers", "sparse"],
)
def test_read_checkpoint__refuses_tensors_that_are_not_in_the_file(tmp_path: Path, value: Calls) -> None:
    model = pre_trained()
    model["blocks.0.norm1.bias"] = value
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"The tensors claim \d+ bytes, and|is of a special kind"):
        read_checkpoint(save_published(tmp_path / "p.pt", model))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_read_checkpoint__refuses_many_views_of_one_storage(tmp_path: Path) -> None:
    whole = torch.zeros(2**20)
    torch.save({"model": {f"blocks.{number}": whole for number in range(100)}}, tmp_path / "p.pt")
    with pytest.raises(CheckpointError, match=r"The tensors claim 419430400 bytes, and the file has 4\d{6}\."):
        read_checkpoint(tmp_path / "p.pt")


def test_read_checkpoint__refuses_entries_that_unpack_to_more(tmp_path: Path) -> None:
    path = save_published(tmp_path / "p.pt", pre_trained())
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data + bytes(2**24) if name.endswith("data.pkl") else data)
    with pytest.raises(CheckpointError, match=r"data\.pkl claims 1\d{7} bytes; torch.save stores entries uncompressed"):
        read_checkpoint(path)


class HidesMethods:
    """Pickles as an OrderedDict with attributes in the place of its methods."""

    def __init__(self, entries: dict[str, Any]) -> None:
        self.entries = entries

    def __reduce__(self) -> Any:
        attributes = {name: Calls(os.path.join, "a", "b") for name in ("items", "keys", "get", "pop", "__iter__")}
        return OrderedDict, (), attributes, None, iter(self.entries.items())


def test_read_checkpoint__what_a_file_says_of_its_dicts_hides_no_method(tmp_path: Path) -> None:
    state = pre_trained()
    hiding = HidesMethods({**state, "_ema": HidesMethods(state["_ema"])})
    checkpoint = read_checkpoint(save_published(tmp_path / "p.pt", hiding))
    assert torch.equal(checkpoint.tensors["student.blocks.0.norm1.bias"], state["blocks.0.norm1.bias"])


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
        (b"\x80\x02]q\x00.", "was not written by torch.save"),
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


def test_read_checkpoint__a_changed_byte_among_the_numbers_is_found(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"model": {"weight": torch.ones(4096)}}, path)
    data = bytearray(path.read_bytes())
    place = data.find(torch.ones(4096).numpy().tobytes())
    assert place > 0
    data[place + 4000] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="archive entry .*data/0 is damaged"):
        read_checkpoint(path)
