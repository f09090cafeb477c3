"""What is given away: a checkpoint of any kind and, where it is of a run, what the run's folder tells of it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from sslam.checkpoints.architecture import UserClasses
from sslam.checkpoints.contents import read_contents
from sslam.checkpoints.loading import Checkpoint, file_sha256, read_checkpoint
from sslam.checkpoints.location import Location, is_hub_address, resolve
from sslam.checkpoints.separators import SeparatorCheckpoint, holds_separator, read_separator
from sslam.errors import CheckpointError, UsageError
from sslam.report.results import PATTERN, Run, read_records

CONFIG, DATA, CHECKPOINTS, LAST = "config.yaml", "data.json", "checkpoints", "last.ckpt"
OF_A_RUN = ("data", "model", "seed_everything", "trainer")


@dataclass(frozen=True)
class Source:
    """A model and where it comes from.

    Attributes:
        checkpoint: The encoder, without decoder and teacher, or the separator.
        location: Where its file is.
        sha256: SHA-256 of that file.
        global_step: Steps of its training; None where the file does not tell.
        config: What the run was given, as far as it matters; empty without a run.
        data: What the run found of its data: counts and hashes; empty where it wrote none.
        results: Evaluations of this model.
    """

    checkpoint: Checkpoint | SeparatorCheckpoint
    location: Location
    sha256: str
    global_step: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    results: list[Run] = field(default_factory=list)


def read_source(
    path: str,
    weights: Literal["student", "teacher"] = "student",
    results: Iterable[Path] = (),
    user_classes: UserClasses = (),
) -> Source:
    """Read a model and what is known of it.

    Args:
        path: A run's folder, whose last checkpoint is meant, or any checkpoint: a file, a folder or
            ``hf://owner/name[@revision][/file]``.
        weights: Encoder of a pre-trained checkpoint.
        results: Files ``results-*.json``, or folders of them, of evaluations beside those in the run's folder.
        user_classes: See :func:`~sslam.checkpoints.read_checkpoint`.

    Raises:
        CheckpointError: If the checkpoint cannot be used.
        UsageError: If results cannot be read, or none of those that were given are of this model.
    """
    location = resolve(path if is_hub_address(path) else _last_of_run(Path(path)))
    checkpoint: Checkpoint | SeparatorCheckpoint
    if holds_separator(location.file):
        checkpoint = read_separator(location.file, user_classes)
    else:
        checkpoint = encoder_alone(read_checkpoint(location.file, user_classes=user_classes), weights)
    sha256 = file_sha256(location.file)
    run = _run_of(location.file)
    return Source(
        checkpoint=replace(checkpoint, source_sha256=checkpoint.source_sha256 or sha256),
        location=location,
        sha256=sha256,
        global_step=read_contents(location.file).global_step,
        config=_read_config(run / CONFIG) if run else {},
        data=_read_data(run / DATA) if run else {},
        results=[
            *_own_results(run if run and _is_last(location.file) else None),
            *_given_results(results, {sha256, checkpoint.source_sha256}),
        ],
    )


def encoder_alone(checkpoint: Checkpoint, weights: Literal["student", "teacher"] = "student") -> Checkpoint:
    """The same checkpoint with one encoder, and its classifier if it has one: no decoder and no teacher.

    Raises:
        CheckpointError: If it has no teacher and that is asked for, or does not state its front end.
    """
    if weights == "teacher" and not any(name.startswith("teacher.encoder.") for name in checkpoint.tensors):
        raise CheckpointError("The file holds no teacher. Leave --weights teacher out.")
    if "frontend" not in checkpoint.networks:
        raise CheckpointError(
            "The file does not state its front end, without which the weights are of no use to others. Give a "
            "checkpoint of a run or published weights."
        )
    taken, left_out = ("teacher.encoder.", "student.") if weights == "teacher" else ("student.", "teacher.encoder.")
    tensors = {
        name.replace(taken, "student.", 1): tensor
        for name, tensor in checkpoint.tensors.items()
        if not name.startswith((left_out, "decoder."))
    }
    networks = {role: network for role, network in checkpoint.networks.items() if role != "decoder"}
    return replace(checkpoint, tensors=tensors, networks=networks)


def _last_of_run(path: Path) -> Path:
    last = path / CHECKPOINTS / LAST
    return last if last.is_file() else path


def _run_of(file: Path) -> Path | None:
    """The folder of the run that wrote a checkpoint."""
    folder = file.parent.parent if file.parent.name == CHECKPOINTS else file.parent
    return folder if (folder / CONFIG).is_file() and file.suffix == ".ckpt" else None


def _read_config(path: Path) -> dict[str, Any]:
    """Model, data, seed and trainer of a run's config, without what is null and without the way to local folders."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is no YAML ({error}). Repair it, or move the checkpoint out of the run.") from error
    stated = {name: config[name] for name in OF_A_RUN if isinstance(config, dict) and name in config}
    return dict(_publishable(stated))


def _publishable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _publishable(entry) for name, entry in value.items() if entry is not None}
    if isinstance(value, list):
        return [_publishable(entry) for entry in value]
    is_local = isinstance(value, str) and (value.startswith("~") or Path(value).is_absolute())
    return f".../{Path(value).name}" if is_local else value


def _read_data(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _is_last(file: Path) -> bool:
    """Whether a run's own results are of this checkpoint of it."""
    last = file.with_name(LAST)
    return last.exists() and file.samefile(last)


def _own_results(run: Path | None) -> list[Run]:
    if run is None:
        return []
    runs, problems = read_records(sorted(run.glob(PATTERN)))
    if problems:
        raise UsageError(" ".join(problems))
    return runs


def _given_results(paths: Iterable[Path], hashes: set[str]) -> list[Run]:
    """Evaluations of these weights, and of random ones in their place."""
    paths = list(paths)
    runs, problems = read_records(paths)
    if problems:
        raise UsageError(" ".join(problems))
    own = [run for run in runs if run.record.checkpoint.sha256 in hashes - {""}]
    if paths and not own:
        held = ", ".join(sorted({run.record.checkpoint.label for run in runs}))
        raise UsageError(
            f"None of the results is of this checkpoint, whose SHA-256 is {sorted(hashes - {''})[0][:12]}...: they are "
            f"of {held}. Evaluate it with sslam evaluate, or leave --results out."
        )
    return own
