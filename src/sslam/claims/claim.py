"""What `experiments/claims/` states: claims, the runs that they compare, and at which scale.

Paths in a YAML file are relative to it. Nothing is run here.
"""

import json
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from sslam.errors import UsageError

STRICT = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True, config=STRICT)
class Gift:
    """What a run leaves to those that come after it: a file or folder of its run folder, for one of their options."""

    option: str
    file: str


@dataclass(frozen=True, config=STRICT)
class PlannedRun:
    """One `sslam fit`, done once for each seed.

    Args:
        files: YAML files that are merged in their order; their names, from the second on, name the run.
        scale: Section of the scale that is laid over them.
        data: What it learns from: `clips`, or `sources` for scenes whose sources are known.
        stage: Of several stages that the files state, the one that is done, from 0 on; None for all.
        options: More options of `sslam fit` with their values.
        after: File of a run that must be done before, of the same seed.
        gives: What the run leaves to those after it.
    """

    files: list[str]
    scale: str
    data: str = "clips"
    stage: int | None = None
    options: dict[str, str | int | float | bool] = field(default_factory=dict)
    after: str | None = None
    gives: Gift | None = None


@dataclass(frozen=True, config=STRICT)
class Clause:
    """One arm's number minus another's, and how much that must be.

    Args:
        better: Arm that is said to be better, or no worse.
        than: The other arm.
        evaluation: A recipe, a file of the folder of the data.
        metric: Name of a metric in the records, such as `map`; larger is better.
        more_than: What the difference must exceed: 0 for better, minus the margin for no worse. Shares lie in [0, 1].
        polyphony: Least and most events that sound at once in the clips that count; None for all clips, whose onsets
            need not be known then. A most of null has no bound.
    """

    better: str
    than: str
    evaluation: str
    metric: str
    more_than: float = 0.0
    polyphony: list[int | None] | None = None


@dataclass(frozen=True, config=STRICT)
class Claim:
    """A claim of a paper, which holds if all its clauses do.

    Args:
        claim: The claim in a sentence.
        source: Where it is from: paper, table or section.
        arms: What is compared, by name.
        clauses: What must be so.
        note: What a reader must know of this test of it.
    """

    claim: str
    source: str
    arms: dict[str, PlannedRun]
    clauses: list[Clause]
    note: str = ""


@dataclass(frozen=True, config=STRICT)
class Scale:
    """How large everything is.

    Args:
        seeds: Seeds of every pre-training.
        folds: Folds that recordings are divided into where they state none; the first is for evaluation alone.
        clones_divided_by: The numbers of clones of the stages are divided by this.
        stages: What is laid over the stages of the files, in their order: their lengths and learning rates alone, for
            the rest is what the arms compare.
        pretraining: Configs by the `scale` of a run, laid over its files.
        evaluation: Configs by the name of an evaluation, laid over its file.
    """

    seeds: list[int]
    pretraining: dict[str, dict[str, Any]]
    evaluation: dict[str, dict[str, Any]]
    stages: list[dict[Literal["steps", "learning_rate", "warmup_steps"], Any]] = field(default_factory=list)
    clones_divided_by: int = 1
    folds: int = 5


Stated = TypeVar("Stated")


def read(kind: type[Stated], path: Path) -> Stated:
    """A YAML file as a claim, a planned run or a scale.

    Raises:
        UsageError: If the file is missing, or states something else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        stated = TypeAdapter(kind).validate_json(json.dumps(content))  # of JSON, strict types may nest
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {path}. The claims of the papers are in experiments/claims/.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a YAML text file: {error}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"])) or "the file"
        raise UsageError(f"{path} is no {kind.__name__.lower()}: {key}: {fault['msg']}.") from error
    return stated


def read_claim(path: Path) -> Claim:
    """A claim whose clauses compare arms that it has.

    Raises:
        UsageError: If the file is wrong.
    """
    claim = read(Claim, path)
    if not claim.clauses:
        raise UsageError(f"{path}: clauses is empty, and a claim needs at least one.")
    for clause in claim.clauses:
        for arm in (clause.better, clause.than):
            if arm not in claim.arms:
                raise UsageError(f"{path}: there is no arm {arm!r}. The arms are: {', '.join(claim.arms)}.")
        if clause.polyphony is not None and (len(clause.polyphony) != 2 or clause.polyphony[0] is None):
            raise UsageError(f"{path}: polyphony must be [least, most], such as [2, null], got {clause.polyphony}.")
    return claim


def scaled_stages(stages: list[Mapping[str, Any]], run: PlannedRun, scale: Scale) -> list[dict[str, Any]]:
    """Those of a run's stages that it does, at a scale.

    Args:
        stages: The stages that its files state.
        run: The run.
        scale: The scale, whose stages are laid over these.

    Raises:
        UsageError: If there is no such stage, or the scale has none for it.
    """
    chosen = range(len(stages)) if run.stage is None else [run.stage]
    if chosen[-1] >= len(stages) or chosen[-1] >= len(scale.stages):
        raise UsageError(
            f"{' + '.join(run.files)}: there is no stage {chosen[-1]}: the files have {len(stages)} and the scale "
            f"{len(scale.stages)} stages, counted from 0."
        )
    scaled = []
    for number in chosen:
        stage = dict(stages[number])
        clones = int(stage.get("num_clones", PUBLISHED_CLONES))
        if clones % scale.clones_divided_by:
            raise UsageError(
                f"clones_divided_by must divide all numbers of clones, got {scale.clones_divided_by} for {clones}."
            )
        scaled.append(stage | {"num_clones": clones // scale.clones_divided_by} | scale.stages[number])
    return scaled


PUBLISHED_CLONES = 8
"""Clones of a stage that states none, the default of :class:`~sslam.stages.Stage`."""
