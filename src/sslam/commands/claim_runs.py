"""Pre-training runs of `sslam claims`, each a process of `sslam fit`."""

import copy
import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from sslam.claims.claim import PlannedRun, Scale, read, scaled_stages
from sslam.commands.child_process import last_said, run_child
from sslam.commands.exit_codes import DONE
from sslam.commands.fitting.config_files import composed_files, experiments_folder, read_config_file
from sslam.commands.made_from import keep, made_from
from sslam.errors import UsageError


@dataclass(frozen=True)
class ClaimData:
    """What claims are tested on.

    Args:
        title: Name on the page.
        folder: YAML files of the data by their use: `clips.yaml`, `polyphony.yaml`, ...
        options: What their data modules are given besides.
    """

    title: str
    folder: Path
    options: tuple[str, ...]

    def file(self, name: str) -> str:
        return str(self.folder / f"{name}.yaml")


@dataclass(frozen=True)
class PretrainingRun:
    """A planned run with one seed; claims that plan the same share it.

    Args:
        planned: What its YAML file states.
        base: Folder that the file's paths are relative to.
        scale: How large it is.
        data: What it learns from.
        seed: Seed of the run and of the order of its data.
        root: Folder of all runs.
    """

    planned: PlannedRun
    base: Path
    scale: Scale
    data: ClaimData
    seed: int
    root: Path

    @property
    def name(self) -> str:
        """Names of the files from the second on, the stage that is done, and the options."""
        stems = [Path(file).stem for file in self.planned.files]
        parts = stems[1:] or stems
        if self.planned.stage is not None:
            parts.append(f"stage_{self.planned.stage + 1}")
        parts += [f"{name.rpartition('.')[2]}={value}" for name, value in self.planned.options.items()]
        return re.sub(r"[^\w.=-]+", "_", "-".join(parts))

    @property
    def folder(self) -> Path:
        return self.root / self.name / f"seed_{self.seed}"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def _end(self) -> Path:
        return self.folder / "finished"

    @property
    def is_finished(self) -> bool:
        return self._end.is_file()

    @cached_property
    def before(self) -> "PretrainingRun | None":
        """The run that must be done first, of the same seed."""
        if self.planned.after is None:
            return None
        file = self.base / self.planned.after
        planned = read(PlannedRun, file)
        return PretrainingRun(planned, file.parent, self.scale, self.data, self.seed, self.root)

    @property
    def first_encoder(self) -> "PretrainingRun":
        """The run with whose weights this one's encoder began, however many are between; itself if it began anew."""
        before = self.before
        if before is None or before.planned.gives is None or before.planned.gives.option != "model.initial_checkpoint":
            return self
        return before.first_encoder

    @property
    def files(self) -> list[str]:
        own = [os.path.normpath(self.base / file) for file in self.planned.files]
        return [*own, self.data.file(self.planned.data)]

    @property
    def scaled(self) -> dict[str, Any]:
        """What the scale lays over the files.

        Raises:
            UsageError: If the scale has no such section, or does not fit the stages.
        """
        if self.planned.scale not in self.scale.pretraining:
            raise UsageError(
                f"{self.name} has the scale {self.planned.scale}, and the file of --scale has only "
                f"{', '.join(self.scale.pretraining)} under pretraining. Add a section."
            )
        config = copy.deepcopy(self.scale.pretraining[self.planned.scale])
        stages = stated_stages(self.files)
        if stages:
            arguments = config.setdefault("model", {}).setdefault("init_args", {})
            arguments["stages"] = scaled_stages(stages, self.planned, self.scale)
        return config

    def options(self) -> dict[str, str]:
        """What it is given beside the files and the data."""
        options = {
            "--experiment": self.name,
            "--run_id": f"seed_{self.seed}",
            "--trainer.default_root_dir": str(self.root),
            "--seed_everything": str(self.seed),
            "--data.seed": str(self.seed),
            "--ckpt_path": "last",  # goes on with an interrupted run, or starts it
            **{f"--{name}": json.dumps(value) for name, value in self.planned.options.items()},
        }
        if self.before is not None and (gift := self.before.planned.gives) is not None:
            options[f"--{gift.option}"] = str((self.before.folder / gift.file).absolute())
        return options

    def command(self) -> list[str]:
        configs = [word for file in [*self.files, json.dumps(self.scaled)] for word in ("--config", file)]
        own = [word for option in self.options().items() for word in option]
        return [sys.executable, "-m", "sslam", "fit", *configs, *self.data.options, *own]

    @property
    def shown_command(self) -> str:
        """The command for people: the files, without what is the same for all arms."""
        options = [word for name, value in self.planned.options.items() for word in (f"--{name}", json.dumps(value))]
        project = experiments_folder().parent
        own = [Path(file).absolute() for file in self.files[:-1]]
        shown = [str(file.relative_to(project) if file.is_relative_to(project) else file) for file in own]
        files = [word for file in shown for word in ("--config", file)]
        return shlex.join(["sslam", "fit", *files, *options])

    def made_from(self) -> dict[str, str]:
        """What decides the weights."""
        gift = None if self.before is None else self.before.planned.gives
        before = "" if self.before is None or gift is None else str(self.before.folder / gift.file)
        more = [json.dumps(self.scaled, sort_keys=True), *self.data.options]
        options = {name: value for name, value in self.options().items() if value != str(Path(before).absolute())}
        return made_from(before if Path(before).is_file() else "", self.files, options, more)

    def do(self) -> tuple[int, str]:
        """Run it, or go on with it.

        Returns:
            Exit code, and where it failed what the run said last.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        keep(self.folder, self.made_from())
        log = self.folder / "log.txt"
        with log.open("a", encoding="utf-8") as stream:
            start = stream.tell()
            code = run_child(self.command(), stream)
        if code == DONE:
            self._end.touch()
            return DONE, ""
        return code, last_said(log, start, "fit")

    def budget(self) -> tuple[int, int]:
        """Steps and clips seen, by the config of the finished run."""
        config = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        trainer, stages = config["trainer"], config["model"]["init_args"].get("stages")
        limits = [sum(stage["steps"] for stage in stages)] if stages else []
        limits += [trainer["max_steps"]] if trainer["max_steps"] > 0 else []
        steps = min(limits)
        return steps, steps * config["data"]["init_args"]["batch_size"] * trainer["accumulate_grad_batches"]

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"


def stated_stages(files: list[str]) -> list[Mapping[str, Any]]:
    """The stages that files state which are merged in this order, their blocks read; none if they have none."""
    for file in reversed([name for given in files for name in (*composed_files(given), given)]):
        model = read_config_file(file).get("model")
        stages = model.get("init_args", {}).get("stages") if isinstance(model, dict) else None
        if stages is not None:
            folder = Path(file).parent
            return [read_config_file(str(folder / each)) if isinstance(each, str) else each for each in stages]
    return []
