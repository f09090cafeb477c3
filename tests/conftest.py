"""What every test is held to."""

from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of large lists is kept in the test's own folder; the folder appears when something is."""
    monkeypatch.setenv("SSLAM_CACHE", str(tmp_path.with_name(f"{tmp_path.name}-cache")))


@pytest.fixture(autouse=True)
def _no_litter() -> Iterator[None]:
    """Nothing is written into the repository's root, the working directory of most tests."""

    def entries() -> set[str]:
        return {path.name for path in ROOT.iterdir() if not path.name.startswith((".", "__"))}

    before = entries()
    yield
    litter = entries() - before
    assert not litter, f"the repository's root has something new: {', '.join(sorted(litter))}"
