"""What a command has done of a long list, chunk by chunk, so that after an interruption it goes on.

A journal is a file of JSON lines: what decides the work in the first, and then one for each finished chunk. A line
without its end, which a kill has cut off, does not count.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from sslam.atomic_write import write_whole


class Journal:
    """The finished chunks of a list of files.

    Args:
        path: The journal; made with its folder if it does not exist.
        settings: Plain values that decide the results. A journal of others is begun anew, unless ``refusal`` is given.
        refusal: What to say after the values that differ, where a journal of others is not to be thrown away.

    Raises:
        ValueError: If the journal is of other settings and there is a refusal.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], refusal: str | None = None) -> None:
        self.path = path
        self.chunks: dict[int, dict[str, Any]] = {}
        before, lines = _read(path)
        if before == settings:
            self.chunks = {line.pop("chunk"): line for line in lines}
        elif before is not None and refusal is not None:
            names = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
            raise ValueError(f"{path.parent} was begun with other values of {', '.join(names)}. {refusal}")
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [dict(settings), *({"chunk": chunk, **result} for chunk, result in self.chunks.items())]
        write_whole(path, lambda partial: partial.write_text("".join(json.dumps(line) + "\n" for line in kept)))

    def of(self, chunk: int, stamp: str) -> dict[str, Any] | None:
        """The result of a chunk; None if it is not finished, or its files have changed."""
        result = self.chunks.get(chunk)
        return result if result is not None and result["stamp"] == stamp else None

    def add(self, chunk: int, stamp: str, result: Mapping[str, Any]) -> dict[str, Any]:
        """Note a finished chunk; its result as it will be read, plain values."""
        text = json.dumps({"chunk": chunk, "stamp": stamp, **result})
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(text + "\n")
        self.chunks[chunk] = json.loads(text)
        return self.chunks[chunk]


def _read(path: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except OSError:
        return None, []
    try:
        settings, *results = map(json.loads, lines)
        is_ours = isinstance(settings, dict) and all("chunk" in result and "stamp" in result for result in results)
    except (ValueError, TypeError):
        return None, []
    return (settings, results) if is_ours else (None, [])


def stamp_of(paths: Iterable[str]) -> str:
    """A digest of names, sizes and times of change of files; of one that is not there, of its name."""
    digest = blake2b(digest_size=12)
    for path in paths:
        digest.update(os.fsencode(path) + b"\0")
        try:
            status = os.stat(path)  # noqa: PTH116, a Path per file is slower
        except OSError:
            continue
        digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def names_digest(names: Sequence[str]) -> str:
    """A digest of a list of names."""
    digest = blake2b(digest_size=12)
    for name in names:
        digest.update(os.fsencode(name) + b"\0")
    return digest.hexdigest()
