"""What an evaluation leaves in its run folder: a record of numbers and where they come from, and all scores.

Read and written without torch, so that `sslam report` answers at once. Shape letters: C classes.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import BeforeValidator, ConfigDict, PlainSerializer, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

import sslam
from sslam.atomic_write import write_whole

PATTERN = "results-*.json"
STRICT = ConfigDict(strict=True, extra="forbid")

Number = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    PlainSerializer(lambda value: None if math.isnan(value) else value),
]
"""JSON has no nan: null. (An infinite d' stays, as Python's json writes and reads it.)"""


class RecordError(ValueError):
    """A results file that cannot be used; the message says why."""


@dataclass(frozen=True, config=STRICT)
class SplitCounts:
    """Clips of a split: listed by the metadata, found on disk, missing, and unreadable among those looked at."""

    listed: int
    found: int
    missing: int
    unreadable: int


@dataclass(frozen=True, config=STRICT)
class DataFacts:
    """Which data was scored.

    Args:
        title: Name in tables.
        fold: Number of the part that was held out, where the data is divided into folds.
        class_path: Class path of the data module.
        splits: Counts of `training`, `validation` and `test`, as far as the run used them.
        num_clips: Number of clips that were scored; of retrieval, compared.
        num_classes: Number of classes of the data set.
        num_classes_with_support: Number of classes of which at least one clip was scored; of retrieval, two and a clip
            without the class.
    """

    title: str
    fold: int | None
    class_path: str
    splits: dict[str, SplitCounts]
    num_clips: int
    num_classes: int
    num_classes_with_support: int

    @model_validator(mode="before")
    @classmethod
    def _fold_of_old_records(cls, facts: Any) -> Any:
        """Records of version 0.1 say the fold in the title only: `ESC-50 fold 3`."""
        if not isinstance(facts, dict) or "fold" in facts or not isinstance(title := facts.get("title"), str):
            return facts
        found = re.fullmatch(r"(.+) fold (\d+)", title)
        return facts | ({"title": found[1], "fold": int(found[2])} if found else {"fold": None})

    @property
    def title_and_fold(self) -> str:
        """`ESC-50 fold 3`, or the title alone where there are no folds."""
        return self.title if self.fold is None else f"{self.title} fold {self.fold}"


@dataclass(frozen=True, config=STRICT)
class CheckpointFacts:
    """Which weights were evaluated: `student`, `teacher`, `random` or `none`, under which name, from which file.

    Of weights on the Hub also the commit, `revision`.
    """

    label: str
    weights: str
    path: str | None
    sha256: str | None
    revision: str | None = None

    @property
    def identity(self) -> tuple[str, str, str | None]:
        """What tells weights apart: not the path, for the file may have been moved."""
        return self.label, self.weights, self.sha256


@dataclass(frozen=True, config=STRICT)
class ClassScore:
    """Average precision of a class (nan without support) and how many of the scored clips have it."""

    name: str
    support: int
    average_precision: Number


@dataclass(frozen=True, config=STRICT)
class PolyphonyScore:
    """mAP among the clips in which this many events sound at once, and what random scores reach there."""

    polyphony: int
    num_clips: int
    num_classes: int
    mean_average_precision: Number
    chance: Number


@dataclass(frozen=True, config=STRICT)
class DistinctEventsScore:
    """mAP among the clips with so many classes, `most` null for any number, and what random scores reach there."""

    fewest: int
    most: int | None
    num_clips: int
    num_classes: int
    mean_average_precision: Number
    chance: Number


@dataclass(frozen=True, config=STRICT)
class EvaluationRecord:
    """The numbers of one evaluation, with everything that is needed to trust them. Shares lie in [0, 1].

    Args:
        format_version: Version of the file's format.
        experiment: Name of the experiment.
        run_id: Name of the run.
        method: Class of the method: `LinearProbe`, `FineTune` or `QueryByExample`, or another name for one of them.
        stage: `test` or `validation`.
        epoch: Epoch of the evaluated weights.
        step: Step of the evaluated weights.
        seed: Seed of the run.
        data: What was scored.
        checkpoint: What was evaluated.
        metrics: `map`, `d_prime`, `lwlrap` and, for one label per clip, `accuracy`; means over the heads. Of retrieval
            `qbe_map` and `qbe_chance`, about what random embeddings reach.
        spread: Standard deviations (ddof 1) of the metrics over the heads; empty if there is one.
        per_class: Scores of the classes in the data's order; means over the heads. Of retrieval, a class's support is
            its examples.
        by_polyphony: Scores by ascending degree; empty where onsets are not known.
        confusion: For one label per clip: rows true classes, columns classes found, in clips, summed over the heads.
        learning_rate: Highest learning rate that was used.
        readout: What was read of the encoder; of a probe that was given several, the one that it chose.
        warnings: What a reader should know of the training, such as a learning rate at the edge of its grid.
        num_heads: Classifiers that were trained with different seeds and evaluated on the same clips.
        config: File with everything the run was given.
        git_commit: Commit of the code.
        version: Version of sslam.
        date: Date in ISO 8601, with time zone.
        by_distinct_events: Scores by the number of classes of a clip, ascending; empty where every clip has one.
    """

    format_version: Literal[1]
    experiment: str
    run_id: str
    method: str
    stage: str
    epoch: int
    step: int
    seed: int
    data: DataFacts
    checkpoint: CheckpointFacts
    metrics: dict[str, Number]
    spread: dict[str, Number]
    per_class: list[ClassScore]
    by_polyphony: list[PolyphonyScore]
    confusion: list[list[int]] | None
    learning_rate: float | None = None
    num_heads: int = 1
    readout: str | None = None
    warnings: list[str] = field(default_factory=list)
    config: str | None = None
    git_commit: str | None = None
    version: str = sslam.__version__
    date: str = field(default_factory=lambda: datetime.now().astimezone().isoformat(timespec="seconds"))
    by_distinct_events: list[DistinctEventsScore] = field(default_factory=list)

    @model_validator(mode="after")
    def _same_classes(self) -> Self:
        confusion = self.confusion or []
        lengths = {len(self.per_class), *(len(confusion) for _ in confusion), *(len(line) for line in confusion)}
        if lengths != {self.data.num_classes}:
            got = ", ".join(map(str, sorted(lengths)))
            rule = f"per_class and confusion must have {self.data.num_classes} classes as the data has"
            raise ValueError(f"{rule}, got {got}")
        return self


LARGEST_RECORD = 256 << 20  # bytes
RECORD = TypeAdapter(EvaluationRecord)


def deviation(numbers: Sequence[float]) -> float:
    """Standard deviation with ddof 1; nan if a number is not finite."""
    return float(np.std(numbers, ddof=1)) if np.isfinite(numbers).all() else math.nan


class Run(NamedTuple):
    """A record and the file that it was read from."""

    path: Path
    record: EvaluationRecord

    @property
    def name(self) -> str:
        """Experiment and run."""
        return f"{self.record.experiment}/{self.record.run_id}"

    @property
    def config(self) -> str | None:
        """The run's config file: the one the record names, else the one beside it."""
        beside = self.path.with_name("config.yaml")
        return self.record.config or (str(beside) if beside.is_file() else None)


def write_record(folder: Path, record: EvaluationRecord, arrays: dict[str, Any]) -> Path:
    """Write `results-<stage>.json`, and `scores-<stage>.npz` with the arrays and `class_names` (C,).

    Each file is whole at any time: it is written beside and renamed. Those of an earlier evaluation are replaced.

    Args:
        folder: Run folder.
        record: The numbers.
        arrays: What the numbers were computed from, by name.

    Returns:
        The JSON file.
    """
    arrays = arrays | {"class_names": np.array([score.name for score in record.per_class])}

    def write_scores(path: Path) -> None:
        with path.open("wb") as file:  # np.savez would add its extension to a name
            np.savez(file, **arrays)

    text = json.dumps(RECORD.dump_python(record), indent=1, ensure_ascii=False)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"scores-{record.stage}.npz", write_scores)
    path = folder / f"results-{record.stage}.json"
    write_whole(path, lambda partial: partial.write_text(text + "\n", encoding="utf-8"))
    return path


def read_record(path: Path) -> EvaluationRecord:
    """One results file.

    Raises:
        RecordError: If it cannot be read, or is not what :func:`write_record` writes.
    """
    if not path.is_file() or path.stat().st_size > LARGEST_RECORD:
        raise RecordError(f"{path} is no results file: no regular file of at most {LARGEST_RECORD >> 20} MiB.")
    try:
        return RECORD.validate_json(path.read_bytes())
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error.strerror}).") from error
    except ValidationError as error:
        raise RecordError(f"{path} {_fault(error)}. Evaluate the run again with this version of sslam.") from error


def _fault(error: ValidationError) -> str:
    """What is wrong with a file, and where: of several things the first."""
    fault = error.errors()[0]
    if fault["type"] == "json_invalid":
        return f"is damaged or cut short ({fault['msg']})"
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
    got = f", got {fault['input']!r:.40}" if key and fault["type"] != "missing" else ""
    return f"is not a results file of format 1 ({key or 'the file'}: {fault['msg'].removeprefix('Value error, ')}{got})"


def read_records(paths: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """All results under files, run folders and trees of run folders, and what is wrong with those not among them.

    Returns:
        The runs, oldest first, each file once; and one message for each path or file that cannot be used.
    """
    runs: dict[Path, Run] = {}
    problems = []
    for path in paths:
        if not path.exists():
            problems.append(f"There is no {path}. Pass run folders, or folders of them such as runs/.")
            continue
        files = sorted(path.rglob(PATTERN)) if path.is_dir() else [path]
        if not files:
            example = "Evaluate first, for example with sslam test, and pass the run's folder."
            problems.append(f"{path} holds no results ({PATTERN}). {example}")
        for file in files:
            try:
                runs.setdefault(file.resolve(), Run(file, read_record(file)))
            except RecordError as error:
                problems.append(str(error))
    return sorted(runs.values(), key=lambda run: (_moment(run.record.date), run.name)), list(dict.fromkeys(problems))


def _moment(date: str) -> float:
    try:
        return datetime.fromisoformat(date).timestamp()
    except ValueError:
        return -math.inf
