"""TensorFlow V2 checkpoints written without TensorFlow, from the descriptions of the formats; damage on request.

The checksums are TensorBoard's, not ours.
"""

import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c as slow_masked_crc32c

from sslam.checkpoints.crc32c import masked_crc32c as fast_masked_crc32c
from tests.reference.mixit_formulas import formula_weight

TYPES = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int64": 9, "float16": 19}
MAGIC = 0xDB4775248B80FB57
Variables = dict[str, NDArray[Any]]


def masked_crc32c(data: bytes) -> int:
    # TensorBoard's takes a minute for a full-size model; that both agree is tested.
    return int(slow_masked_crc32c(data)) if len(data) < 10_000 else fast_masked_crc32c(data)


# ---- protocol buffers -----------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    low = [value >> shift & 0x7F for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([byte | 0x80 for byte in low[:-1]] + low[-1:])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def fixed32(field: int, value: int) -> bytes:
    return varint(field << 3 | 5) + struct.pack("<I", value)


def message(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def header(num_shards: int, endianness: int = 0) -> bytes:
    big = number(2, endianness) if endianness else b""
    return number(1, num_shards) + big + message(3, number(1, 1))


def entry(
    dtype: int, shape: Iterable[int], shard: int, offset: int, size: int, checksum: int, extra: bytes = b""
) -> bytes:
    """A BundleEntryProto; zeros are left out, as protocol buffers do."""
    axes = b"".join(message(2, number(1, axis) if axis else b"") for axis in shape)
    fields = [number(1, dtype), message(2, axes)]
    fields += [number(field, value) for field, value in ((3, shard), (4, offset), (5, size)) if value]
    return b"".join([*fields, fixed32(6, checksum), extra])


# ---- the table ------------------------------------------------------------------------------------------------------


def block(entries: Iterable[tuple[bytes, bytes]], restart_interval: int) -> bytes:
    """Keys that share their beginning with the one before, except at restart points."""
    data, restarts, last = b"", [], b""
    for count, (key, value) in enumerate(entries):
        shared = 0
        if count % restart_interval == 0:
            restarts.append(len(data))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        data += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    return data + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def sealed(content: bytes, compression: int = 0) -> bytes:
    data = content + bytes([compression])
    return data + struct.pack("<I", masked_crc32c(data))


def table(
    entries: list[tuple[bytes, bytes]],
    entries_per_block: int = 5,
    compression: int = 0,
    change: Callable[[bytes], bytes] = bytes,
) -> bytes:
    """An index file; ``change`` is applied to the content of every block of entries before its checksum is made."""
    data, handles = b"", []
    for start in range(0, len(entries), entries_per_block):
        chunk = entries[start : start + entries_per_block]
        content = change(block(chunk, restart_interval=3))
        handles.append((chunk[-1][0], varint(len(data)) + varint(len(content))))
        data += sealed(content, compression)
    footer = b""
    for content in (block([], 1), block(handles, 1)):  # filters, index
        footer += varint(len(data)) + varint(len(content))
        data += sealed(content)
    return data + footer.ljust(40, b"\0") + struct.pack("<Q", MAGIC)


# ---- bundles --------------------------------------------------------------------------------------------------------


def bundle_entries(
    variables: Mapping[str, NDArray[Any]], num_shards: int = 1
) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
    """The sorted entries of the index, header first, and the contents of the data files."""
    shards, entries = [bytearray() for _ in range(num_shards)], [(b"", header(num_shards))]
    for count, name in enumerate(sorted(variables)):
        value, shard = variables[name], count % num_shards
        data = value.astype(value.dtype.newbyteorder("<")).tobytes()
        place = (shard, len(shards[shard]), len(data), masked_crc32c(data))
        entries.append((name.encode(), entry(TYPES[value.dtype.name], value.shape, *place)))
        shards[shard] += data
    return entries, [bytes(shard) for shard in shards]


def write_files(prefix: Path, index: bytes, shards: list[bytes]) -> Path:
    """The files of a bundle; returns the prefix."""
    for old in prefix.parent.glob(f"{prefix.name}.*"):
        old.unlink()
    Path(f"{prefix}.index").write_bytes(index)
    for shard, data in enumerate(shards):
        Path(f"{prefix}.data-{shard:05d}-of-{len(shards):05d}").write_bytes(data)
    return prefix


def write_bundle(
    prefix: Path, variables: Mapping[str, NDArray[Any]], num_shards: int = 1, **table_options: Any
) -> Path:
    entries, shards = bundle_entries(variables, num_shards)
    return write_files(prefix, table(entries, **table_options), shards)


# ---- separators -----------------------------------------------------------------------------------------------------


def separator_variables(
    num_sources: int = 3, window: int = 40, num_blocks: int = 3, shares: bool = True, norm: str = "instance_norm"
) -> Variables:
    """Formula weights of a small published separator: 6 basis functions, 4 channels, 5 inside the blocks."""
    num_basis, width, hidden = 6, 4, 5
    shapes: dict[str, list[int]] = {
        "conv_encoder/dense/kernel": [window, num_basis],
        "initial_dense/dense/kernel": [num_basis, width],
        "initial_dense/dense/bias": [width],
        "initial_dense/dense_scale/scale_layer": [],
        "dense/kernel": [width, num_sources * num_basis],
        "conv_decoder/dense_1/kernel": [num_basis, window],
    }
    if shares:
        shapes["mix_weights/dense/kernel"] = [width, num_sources]
    for prefix in (f"improved_tdcn/conv_block_{index}/tdcn_block" for index in range(num_blocks)):
        shapes[f"{prefix}/dense1/dense/kernel"] = [width, hidden]
        shapes[f"{prefix}/dense2/dense/kernel"] = [hidden, width]
        shapes[f"{prefix}/timeconv/separable_conv/depthwise_kernel"] = [3, 1, hidden, 1]
        shapes[f"{prefix}/timeconv/separable_conv/bias"] = [hidden]
        for half in (1, 2):
            shapes[f"{prefix}/dense{half}/dense_scale/scale_layer"] = []
            shapes[f"{prefix}/normact{half}/prelu/prelu"] = []
            shapes[f"{prefix}/normact{half}/{norm}/gamma"] = [1]
            shapes[f"{prefix}/normact{half}/{norm}/beta"] = [1]
    return {name: formula_weight(name, shape) for name, shape in shapes.items()}


def with_training_state(variables: Variables, step: int = 3_223_090) -> Variables:
    """What a training checkpoint holds besides: two averages per variable, their decays, the step."""
    slots = {f"{name}/{slot}": value for name, value in variables.items() for slot in ("Adam", "Adam_1")}
    decays = {f"beta{i}_power": np.array(0.5, np.float32) for i in (1, 2)}
    return variables | slots | decays | {"global_step": np.array(step, np.int64)}
