"""Which checkpoint of a run its own results are of."""

from pathlib import Path

from sslam.exporting.source import _is_last


def test_is_last__the_newest_state_under_either_of_its_names(tmp_path: Path) -> None:
    newest, milestone, last = (tmp_path / name for name in ("step=8.ckpt", "step=4.ckpt", "last.ckpt"))
    for path in (newest, milestone):
        path.write_bytes(b"weights")
    assert not _is_last(newest)  # nothing says which is the last
    last.symlink_to(newest.name)
    assert _is_last(last)
    assert _is_last(newest)
    assert not _is_last(milestone)
