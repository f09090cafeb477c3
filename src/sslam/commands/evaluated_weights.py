"""What `sslam evaluate` evaluates, one row of its table each: checkpoints, random weights, features as baselines."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from sslam.commands.fitting.config_files import experiments_folder, locate
from sslam.commands.recipes import stated_arguments
from sslam.errors import UsageError

BASELINES = {"log-mel statistics": "log_mel_statistics", "MFCC statistics": "mfcc_statistics"}
"""Features that any encoder must beat, by their names in the table, which are added to every one."""


@dataclass(frozen=True)
class Weights:
    """One row of the table.

    Args:
        label: What the table calls it.
        file: The checkpoint, or a YAML file with an encoder that needs none.
        random: Take the checkpoint's architecture with random weights.
    """

    label: str
    file: str
    random: bool = False

    @property
    def is_yaml(self) -> bool:
        """Whether it is an encoder that needs no checkpoint."""
        return self.file.endswith((".yaml", ".yml"))

    @property
    def has_own_readout(self) -> bool:
        """Whether its YAML file says what is read of its encoder."""
        return self.is_yaml and "pooling" in stated_arguments([self.file], "model")


def weights_of(options: argparse.Namespace) -> list[Weights]:
    """The rows of the table: random weights and the baselines, unless they are not wanted, then what is given.

    Raises:
        UsageError: If a checkpoint is missing or a name is given twice.
    """
    rows = []
    for given in options.checkpoint:
        label, equals, file = given.partition("=")
        if not equals or Path(given).exists():
            label, file = None, given
        if label == "":
            raise UsageError(f"--checkpoint {given} has an empty name. Pass --checkpoint NAME=FILE, or the file alone.")
        rows.append(weights_at(label, locate(file)))
    first = next((row.file for row in rows if not row.is_yaml), None)
    if options.random and first is None:
        raise UsageError("--random takes a checkpoint's architecture, and none is given. Pass --checkpoint FILE.")
    if not options.no_baselines:
        given_files = {row.file for row in rows}
        baselines = [Weights(label, file) for label, file in baseline_files().items() if file not in given_files]
        rows = [*baselines, *rows]
    if first is not None and (options.random or not options.no_baselines):
        rows.insert(0, Weights("random weights", first, random=True))
    labels = [row.label for row in rows]
    if twice := {label for label in labels if labels.count(label) > 1}:
        raise UsageError(
            f"Two checkpoints are called {', '.join(twice)}. Pass --checkpoint NAME=FILE with other names."
        )
    return rows


def weights_at(label: str | None, file: str) -> Weights:
    """One row, of a revision of the Hub that is the same for all runs.

    Raises:
        UsageError: If there is no checkpoint.
    """
    if Path(file).is_file():
        return Weights(label or Path(file).stem, str(Path(file).absolute()))
    if not (re.match("hf:/{1,2}[^/]", file) or Path(file).is_dir()):
        raise UsageError(f"There is no checkpoint {file}. Pass --checkpoint NAME=FILE with the path of one.")
    from sslam.checkpoints.location import resolve  # takes seconds to import

    found = resolve(file)
    return Weights(label or found.name, found.address if found.revision else str(found.file.absolute()))


def baseline_files() -> dict[str, str]:
    """Files of the baselines that are always added, by their names in the table."""
    folder = experiments_folder() / "evaluation" / "baselines"
    return {label: str(folder / f"{name}.yaml") for label, name in BASELINES.items()}
