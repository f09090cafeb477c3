"""What the sub-commands of ``sslam data`` share: the number of workers, and names for a data module's arguments."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager

from sslam.commands.command import is_users_mistake, positive_integer
from sslam.errors import UsageError


def add_num_workers(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--num_workers``, of which there are four unless the machine has fewer cores."""
    parser.add_argument(
        "--num_workers",
        type=positive_integer,
        default=min(4, os.cpu_count() or 1),
        help=f"{what} (default: %(default)s)",
    )


@contextmanager
def options_called(name: str, own_name: str) -> Iterator[None]:
    """Give back what a data module says is wrong, which speaks of options of ``sslam fit``, in the command's own words.

    Raises:
        UsageError: For a mistake of the user.
    """
    try:
        yield
    except ValueError as error:
        if not is_users_mistake(error):
            raise
        raise UsageError(str(error).replace(name, own_name)) from error
