"""Where a run writes."""

from pathlib import Path

import lightning.pytorch as pl


def run_folder(trainer: pl.Trainer) -> Path | None:
    """The folder of the trainer's logger, or else its ``default_root_dir``; None where no place was chosen.

    Without either Lightning takes the working directory, into which nothing is written unasked. A broadcast: all
    processes must ask, and not only the one that writes.
    """
    folder = Path(trainer.log_dir or trainer.default_root_dir)
    return None if folder.resolve() == Path.cwd() else folder


def required_run_folder(trainer: pl.Trainer, callback: pl.Callback) -> Path:
    """The same for a callback that cannot do without.

    Raises:
        ValueError: If no place was chosen.
    """
    folder = run_folder(trainer)
    if folder is None:
        raise ValueError(
            f"{type(callback).__name__} writes into the run's folder, and the trainer has none but the working "
            "directory. Give it a logger or a default_root_dir."
        )
    return folder
