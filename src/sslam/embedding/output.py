"""The files that ``sslam embed`` writes, each from arrays that may be larger than the memory."""

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sslam.audio_files import as_text, in_csv
from sslam.embedding.parts import Merged

PLACES = {"time": pa.float64(), "frequency_row": pa.int64()}  # of a row in its file, in seconds and from the lowest up
GROUP_BYTES = 64 * 2**20  # of a row group of a parquet file, and of what is held in memory

Writer = Callable[[Path, list[str], Merged, Mapping[str, Any]], None]


def write_npz(path: Path, files: list[str], merged: Merged, about: Mapping[str, Any]) -> None:
    """``files`` (N,), ``seconds`` (N,), ``embeddings``, and ``about``, a JSON text on how they were made.

    ``embeddings`` is (N, W) for clips. For frames it is (R, D), with ``file_index`` (R,), the row's position in
    ``files``, and ``time`` (R,) in seconds; for patches likewise, with ``frequency_row`` (R,) from the lowest up.
    """
    good = merged.num_rows > 0
    arrays: dict[str, Any] = {
        "files": np.array(files)[good],
        "seconds": merged.seconds[good],
        "embeddings": merged.columns["embedding"],
        "about": np.array(json.dumps(about)),
    }
    if "time" in merged.columns:
        arrays["file_index"] = np.repeat(np.arange(good.sum()), merged.num_rows[good])
        arrays |= {name: merged.columns[name] for name in PLACES if name in merged.columns}
    with path.open("wb") as stream:
        np.savez(stream, **arrays)


def write_parquet(path: Path, files: list[str], merged: Merged, about: Mapping[str, Any]) -> None:
    """Columns ``file``, ``seconds`` and ``embedding``; for frames and patches those of :data:`PLACES` in its place.

    ``embedding`` is a list of float32 of fixed size. The schema's metadata has a JSON text ``sslam`` on how they were
    made.
    """
    embedding = merged.columns["embedding"]
    width = embedding.shape[1]
    places = {name: kind for name, kind in PLACES.items() if name in merged.columns} or {"seconds": pa.float64()}
    schema = pa.schema(
        [("file", pa.string()), *places.items(), ("embedding", pa.list_(pa.float32(), width))],
        metadata={"sslam": json.dumps(about)},
    )
    # Arrow takes UTF-8 only, and a file name on Linux is any bytes.
    names = [as_text(name) for name in files]
    file_of_row = np.repeat(np.arange(len(files)), merged.num_rows)
    rows_at_once = max(1, GROUP_BYTES // (4 * width))
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(embedding), rows_at_once):
            rows = slice(start, start + rows_at_once)
            numbers = file_of_row[rows]
            of_rows = [merged.columns[name][rows] if name in PLACES else merged.seconds[numbers] for name in places]
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(embedding[rows].ravel()), width)
            columns = [
                pa.array([names[number] for number in numbers]),
                *(pa.array(values, kind) for values, kind in zip(of_rows, places.values(), strict=True)),
                vectors,
            ]
            writer.write_table(pa.table(columns, schema=schema))


def write_tags(path: Path, files: list[str], merged: Merged, about: Mapping[str, Any]) -> None:
    """A CSV file with the columns file, rank (from 1), label and score; as many rows per file as there are tags.

    For tags over time start and end, in seconds, stand behind the file, and there are as many rows per window.
    """
    labels = about["class_names"]
    scores, classes = merged.columns["score"], merged.columns["class"]
    is_over_time = "start" in merged.columns
    file_of_row = np.repeat(np.arange(len(files)), merged.num_rows)
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.writer(stream)
        writer.writerow(("file", *(("start", "end") if is_over_time else ()), "rank", "label", "score"))
        for row, file in enumerate(file_of_row.tolist()):
            place = [f"{merged.columns[name][row]:.3f}" for name in ("start", "end")] if is_over_time else []
            number = int(classes[row])
            label = in_csv(labels[number]) if labels else number
            writer.writerow((in_csv(files[file]), *place, row % about["tags"] + 1, label, f"{scores[row]:.6g}"))


WRITERS: dict[str, Writer] = {".npz": write_npz, ".parquet": write_parquet, ".csv": write_tags}
