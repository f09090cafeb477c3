"""`sslam fit | validate | test | predict`: Lightning's command line with run folders, short errors and safe resuming.

YAML files name methods, data modules and callbacks; what is particular to a method it says itself.
"""

import logging
import math
import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from jsonargparse import Namespace
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from callbacks import StopOnSignal, StoppedBySignal, TrainingProgress
from sslam.commands.command import CHECKING_MODULES, is_users_mistake, new_run_id
from sslam.commands.exit_codes import DONE, FAILED, INTERRUPTED, OF_SIGNAL, USERS_MISTAKE
from sslam.commands.fitting.background_saving import BackgroundCheckpoints
from sslam.commands.fitting.class_paths import find_method
from sslam.commands.fitting.config_files import experiment_name, locate_config_files
from sslam.commands.fitting.error_messages import ShortErrorParser
from sslam.commands.fitting.resume import (
    ConfigWins,
    SameStart,
    check_state_fits,
    differing_hyperparameters,
    load_checkpoint,
    resolve_checkpoint,
)
from sslam.commands.fitting.run_folder import (
    RunCheckpoint,
    RunFolder,
    SaveRunConfig,
    SavesBeforeOthers,
    hyperparameters,
    unused,
)
from sslam.errors import UsageError, for_terminal

WANDB_REMEDY = "Run `wandb login` once, or keep the log on this machine: --trainer.logger.init_args.offline true."

MEANT_TO_BE_SO = (
    r"(Experiment logs|Checkpoint) directory .* exists and is not empty",  # nothing in it is overwritten
    r"Found \d+ module\(s\) in eval mode",  # a teacher is
    r"`LightningModule.configure_optimizers` returned `None`",  # a linear probe on kept tokens
    r"Total length of `list` across ranks is zero",  # no validation
    r"The ``compute`` method of metric \w+ was called before the ``update``",  # MixIT where no sources are known
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own use
)


class SSLAMCommandLine(LightningCLI):
    """Lightning's command line, which calls these methods in this order; the comments say where it differs.

    Args:
        on_exit: Takes what is to be done when the command ends, in any way.
        **kwargs: Of LightningCLI.
    """

    def __init__(self, on_exit: ExitStack, **kwargs: Any) -> None:
        self.on_exit = on_exit
        super().__init__(**kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--experiment",
            type=str | None,
            help="Name of the folder of its runs; the first --config's name if not given.",
        )
        parser.add_argument(
            "--run_id",
            type=str | None,
            help="Name of this run's folder; the time if not given. An old one is continued.",
        )
        parser.add_argument(
            "--resume",
            type=str | None,
            help="Name of a run that is to go on in its folder from its last whole checkpoint, or to begin if there is "
            "none: the same as --run_id NAME --ckpt_path last.",
        )
        parser.add_argument(
            "--compose", type=list[str] | None, help="In a YAML: files it builds on, which are merged before it."
        )
        parser.add_argument(
            "--test_after_fit",
            type=bool,
            default=False,
            help="Evaluate the final weights on the test set when training has ended.",
        )
        # Arguments of their own, so that a YAML's list of callbacks does not remove them.
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_lightning_class_args(TrainingProgress, "progress")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.usage = f"sslam {subcommand} --config FILE.yaml [--config FILE.yaml]... [--key value]..."
        parser.set_defaults({"weights_only": True})  # also for an address, where Lightning's default executes the file
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.args = list(args)
        # Without Lightning's warning that the process has arguments too: they are these.
        self.config = parser.parse_args(args)
        config = self.config[self.config.subcommand]
        check_trainer_options(self.config.subcommand, config.trainer)
        if not isinstance(config.seed_everything, bool) and not 0 <= (config.seed_everything or 0) < 2**32:
            raise UsageError(f"seed_everything must be between 0 and {2**32 - 1}, got {config.seed_everything}.")

    def _parse_ckpt_path(self) -> None:
        # Lightning would let the checkpoint's hyper-parameters replace the config's here.
        subcommand, config = self.config.subcommand, self.config[self.config.subcommand]
        files = [str(file) for file in config.config or [] if file is not None]
        name = experiment_name(files) if files else config.model.class_path.rsplit(".", 1)[-1].lower()
        if config.resume is not None:
            if config.ckpt_path is not None or config.run_id not in (None, config.resume):
                raise UsageError(
                    f"--resume {config.resume} is --run_id {config.resume} --ckpt_path last in one word. Leave "
                    f"{'--ckpt_path' if config.ckpt_path is not None else '--run_id'} out."
                )
            config.run_id, config.ckpt_path, config.resume = config.resume, "last", None
        root = Path(config.trainer.default_root_dir or "runs")
        self.run_folder = RunFolder(root, config.experiment or name, config.run_id or new_run_id())
        self.checkpoint: dict[str, Any] | None = None
        self.checkpoint_differences: list[str] = []
        if config.ckpt_path is None and self.run_folder.hpc_checkpoints and SLURMEnvironment.detect():
            config.ckpt_path = str(self.run_folder.hpc_checkpoints[-1])  # Lightning would take it without a word
        if config.ckpt_path is None:
            return
        is_old_run = config.run_id is not None
        config.ckpt_path = resolve_checkpoint(str(config.ckpt_path), self.run_folder, is_old_run)
        if config.ckpt_path is None and subcommand != "fit":
            raise UsageError(f"There is no checkpoint in {self.run_folder.checkpoints}.")
        if config.ckpt_path is None:
            rank_zero_info(f"No checkpoint in {self.run_folder.checkpoints} yet: the run starts from the beginning.")
        elif Path(config.ckpt_path).is_file():
            self.checkpoint = load_checkpoint(config.ckpt_path)
            configured = hyperparameters(self._parser(subcommand), config)
            self.checkpoint_differences = differing_hyperparameters(self.checkpoint, configured)

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        self.run_folder.check_writable()
        if self.subcommand == "fit" and (lock := self.run_folder.lock()) is not None:  # on the first process
            self.on_exit.callback(self.run_folder.unlock, lock)
        # A copy, so that the saved file does not send the next run's logger into this run's folder.
        self.save_config_kwargs = {"run_folder": self.run_folder, "given": config.clone()}
        callback_keys = self._parser(self.subcommand).callback_keys
        if config.trainer.enable_checkpointing is False:
            callback_keys.remove("checkpoint")
        if config.trainer.enable_progress_bar is False:
            callback_keys.remove("progress")
        # The last of all, so that the state of the others is that after the step.
        own: list[pl.Callback] = [SameStart(config.ckpt_path), StopOnSignal()]
        self.trainer_defaults = {"callbacks": ([ConfigWins()] if self.checkpoint_differences else []) + own}
        for logger in without_booleans(config.trainer.logger):
            arguments = logger.get("init_args") or {}
            if "save_dir" in arguments and arguments["save_dir"] in (".", None):
                arguments["save_dir"] = str(self.run_folder.path.absolute())
        method, arguments = find_method(config.model.class_path), vars(config.model.get("init_args") or Namespace())
        if config.ckpt_path is not None:
            arguments.update(method.arguments_for_resuming(arguments, config.ckpt_path))
        elif self.subcommand != "fit" and (what_is_random := method.what_is_random(arguments)):
            rank_zero_print(f"{what_is_random} Give it with --ckpt_path.")

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        self.run_folder.keep_old_metrics()
        given = self.config_init[self.subcommand].trainer.logger
        # TensorBoard and CSV are always there; a logger in a YAML comes on top. `logger: false` turns all off.
        loggers = False if given is False else [*self.run_folder.loggers(), *without_booleans(given)]
        trainer = super().instantiate_trainer(default_root_dir=str(self.run_folder.path), logger=loggers, **kwargs)
        trainer.callbacks.insert(0, SavesBeforeOthers())  # type: ignore[attr-defined]
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment):
            environment.auto_requeue = (
                False  # which would save inside a signal handler; StopOnSignal saves after a step
            )
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = BackgroundCheckpoints()
        return trainer

    def after_instantiate_classes(self) -> None:
        if self.checkpoint is None:
            return
        path = self.config[self.subcommand].ckpt_path
        check_state_fits(path, self.checkpoint, self.model, self.checkpoint_differences)
        if self.checkpoint_differences and self.subcommand == "fit":
            rank_zero_info(f"The config wins over {path}: {'; '.join(self.checkpoint_differences)}.")
        self.checkpoint = None

    # Lightning calls these, where they exist, instead of the trainer's methods of the same name.

    def fit(self, **kwargs: Any) -> None:
        try:
            self.trainer.fit(**kwargs)
        except StoppedBySignal as stop:
            if stop.is_saved:
                going_on = command_that_goes_on(self.args, self.run_folder.run_id)
                state = f"saved: {self.run_folder.checkpoints / 'last.ckpt'}. Go on with\n{going_on}"
            else:
                state = "not saved, because trainer.enable_checkpointing is false."
            rank_zero_print(f"{signal.Signals(stop.signum).name} after step {stop.step}, {state}")
            raise

    def after_fit(self) -> None:
        """Called by Lightning when training has ended."""
        if self.config[self.subcommand].test_after_fit and not self.trainer.interrupted:
            self._write_results(self.trainer.test(self.model, datamodule=self.datamodule, verbose=False), "test")

    def validate(self, **kwargs: Any) -> None:
        self._write_results(self.trainer.validate(**kwargs), "validate")

    def test(self, **kwargs: Any) -> None:
        self._write_results(self.trainer.test(**kwargs), "test")

    def predict(self, **kwargs: Any) -> None:
        predictions = self.trainer.predict(**kwargs)
        # Every process has the predictions of its own clips.
        folder = Path(self.trainer.log_dir or self.run_folder.path)
        folder.mkdir(parents=True, exist_ok=True)
        path = unused(folder / f"predictions-{self.trainer.global_rank}.pt")
        torch.save(predictions, path)
        rank_zero_info(f"Predictions: {path}")

    def _write_results(self, results: Sequence[Mapping[str, float]], name: str) -> None:
        if self.trainer.is_global_zero:
            path = unused(self.run_folder.path / f"{name}.yaml")
            path.write_text(yaml.safe_dump([dict(result) for result in results]), encoding="utf-8")


def check_trainer_options(subcommand: str, trainer: Namespace) -> None:
    """Refuses what Lightning takes without a word and does not mean what it says.

    Raises:
        UsageError: With the option.
    """
    if trainer.accumulate_grad_batches < 1:
        raise UsageError(f"trainer.accumulate_grad_batches must be at least 1, got {trainer.accumulate_grad_batches}.")
    if trainer.gradient_clip_val is not None and not 0 <= trainer.gradient_clip_val < math.inf:
        raise UsageError(
            f"trainer.gradient_clip_val must be at least 0, or null for no clipping, got {trainer.gradient_clip_val}."
        )
    number = int(trainer.devices) if re.fullmatch(r"[+-]?\d+", str(trainer.devices)) else None
    if number is not None and (number == 0 or number < -1):
        raise UsageError(f"trainer.devices must be at least 1, -1 for all, or auto, got {number}.")
    most = max(8, os.cpu_count() or 1)
    if trainer.accelerator == "cpu" and number is not None and number > most:
        raise UsageError(f"trainer.devices must be at most {most} processes on this machine's processor, got {number}.")
    limit = {"fit": "train", "validate": "val"}.get(subcommand, subcommand)
    if trainer[f"limit_{limit}_batches"] == 0:
        raise UsageError(
            f"trainer.limit_{limit}_batches must be greater than 0, got 0: sslam {subcommand} would do nothing."
        )


def command_that_goes_on(args: Sequence[str], run_id: str) -> str:
    """The command line of a run with ``--run_id RUN --ckpt_path last`` in place of what it had of these."""
    kept: list[str] = []
    words = iter(args)
    for word in words:
        option, equals, _ = word.partition("=")
        if option not in ("--run_id", "--ckpt_path", "--resume"):
            kept.append(word)
        elif not equals:
            next(words, None)
    return shlex.join(["sslam", *kept, "--run_id", run_id, "--ckpt_path", "last"])


@rank_zero_only
def rank_zero_print(warning: str) -> None:
    """Writes to standard error, on the first process."""
    print(f"sslam: {warning}", file=sys.stderr)


def without_booleans(loggers: Any) -> list[Any]:
    """The loggers of ``trainer.logger``, which is one, several, true, false or nothing."""
    given = loggers if isinstance(loggers, list) else [loggers]
    return [logger for logger in given if logger is not None and not isinstance(logger, bool)]


def is_of_wandb(error: BaseException) -> bool:
    """Whether Weights & Biases refuses, known without importing it: no login, no network, a wrong entity."""
    return type(error).__module__.startswith("wandb.")


def is_of_early_stopping(error: BaseException) -> bool:
    """Whether a metric that training is to stop by is not there, or has become infinite."""
    return isinstance(error, RuntimeError) and str(error).startswith("Early stopping conditioned on metric")


def mistake_in_worker(error: BaseException) -> UsageError | None:
    """The check of ours that has failed in a process that reads clips; torch hands over its traceback as a text."""
    if not re.match(r"Caught \w*Error in DataLoader worker process", str(error)):
        return None
    files = re.findall(r'^ *File "(.+?)", line', str(error), re.MULTILINE)
    ours = tuple(str(Path(sys.modules[name].__path__[0]).resolve()) for name in ("sslam", "data_modules"))
    if not isinstance(error, ValueError | OSError) or not files or not files[-1].startswith(ours):
        return None
    return UsageError(str(error).strip().splitlines()[-1].partition(": ")[2])


def has_lost_a_process(error: BaseException) -> bool:
    """Whether another process of the run has ended, as the backends say it."""
    said = (
        r"Connection (closed|reset) by peer|Broken pipe|Connection refused|remote process|NCCL.*(abort|timeout|remote)"
    )
    return isinstance(error, RuntimeError) and re.search(said, str(error)) is not None


def users_mistake_behind(error: BaseException) -> BaseException | None:
    """The user's mistake that led to an error, or None; jsonargparse wraps what a nested class's constructor raises."""
    # These check arguments.
    checking_modules = (*CHECKING_MODULES, "lightning.pytorch.trainer.connectors.", "torch.optim.")
    cause: BaseException | None = error
    while cause is not None:
        is_known = isinstance(cause, MisconfigurationException) or is_of_wandb(cause) or is_of_early_stopping(cause)
        is_of_the_disk = isinstance(cause, OSError) and cause.errno is not None  # a library that is missing has none
        if is_known or is_of_the_disk or is_users_mistake(cause, checking_modules):
            return cause
        if (in_worker := mistake_in_worker(cause)) is not None:
            return in_worker
        cause = cause.__cause__
    return None


def main(args: Sequence[str]) -> int:
    """Runs one command, such as ``["fit", "--config", "experiments/pretrain.yaml"]``.

    Returns:
        Exit code: 0 for success, 2 for a mistake of the user, which has been explained on standard error; 130, 143 or
        75 if SIGINT, SIGTERM or SIGUSR1 has ended it, see :mod:`sslam.commands.exit_codes`.

    Raises:
        SystemExit: With code 2 for a mistake that the parser finds, with code 0 after ``--help``.
    """
    for message in MEANT_TO_BE_SO:
        warnings.filterwarnings("ignore", message=message)
    # Lightning's advertisement for another logger.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )
    try:
        with ExitStack() as on_exit:
            SSLAMCommandLine(
                on_exit,
                model_class=pl.LightningModule,
                datamodule_class=pl.LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                parser_class=ShortErrorParser,
                save_config_callback=SaveRunConfig,
                seed_everything_default=0,
                auto_configure_optimizers=False,
                args=locate_config_files(args),
            )
    except StoppedBySignal as stop:
        # A process that Lightning has started beside this one must not seem to have crashed: it would kill all.
        return DONE if stop.is_child else OF_SIGNAL[signal.Signals(stop.signum)]
    except KeyboardInterrupt:  # before the training
        print(f"sslam {args[0]}: Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # so Lightning ends an evaluation
            return INTERRUPTED
        raise
    except Exception as error:
        mistake = users_mistake_behind(error)
        if mistake is None and has_lost_a_process(error):
            reason = str(error).strip().splitlines()[-1]
            print(f"sslam {args[0]}: another process of the run has ended ({reason}).", file=sys.stderr)
            return FAILED
        if mistake is None:
            raise
        remedy = f" {WANDB_REMEDY}" if is_of_wandb(mistake) else ""
        print(for_terminal(f"sslam {args[0]}: {mistake}{remedy}"), file=sys.stderr)
        return USERS_MISTAKE
    return DONE
