"""The front end's mean and standard deviation, measured on the clips that are trained on (``statistics: auto``)."""

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from tqdm import tqdm

from sslam.atomic_write import write_whole
from sslam.frontends import Frontend
from sslam.frontends.statistics import FeatureStatistics, recording_statistics
from sslam.run_folder import run_folder

MOST_CLIPS = 2000
"""Of more training clips as many, evenly spread: the mean of all differs by less than the third digit."""
FILE = "frontend.yaml"


def measured(frontend: Frontend, trainer: pl.Trainer) -> Frontend:
    """The front end with the statistics of the trainer's data, the same on all processes.

    They are those of the training clips as the first epoch has them, without augmentation, and stand in
    ``frontend.yaml`` of the run folder besides.

    Raises:
        ValueError: If there are no training clips, or only such that cannot be used.
    """
    found, refusal = (math.nan, math.nan), ""
    if trainer.is_global_zero:
        try:
            found = _statistics(frontend, trainer)
        except ValueError as error:
            refusal = str(error)
    (mean, std), refusal = trainer.strategy.broadcast((found, refusal))
    if refusal:  # all processes end, and none waits for the first
        raise ValueError(refusal)
    rank_zero_info(f"The front end's statistics: mean {mean:.3f}, standard deviation {std:.3f}.")
    folder = run_folder(trainer)  # asked for by all processes
    if folder is not None and trainer.is_global_zero:
        write_statistics(folder / FILE, mean, std)
    return frontend.with_statistics(mean, std)


def _statistics(frontend: Frontend, trainer: pl.Trainer) -> tuple[float, float]:
    data: Any = getattr(trainer, "datamodule", None)
    clips = getattr(data, "train_set", None)
    if clips is None:
        raise ValueError(
            f"statistics auto are measured on the training clips (train_set), and {type(data).__name__} has none. Give "
            "the front end mean and std, which `sslam data stats` prints."
        )
    statistics = FeatureStatistics()
    chosen = range(0, len(clips), max(1, math.ceil(len(clips) / MOST_CLIPS)))
    for index in tqdm(chosen, "statistics", disable=None, leave=False):
        sample = clips[index]
        if "waveform" in sample:  # a bad file is named when it is trained on
            statistics += recording_statistics(frontend, sample["waveform"][: sample["num_samples"]])
    if not statistics.num_values:
        raise ValueError(f"None of the {len(clips)} training clips can be used. Give readable recordings.")
    return statistics.mean, statistics.std


def write_statistics(path: Path, mean: float, std: float) -> None:
    """As lines of YAML that give them to another run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = f"{{mean: {mean!r}, std: {std!r}, statistics: null}}"
    lines = f"model:\n  init_args:\n    frontend:\n      init_args: {known}\n"
    text = f"# Measured on the training clips of this run.\n{lines}"
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))
