"""In which batches files are embedded."""

from sslam.embedding.embed_files import fill


def test_fill__runs_are_as_full_as_allowed() -> None:
    assert fill([], 3, 10) == []
    assert fill([99.0], 3, 10) == [slice(0, 1)]
    assert fill([6, 4, 5, 1, 1, 1, 1], 3, 10) == [slice(0, 2), slice(2, 5), slice(5, 7)]
    assert fill([float("inf"), 1, 1], 3, 10) == [slice(0, 1), slice(1, 3)]
