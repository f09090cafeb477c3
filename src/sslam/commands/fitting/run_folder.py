"""Every run has a folder of its own, ``runs/<experiment>/<run id>/``, in which nothing is ever overwritten.

With several processes every one of them makes up a run id; Lightning hands the first one's folder to all
(``trainer.log_dir`` and the checkpoints' folder are broadcast) and only the first one writes.
"""

import math
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
import yaml
from filelock import FileLock
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from sslam.commands.fitting.background_saving import BackgroundCheckpoints
from sslam.errors import UsageError
from sslam.folder_lock import LOCK, lock_folder

LONGEST_NAME = 200  # file systems take 255 bytes


@dataclass(frozen=True)
class RunFolder:
    """Where one run writes.

    Args:
        root: Folder of all runs.
        experiment: Name of the experiment; one folder name.
        run_id: Name of the run; one folder name.

    Raises:
        UsageError: If a name is not one that every file system takes.
    """

    root: Path
    experiment: str
    run_id: str

    def __post_init__(self) -> None:
        for option, name in (("--experiment", self.experiment), ("--run_id", self.run_id)):
            if len(name) > LONGEST_NAME:
                raise UsageError(f"{option} must have at most {LONGEST_NAME} characters, got {len(name)}.")
            if not re.fullmatch(r"\w[\w.+=-]*", name):
                raise UsageError(
                    f"{option} must be a folder name of letters, digits, '_', '-', '.', '+' and '=', got '{name}'."
                )

    @property
    def path(self) -> Path:
        return self.root / self.experiment / self.run_id

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def hpc_checkpoints(self) -> list[Path]:
        """What Lightning has saved when SLURM ended an earlier start, the newest last."""
        return sorted(self.path.glob("hpc_ckpt_*.ckpt"), key=lambda path: path.stat().st_mtime)

    @rank_zero_only
    def check_writable(self) -> None:
        """Tries to write there before anything is built; leaves no empty run behind.

        Raises:
            UsageError: If the folder cannot be made or takes no files.
        """
        is_new = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
            if is_new:
                self.path.rmdir()
        except OSError as error:
            raise UsageError(
                f"The run folder {self.path} cannot be written ({error.strerror}). "
                "Choose another place with --trainer.default_root_dir."
            ) from error

    @rank_zero_only
    def lock(self) -> FileLock:
        """Keep a second fit out, and remove what a killed one has left unfinished.

        Raises:
            UsageError: If another fit writes there.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(self.path, "Wait for it, or choose another --run_id.")
        for partial in self.path.glob("checkpoints/**/.*.partial"):
            partial.unlink(missing_ok=True)
        return lock

    def unlock(self, lock: FileLock) -> None:
        """Let others in; of a run that has written nothing, nothing is left."""
        lock.release()
        if [entry.name for entry in self.path.iterdir()] in ([], [LOCK]):
            (self.path / LOCK).unlink(missing_ok=True)
            self.path.rmdir()

    @rank_zero_only
    def keep_old_metrics(self) -> None:
        """Moves the metrics of an earlier start, which the CSV logger would delete, to ``metrics-1.csv`` and so on."""
        metrics = self.path / "metrics.csv"
        if metrics.exists():
            metrics.rename(unused(metrics))

    def loggers(self) -> list[Logger]:
        """TensorBoard and CSV. The first one's folder is the run folder, which ``trainer.log_dir`` therefore is."""
        place: dict[str, Any] = {"save_dir": self.path.parent, "name": "", "version": self.run_id}
        return [TensorBoardLogger(**place, default_hp_metric=False), CSVLogger(**place)]


def unused(path: Path) -> Path:
    """The path itself if nothing is there, else the first unused one of ``config-1.yaml``, ``config-2.yaml``, ..."""
    candidate, number = path, 0
    while candidate.exists():
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    return candidate


def hyperparameters(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """The model's part of a config as plain values: its arguments, and its class as ``_class_path``."""
    model = yaml.safe_load(parser.dump(config, skip_unset=False))["model"]
    return {"_class_path": model["class_path"], **model.get("init_args", {})}


class SaveRunConfig(SaveConfigCallback):
    """Writes the resolved config into the run folder, and keeps what an earlier start left there.

    Args:
        parser: Parser of the command.
        config: Lightning's; with what this run alone needs.
        run_folder: Where to write.
        given: The config as it was given, with all defaults.
    """

    def __init__(self, parser: ArgumentParser, config: Namespace, run_folder: RunFolder, given: Namespace) -> None:
        # Without save_to_log_dir only save_config below is called, on the first process.
        super().__init__(parser, given, save_to_log_dir=False)  # type: ignore[arg-type]
        self.run_folder = run_folder

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        folder = self.run_folder.path
        folder.mkdir(parents=True, exist_ok=True)
        # A file that is used again makes a new run of the same experiment.
        config = self.config.clone()
        config["experiment"], config["run_id"] = self.run_folder.experiment, None
        config["compose"] = None  # it is all here
        text = self.parser.dump(config, skip_unset=False)
        unused(folder / "config.yaml").write_text(text, encoding="utf-8")
        for logger in trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(text))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # Plain values, from which load_from_checkpoint rebuilds the model and a resumed run sees what has changed.
        checkpoint["hyper_parameters"] = {
            **hyperparameters(self.parser, self.config),
            "_instantiator": "lightning.pytorch.cli.instantiate_module",
        }


class RunCheckpoint(ModelCheckpoint):
    """Keeps the newest state as ``last.ckpt``, and a milestone now and then; the end of training is always kept.

    Args:
        every_n_train_steps: Optimizer steps between two states, of which the newest is kept.
        every_minutes: A state is left out that comes sooner after the last one; milestones never are. Saving costs the
            copying of the state; it is written while training goes on.
        milestone_steps: States at multiples of this many steps are kept for good; best a multiple of the above.
        monitor: Metric of the validation, such as `val/qbe_map`; the state after the validation in which it was best is
            kept beside the others as ``best.ckpt``. None keeps none by a metric.
        mode: Whether the largest (`max`) or the smallest (`min`) value of it is the best one.
    """

    def __init__(
        self,
        every_n_train_steps: int = 1000,
        milestone_steps: int = 50_000,
        monitor: str | None = None,
        mode: Literal["max", "min"] = "max",
        every_minutes: float = 0.0,
    ) -> None:
        if not every_minutes >= 0:
            raise ValueError(f"checkpoint.every_minutes must be at least 0, got {every_minutes}.")
        for name, steps in (("every_n_train_steps", every_n_train_steps), ("milestone_steps", milestone_steps)):
            if steps < 1:
                raise ValueError(f"checkpoint.{name} must be at least 1, got {steps}.")
        # Without a dirpath Lightning takes `checkpoints` in the run folder.
        super().__init__(
            filename="{step:08d}",
            save_last="link",
            save_top_k=1,
            every_n_train_steps=every_n_train_steps,
        )
        self.every_minutes = every_minutes
        self.milestone_steps = milestone_steps
        self._saved_at = time.monotonic()
        # Not Lightning's monitor, which would decide over last.ckpt and the milestones too.
        self.watched_metric = monitor
        self.watched_mode = mode
        self.best_value: float | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._comes_too_soon(trainer):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _comes_too_soon(self, trainer: pl.Trainer) -> bool:
        step = trainer.global_step
        if not self.every_minutes or step % self._every_n_train_steps or step % self.milestone_steps == 0:
            return False
        too_soon = time.monotonic() - self._saved_at < 60 * self.every_minutes
        # The first process's clock decides, at these steps alone.
        return bool(trainer.strategy.broadcast(too_soon)) if trainer.world_size > 1 else too_soon

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        self._saved_at = time.monotonic()

    def _save_last_checkpoint(self, trainer: pl.Trainer, monitor_candidates: dict[str, Any]) -> None:
        checkpoints = trainer.strategy.checkpoint_io
        if not self.last_model_path and isinstance(checkpoints, BackgroundCheckpoints):
            checkpoints.wait()  # its name is the first that is free, where a link to a removed file counts as free
        super()._save_last_checkpoint(trainer, monitor_candidates)

    @staticmethod
    def _link_checkpoint(trainer: pl.Trainer, filepath: str, linkpath: str) -> None:
        checkpoints = trainer.strategy.checkpoint_io
        if not isinstance(checkpoints, BackgroundCheckpoints):
            ModelCheckpoint._link_checkpoint(trainer, filepath, linkpath)
        elif trainer.is_global_zero:
            checkpoints.afterwards(lambda: _link(Path(filepath), Path(linkpath)))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if self.watched_metric is None or trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        if self.watched_metric not in trainer.callback_metrics:
            raise UsageError(
                f"checkpoint.monitor must be a metric that the validation logs, got {self.watched_metric}. Choose from "
                f"{', '.join(sorted(name for name in trainer.callback_metrics if name.startswith('val/')))}."
            )
        value = float(trainer.callback_metrics[self.watched_metric])  # the same on all processes
        sign = 1 if self.watched_mode == "max" else -1
        if not math.isnan(value) and (self.best_value is None or sign * value > sign * self.best_value):
            self.best_value = value
            trainer.save_checkpoint(self.best_path)

    @property
    def best_path(self) -> Path:
        assert self.dirpath is not None
        return Path(self.dirpath) / "best.ckpt"

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.save_now(trainer)

    def save_now(self, trainer: pl.Trainer) -> None:
        """Keep the state as it is, unless that of this step is kept already; called on every process."""
        # A linear probe on kept tokens ends without an optimizer step of the trainer's.
        if trainer.global_step != self._last_global_step_saved or not self.last_model_path:
            candidates = self._monitor_candidates(trainer)
            self._save_topk_checkpoint(trainer, candidates)
            self._save_last_checkpoint(trainer, candidates)
        if isinstance(checkpoints := trainer.strategy.checkpoint_io, BackgroundCheckpoints):
            checkpoints.wait()
        trainer.strategy.barrier("the checkpoint is written")  # or a process that has ended would end the writer

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"watched": [self.watched_metric, self.watched_mode, self.best_value]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # A run that goes on in a folder of its own has nothing to do with the files of the other folder.
        if state_dict["dirpath"] == self.dirpath:
            super().load_state_dict(state_dict)
            # The file knows its value; the state that the run goes on from may be older than the file.
            if self.watched_metric is not None and self.best_path.is_file():
                best = torch.load(self.best_path, map_location="cpu", weights_only=True, mmap=True)
                # Under whichever settings it was written, which its key holds.
                states = [state["watched"] for state in best["callbacks"].values() if "watched" in state]
                *metric, value = states[0] if states else (None, None)
                self.best_value = value if metric == [self.watched_metric, self.watched_mode] else None

    def _should_remove_checkpoint(self, trainer: pl.Trainer, previous: str, current: str) -> bool:
        step = re.match(r"step=(\d+)", Path(previous).name)
        is_milestone = step is not None and int(step[1]) % self.milestone_steps == 0
        return not is_milestone and super()._should_remove_checkpoint(trainer, previous, current)


def _link(file: Path, link: Path) -> None:
    """Let a link lead to a file of its folder, in place of an older one, which is there until then."""
    partial = link.with_name(f".{link.name}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(file.name)
    partial.replace(link)


class SavesBeforeOthers(pl.Callback):
    """Keeps the state at the end of training, as the first callback: Lightning calls those that save after all others,
    and one of these may fail.
    """

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, RunCheckpoint):
                callback.save_now(trainer)
