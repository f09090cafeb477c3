"""What the tests of several commands need."""

from collections.abc import Callable, Sequence

import lightning.pytorch  # noqa: F401  # its log handler keeps the stream that is there when it is imported: not a test's

from tests.data_modules.conftest import write_bad_files
from tests.report.conftest import write_run

__all__ = ["write_bad_files", "write_run"]


def exit_code(main: Callable[[list[str]], int], args: Sequence[object]) -> int:
    """Of a command, also where its parser leaves it."""
    try:
        return main([str(arg) for arg in args])
    except SystemExit as stop:
        return int(stop.code or 0)
