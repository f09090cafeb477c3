"""Lists in another encoding than UTF-8 are refused with their line; a byte-order mark is passed over."""

from pathlib import Path

import pytest

from data_modules.fuss import read_example_list
from data_modules.manifest import read_manifest
from data_modules.metadata import read_text


@pytest.mark.parametrize("read", [read_manifest, read_example_list, lambda path: read_text(path, "List")])
def test_read__another_encoding_is_named_with_its_line(read: object, tmp_path: Path) -> None:
    path = tmp_path / "list.tsv"
    path.write_bytes(b".\nGer\xe4usch.wav\t16000\n")
    assert callable(read)
    with pytest.raises(ValueError, match=r"list.tsv', line 2: is not UTF-8"):
        read(path)


def test_read_text__a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_text("a", encoding="utf-8-sig")
    assert read_text(tmp_path / "list.tsv", "List") == "a"
