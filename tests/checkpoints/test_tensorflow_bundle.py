"""TensorFlow bundles: read whole, or refused with the reason; never anything else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sslam.checkpoints import CheckpointError
from sslam.checkpoints.tensorflow_bundle import bundle_files, is_bundle, read_bundle
from tests.checkpoints.tensorflow_bundles import (
    Variables,
    block,
    bundle_entries,
    entry,
    fixed32,
    header,
    masked_crc32c,
    message,
    number,
    sealed,
    separator_variables,
    table,
    varint,
    with_training_state,
    write_bundle,
    write_files,
)

VARIABLES = with_training_state(separator_variables(num_blocks=1))


def assert_equal(tensors: dict[str, torch.Tensor], variables: Variables) -> None:
    assert list(tensors) == sorted(variables)
    for name, value in variables.items():
        assert tensors[name].dtype == getattr(torch, value.dtype.name)
        assert tensors[name].shape == value.shape
        np.testing.assert_array_equal(tensors[name].numpy(), value)


@pytest.mark.parametrize("num_shards", [1, 2, 7])
@pytest.mark.parametrize("entries_per_block", [1, 5, 1000])
def test_read_bundle__gives_every_tensor_back(tmp_path: Path, num_shards: int, entries_per_block: int) -> None:
    prefix = write_bundle(tmp_path / "model.ckpt-100", VARIABLES, num_shards, entries_per_block=entries_per_block)
    assert_equal(read_bundle(prefix), VARIABLES)


def test_read_bundle__all_types_and_a_long_name(tmp_path: Path) -> None:
    variables: Variables = {
        "a/" + "é" * 600: np.array([[1.5, -2]], np.float64),
        "b": np.arange(6, dtype=np.int32).reshape(1, 2, 3),
        "c": np.array(-(2**40), np.int64),
        "d": np.array([np.nan, np.inf], np.float32),
    }
    assert_equal(read_bundle(write_bundle(tmp_path / "m", variables)), variables)


@pytest.mark.parametrize("ending", ["", ".index", ".data-00001-of-00002"])
def test_read_bundle__by_prefix_or_any_of_its_files(tmp_path: Path, ending: str) -> None:
    prefix = write_bundle(tmp_path / "model.ckpt-100", VARIABLES, num_shards=2)
    path = f"{prefix}{ending}"
    assert is_bundle(path)
    assert_equal(read_bundle(path), VARIABLES)
    names = [file.name for file in bundle_files(path)]
    assert names == [f"model.ckpt-100{end}" for end in (".index", ".data-00000-of-00002", ".data-00001-of-00002")]


def test_is_bundle__a_file_of_its_own_is_none(tmp_path: Path) -> None:
    write_bundle(tmp_path / "m.ckpt", VARIABLES)
    (tmp_path / "m.ckpt").write_bytes(b"something else")
    assert not is_bundle(tmp_path / "m.ckpt")
    assert is_bundle(tmp_path / "m.ckpt.index")
    assert not is_bundle(tmp_path / "other")
    assert not is_bundle(tmp_path)


# ---- what is refused, and in which words ----------------------------------------------------------------------------

VALUE = np.arange(4, dtype=np.float32)
GOOD = (1, (4,), 0, 0, 16, masked_crc32c(VALUE.tobytes()))


def refusal(path: Path | str) -> str:
    with pytest.raises(CheckpointError) as error:
        read_bundle(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def with_entries(tmp_path: Path, *entries: tuple[bytes, bytes], head: bytes | None = None) -> str:
    index = table([(b"", header(1) if head is None else head), *entries])
    return refusal(write_files(tmp_path / "m", index, [VALUE.tobytes()]))


def test_read_bundle__the_entry_of_these_tests_is_good(tmp_path: Path) -> None:
    index = table([(b"", header(1)), (b"w", entry(*GOOD))])
    assert_equal(read_bundle(write_files(tmp_path / "m", index, [VALUE.tobytes()])), {"w": VALUE})


def test_read_bundle__names_a_missing_file(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "m", VARIABLES, num_shards=2)
    shard = Path(f"{prefix}.data-00001-of-00002")
    shard.unlink()
    assert f"There is no file {shard}, which belongs to {prefix}.index. Put it beside" in refusal(prefix)
    Path(f"{prefix}.index").unlink()
    assert f"There is no file {prefix}.index." in refusal(prefix)


def test_read_bundle__truncated_and_changed_data(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "m", VARIABLES)
    shard = Path(f"{prefix}.data-00000-of-00001")
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    assert f"which has {len(data) - 1}. It is truncated; download it again." in refusal(prefix)
    shard.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    assert f"The tensor beta1_power in {shard} does not have its checksum." in refusal(prefix)


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data[1:-8] + b"12345678", lambda data: b"", lambda data: data[-48:]]
)
def test_read_bundle__no_table(tmp_path: Path, change: Any) -> None:
    prefix = write_bundle(tmp_path / "m", VARIABLES)
    index = Path(f"{prefix}.index")
    index.write_bytes(change(index.read_bytes()))
    text = refusal(prefix)
    assert text.startswith(str(index))
    assert "truncated or something else" in text or "cannot be used: a block is said to end at byte" in text
    assert "Download it again" in text


@pytest.mark.parametrize(("kind", "name"), [(1, "Snappy"), (2, "Zstandard"), (7, "type 7")])
def test_read_bundle__compressed(tmp_path: Path, kind: int, name: str) -> None:
    assert f"is compressed ({name})" in refusal(write_bundle(tmp_path / "m", VARIABLES, compression=kind))


def test_read_bundle__checksum_of_a_block(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "m", VARIABLES)
    index = Path(f"{prefix}.index")
    data = bytearray(index.read_bytes())
    data[30] ^= 0x40
    index.write_bytes(data)
    assert f"{index} cannot be used: the block at byte 0 does not have its checksum" in refusal(prefix)


def test_read_bundle__keys_twice_or_out_of_order(tmp_path: Path) -> None:
    good = entry(*GOOD)
    assert "the key b'w' comes twice or out of order" in with_entries(tmp_path, (b"w", good), (b"w", good))
    assert "the key b'v' comes twice or out of order" in with_entries(tmp_path, (b"w", good), (b"v", good))


@pytest.mark.parametrize(
    ("head", "message_part"),
    [
        (header(1, endianness=1), "was written on a big-endian machine"),
        (header(0), "claims 0 data files"),
        (header(10**9), "claims 1000000000 data files and must name 1 to 99999"),
        (b"", "claims 0 data files"),
        (b"\x08\xff", "The header of"),
        (b"\x0b", "The header of"),
    ],
)
def test_read_bundle__header(tmp_path: Path, head: bytes, message_part: str) -> None:
    assert message_part in with_entries(tmp_path, (b"w", entry(*GOOD)), head=head)


@pytest.mark.parametrize(
    ("value", "message_part"),
    [
        (entry(7, *GOOD[1:]), "type number 7; float32 (1), float64 (2), int32 (3) and int64 (9) are read"),
        (entry(19, (8,), *GOOD[2:]), "type number 19"),
        (entry(0, *GOOD[1:]), "type number 0"),
        (entry(*GOOD, extra=message(7, message(1, number(1, 2)))), "cut into slices (a partitioned variable)"),
        (entry(1, (5,), *GOOD[2:]), "claims 16 bytes for a torch.float32 of shape (5,)"),
        (entry(1, (2**62, 0), 0, 0, 0, 0), "at most 8 axes of at least 1"),
        (entry(1, (2**63,) * 4, *GOOD[2:]), "claims 16 bytes"),
        (entry(1, (1,) * 8 + (4,), *GOOD[2:]), "at most 8 axes"),
        (number(1, 1) + message(2, number(3, 1)), "its shape is not known"),
        (entry(1, (4,), 1, *GOOD[3:]), "w is in the data file 1 of 1, counted from 0"),
        (entry(1, (4,), 2**63, *GOOD[3:]), "w is in the data file 9223372036854775808 of 1"),
        (entry(1, (4,), 0, 1, *GOOD[4:]), "w ends at byte 17 of"),
        (entry(1, (4,), 0, 2**64 - 1, *GOOD[4:]), "w ends at byte 18446744073709551631 of"),
        (entry(1, (2**40,), 0, 0, 2**42, 0), "which has 16. It is truncated"),
        (entry(*GOOD[:5], GOOD[5] ^ 1), "does not have its checksum"),
        (entry(*GOOD)[:-4], "it claims 4 bytes where 0 are left"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "a number in it has more than 64 bits"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "a number in it has more than 64 bits"),
        (b"\x0c", "wire type 4"),
        (message(2, b"\x12\xff\xff\xff\xff\x0f"), "type number 0"),
        (number(1, 1) + message(2, b"\x12\xff\xff\xff\xff\x0f"), "it claims 4294967295 bytes where 0 are left"),
    ],
)
def test_read_bundle__entry(tmp_path: Path, value: bytes, message_part: str) -> None:
    text = with_entries(tmp_path, (b"w", value))
    assert message_part in text
    assert str(tmp_path / "m") in text


def test_read_bundle__tensors_on_each_other(tmp_path: Path) -> None:
    text = with_entries(tmp_path, *((f"w{i}".encode(), entry(*GOOD)) for i in range(3)))
    assert "claim 48 bytes and it has 16" in text


def test_read_bundle__names_that_are_no_text_cannot_steer_the_terminal(tmp_path: Path) -> None:
    assert "The entry '\\\\xff\\x1b[31m' of" in with_entries(tmp_path, (b"\xff\x1b[31m", entry(*GOOD)))
    assert "\x1b" not in with_entries(tmp_path, (b"\x1b[31m", entry(7, *GOOD[1:])))


@pytest.mark.parametrize(
    ("content", "message_part"),
    [
        (b"", "a block of 0 bytes claims 0 restart points"),
        (b"\xff\xff\xff\xff", "a block of 4 bytes claims 4294967295 restart points"),
        (b"\x05\x01\x00a" + bytes(4), "a key claims 6 bytes, 5 of them of the one before, which has 0"),
        (b"\x00" + varint(4097) + b"\x00" + b"k" * 4097 + bytes(4), "4096 are allowed"),
        (b"\x00\x01\x7fa" + bytes(4), "it claims 127 bytes where 0 are left"),
    ],
)
def test_read_bundle__block_that_is_wrong_under_its_checksum(tmp_path: Path, content: bytes, message_part: str) -> None:
    index = table([(b"", header(1))], change=lambda _: content)
    assert message_part in refusal(write_files(tmp_path / "m", index, [b""]))


def test_read_bundle__keys_that_share_their_beginning_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sslam.checkpoints.leveldb_table.MAX_TABLE_BYTES", 5000)
    entries = [(b"k" * 900 + bytes([65 + i]), b"") for i in range(8)]
    content = block(entries, restart_interval=100)
    assert len(content) < 1100
    index = table([(b"", header(1))], change=lambda _: content)
    assert "its keys have more than 5000 bytes" in refusal(write_files(tmp_path / "m", index, [b""]))
    text = refusal(write_files(tmp_path / "m", bytes(6000), [b""]))
    assert "m.index has 6000 bytes; the index of a checkpoint has at most 5000" in text


# ---- damage of every kind -------------------------------------------------------------------------------------------


def outcome(prefix: Path) -> dict[str, torch.Tensor] | None:
    """The tensors, or None for a refusal; anything else fails the test."""
    try:
        return read_bundle(prefix)
    except CheckpointError:
        return None


def test_read_bundle__cut_anywhere(tmp_path: Path) -> None:
    variables = {name: VARIABLES[name] for name in list(VARIABLES)[:12]}
    entries, shards = bundle_entries(variables)
    index = table(entries)
    for end in range(len(index)):
        assert outcome(write_files(tmp_path / "m", index[:end], shards)) is None
    for end in range(0, len(shards[0]), 3):
        assert outcome(write_files(tmp_path / "m", index, [shards[0][:end]])) is None


def test_read_bundle__one_bit_anywhere(tmp_path: Path) -> None:
    variables = {name: VARIABLES[name] for name in list(VARIABLES)[:6]}
    entries, (shard,) = bundle_entries(variables)
    index = table(entries)
    rng = np.random.default_rng(0)
    unnoticed = 0
    for position in range(len(index) + len(shard)):
        data = bytearray(index + shard)
        data[position] ^= 1 << int(rng.integers(8))
        tensors = outcome(write_files(tmp_path / "m", bytes(data[: len(index)]), [bytes(data[len(index) :])]))
        if tensors is not None:
            assert_equal(tensors, variables)  # a byte that means nothing
            unnoticed += 1
    assert unnoticed < 40  # the footer's empty space


@pytest.mark.parametrize("seed", range(4))
def test_read_bundle__nonsense_under_good_checksums(tmp_path: Path, seed: int) -> None:
    entries, shards = bundle_entries({name: VARIABLES[name] for name in list(VARIABLES)[:12]})
    rng = np.random.default_rng(seed)

    def change(content: bytes) -> bytes:
        data = bytearray(content)
        for position in rng.integers(len(data), size=rng.integers(1, 4)):
            data[position] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))])
        return bytes(data)

    read = [outcome(write_files(tmp_path / "m", table(entries, change=change), shards)) for _ in range(150)]
    assert read.count(None) > 75


def test_read_bundle__random_entries(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fields = [
        number(1, 1),
        number(1, 9),
        number(4, 5),
        number(5, 16),
        fixed32(6, 3),
        message(2, message(2, b"\x08\x04")),
    ]
    for _ in range(200):
        value = b"".join(fields[i] for i in rng.integers(len(fields), size=4)) + rng.bytes(int(rng.integers(4)))
        index = table([(b"", header(1)), (b"w", value)])
        assert outcome(write_files(tmp_path / "m", index, [VALUE.tobytes()])) is None


def test_read_bundle__index_that_points_into_itself(tmp_path: Path) -> None:
    content = block([(b"a", varint(0) + varint(10**12))], 1)
    data = sealed(content)
    footer = (varint(0) + varint(len(content))) * 2
    index = data + footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")
    assert "a block is said to end at byte 1000000000005" in refusal(write_files(tmp_path / "m", index, [b""]))
