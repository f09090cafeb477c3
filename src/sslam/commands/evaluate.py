"""`sslam evaluate`: checkpoints x tasks x methods x folds, each a run in its own process, and one report.

A run is one of `sslam fit`, which tests what it has trained, or of `sslam test` where a recipe's method trains nothing.
"""

import argparse
import itertools
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslam.commands.child_process import Ended, last_said, run_child
from sslam.commands.command import USER_CLASSES, WEIGHTS_AT, CommandParser, new_run_id, run
from sslam.commands.evaluated_weights import Weights, weights_of
from sslam.commands.exit_codes import DONE, FAILED, USERS_MISTAKE
from sslam.commands.made_from import keep, made_from, require_same
from sslam.commands.recipes import Recipe, methods, own_recipe, row_of, tasks
from sslam.errors import UsageError
from sslam.folder_lock import lock_folder

BASELINES_OWN = {"--model.weights", "--model.readouts", "--model.token_pooling"}
OWN_TASK, OWN_METHOD = "class_folder", "best_readout_probe"

# ---- options ---------------------------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    """Own options; the others go to every run."""
    parser = CommandParser(
        "evaluate",
        description="Evaluate checkpoints on every --task by every --method: all folds or scenes of the data, then one "
        "table and page, with random weights and plain features beside them.",
        epilog="Other options go to every run, e.g. --data.root data/esc50 --trainer.accelerator cpu. Examples: "
        "sslam evaluate --checkpoint FILE --data my_folder; "
        "sslam evaluate --checkpoint SSLAM=runs/pretrain/RUN/checkpoints/last.ckpt --task esc50 "
        "--method linear_probe --data.root data/esc50",
    )
    parser.add_argument(
        "--checkpoint",
        action="append",
        required=True,
        metavar="[NAME=]FILE",
        help=f"weights to evaluate, {WEIGHTS_AT}, with the name the table gives them; "
        "once or more. A YAML file stands for an encoder that needs none, such as "
        "experiments/evaluation/baselines/log_mel.yaml",
    )
    parser.add_argument(
        "--no_baselines",
        action="store_true",
        help="leave out what every table has besides, each with as many runs as a checkpoint: random weights of the "
        "first checkpoint's architecture, and mean and standard deviation of log-mels and of MFCCs",
    )
    parser.add_argument("--random", action="store_true", help="random weights in spite of --no_baselines")
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        help="your own recordings, a folder for each class or a CSV file: stands for --data.root FOLDER --task "
        f"{OWN_TASK}, and --method {OWN_METHOD} where none is given",
    )
    parser.add_argument(
        "--task", action="append", default=[], metavar="NAME", help="data set, such as esc50 or spass; once or more"
    )
    parser.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="NAME",
        help=f"{', '.join(sorted(methods()))}; once or more",
    )
    parser.add_argument(
        "--recipe",
        action="append",
        default=[],
        metavar="FILE.yaml",
        help="a data set and a method of your own, in place of these two or beside them; once or more",
    )
    parser.add_argument(
        "--folds",
        type=int,
        nargs="+",
        help="these folds only, where the data has any; a scene is chosen by --data.scene market",
    )
    parser.add_argument("--user_classes", **USER_CLASSES)
    parser.add_argument(
        "--run_id", help="name of this evaluation; an old one is gone on with, without doing finished runs again"
    )
    parser.add_argument("--output", default="runs/evaluation", help="folder of all evaluations (default: %(default)s)")
    return parser


def main(args: Sequence[str]) -> int:
    """Runs ``sslam evaluate``.

    Args:
        args: Command line without the program and command names.

    Returns:
        Exit code: 0; 1 if a run crashed; 2 for a mistake of the user, or if no run could be done; 130, 143 or
        75 if SIGINT, SIGTERM or SIGUSR1 has ended it and the run that it was in.

    Raises:
        SystemExit: With code 2 for a mistake that the parser finds.
    """
    parser = build_parser()
    options, more = parser.parse_known_args(args)
    root = Path(options.output) / (options.run_id or new_run_id())
    after_interruption = f"Go on with the same command and --run_id {root.name}."
    return run(parser.prog, lambda: evaluate(options, more, root), after_interruption)


# ---- what is evaluated -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EvaluationRun:
    """One run, which ends with a test.

    Args:
        recipe: How it is evaluated.
        weights: What is evaluated.
        part: Arguments of the data module that choose a part of the data, such as the fold that is held out.
        root: Folder of all runs of this evaluation.
        subcommand: `fit`, or `test` where there is nothing to train.
        user_classes: Import paths of classes that the checkpoint may name.
    """

    recipe: Recipe
    weights: Weights
    part: Mapping[str, Any]
    root: Path
    subcommand: str = "fit"
    user_classes: tuple[str, ...] = ()

    @property
    def run_id(self) -> str:
        return "-".join([re.sub(r"[^\w.=-]+", "_", self.weights.label), *self._names_of_part("")])

    @property
    def folder(self) -> Path:
        return self.root / self.recipe.name / self.run_id

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def is_finished(self) -> bool:
        return (self.folder / "results-test.json").is_file()

    def options(self) -> dict[str, str]:
        """What the run is given beside the recipe."""
        options = {
            "--experiment": self.recipe.name,
            "--trainer.default_root_dir": str(self.root),
            "--run_id": self.run_id,
            "--model.label": self.weights.label,
        }
        if self.subcommand == "fit":
            options["--ckpt_path"] = "last"  # goes on with an interrupted run, or starts it
        if not self.weights.is_yaml:
            options["--model.initial_checkpoint"] = self.weights.file
            if self.user_classes:
                options["--model.user_classes"] = json.dumps(self.user_classes)
        if self.weights.random:
            options["--model.weights"] = "random"
        if self.weights.has_own_readout:
            options |= self.recipe.other_readouts  # those of the recipe are for encoders
        return options | {f"--data.{name}": str(value) for name, value in self.part.items()}

    def command(self, more: Sequence[str]) -> list[str]:
        """The process's arguments; ``more`` are options that every run gets, over which a baseline's file wins."""
        own = ["--config", self.weights.file] if self.weights.is_yaml else []
        own += [word for option in self.options().items() for word in option]
        configs = [word for file in self.recipe.files for word in ("--config", file)]
        return [sys.executable, "-m", "sslam", self.subcommand, *configs, *more, *own]

    def made_from(self, more: Sequence[str]) -> dict[str, str]:
        """What decides the numbers; ``more`` are options that every run gets."""
        return made_from(self.weights.file, self.recipe.files, self.options(), more)

    def __str__(self) -> str:
        return ", ".join([self.recipe.name, self.weights.label, *self._names_of_part(" ")])

    def _names_of_part(self, between: str) -> list[str]:
        """Such as `fold 1` or `market`."""
        return [value if isinstance(value, str) else f"{name}{between}{value}" for name, value in self.part.items()]


def own_data(options: argparse.Namespace) -> list[str]:
    """Options for every run in place of ``--data``, which without a task or recipe also says what these are.

    Beside them it names a data module, which :func:`check_runs` compares.

    Raises:
        UsageError: If there is no such folder or file.
    """
    if options.data is None:
        return []
    if options.task or options.recipe:
        return ["--data", options.data]
    if not Path(options.data).exists():
        raise UsageError(
            f"--data must be a folder of recordings, one below it for each class, or a CSV file, and there is no "
            f"{options.data}. Correct the path, or choose a data set by --task: {', '.join(sorted(tasks()))}."
        )
    options.task, options.method = [OWN_TASK], options.method or [OWN_METHOD]
    return ["--data.root", options.data]


def recipes_of(options: argparse.Namespace) -> list[Recipe]:
    """Every recipe, then every task by every method.

    Raises:
        UsageError: If there is none, or one of task and method is missing or unknown.
    """
    if bool(options.task) != bool(options.method) or not (options.task or options.recipe):
        raise UsageError(
            "What to do is not said: pass a --task with a --method, such as --task esc50 --method linear_probe, a "
            "--recipe FILE.yaml, or --data with a folder of your own. The tasks are: "
            f"{', '.join(sorted(tasks()))}; the methods: {', '.join(sorted(methods()))}."
        )
    own = [own_recipe(given) for given in options.recipe]
    return own + [row_of(task, method) for task in options.task for method in options.method]


def chosen_parts(recipes: Sequence[Recipe], more: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """What options for every run give to the data, such as `--data.scene market`, and the options without its parts.

    Returns:
        Values by argument of the data module; what is left of ``more`` when those are out that choose a part.
    """
    found = [re.match(r"--data\.(?:init_args\.)?(\w+)(?:=|$)", word) for word in more]
    given, _ = _data_options(more, {name[1] for name in found if name})
    return given, _data_options(more, {name for recipe in recipes for name in recipe.variants(given)})[1]


def _data_options(more: Sequence[str], names: Set[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Values of these arguments of the data module, and what is left."""
    parser = CommandParser("evaluate", add_help=False)
    for name in names:
        parser.add_argument(f"--data.{name}", f"--data.init_args.{name}", action="append", default=[], dest=name)
    values, others = parser.parse_known_args(more)
    return {name: given for name, given in vars(values).items() if given}, others


def all_runs(
    options: argparse.Namespace, recipes: Sequence[Recipe], chosen: Mapping[str, Sequence[str]], root: Path
) -> Iterator[EvaluationRun]:
    """Every recipe, all weights, all parts of the data or those that are chosen."""
    rows = weights_of(options)
    for recipe in recipes:
        parts, subcommand = recipe.parts(chosen, options.folds), recipe.subcommand
        for weights in rows:
            for part in parts:
                yield EvaluationRun(recipe, weights, part, root, subcommand, tuple(options.user_classes))


def check_runs(runs: Sequence[EvaluationRun], more: Sequence[str]) -> None:
    """Refuses what would make a run other than the table says.

    Raises:
        UsageError: If two runs would have the same folder, an option for every run is one that the runs differ in, or
            `--data` names another data module than a recipe, whose folds and clip length would be dropped.
    """
    by_folder: dict[Path, EvaluationRun] = {}
    for evaluation in runs:
        other = by_folder.setdefault(evaluation.folder, evaluation)
        if other is not evaluation:
            raise UsageError(
                f"{other} and {evaluation} would both be in {evaluation.folder}. Name every task, method and recipe "
                "once, and give files and checkpoints names that differ in more than spaces and signs."
            )
    # Those that random weights and baselines have besides are theirs, whatever the others get.
    own = {option for evaluation in runs for option in evaluation.options()} - BASELINES_OWN
    for word, following in itertools.pairwise([*more, ""]):
        option, equals, value = word.partition("=")
        if option not in ("--data", "--data.class_path"):
            continue
        given = value if equals else following
        for evaluation in runs:
            class_path, _ = evaluation.recipe.named_class("data")
            if Path(given).exists():
                raise UsageError(
                    f"--data {given} stands for --task {OWN_TASK}. Leave --task and --recipe out, or give the data of "
                    f"{evaluation.recipe.name} by --data.root."
                )
            if given.rpartition(".")[2] != class_path.rpartition(".")[2]:
                raise UsageError(
                    f"{option} must be the data of {evaluation.recipe.name}, {class_path}, got {given}, with which its "
                    "folds, scenes and clip length would be lost. Write a YAML file with the method and this data, and "
                    "pass it by --recipe."
                )
    for word in more:
        option = word.partition("=")[0].replace(".init_args.", ".")
        if option in own:
            raise UsageError(
                f"{option} cannot be given for every run, because evaluate sets it: --checkpoint chooses the weights "
                "and their names, --output the folder, --folds and the like the parts of the data."
            )


# ---- doing it --------------------------------------------------------------------------------------------------------


def run_in_process(evaluation: EvaluationRun, more: Sequence[str]) -> tuple[int, str]:
    """One run, its output in its log.

    Returns:
        Exit code, and where it failed what the run said last.
    """
    evaluation.folder.mkdir(parents=True, exist_ok=True)
    with evaluation.log.open("a", encoding="utf-8") as stream:
        start = stream.tell()  # an interrupted run has written before
        code = run_child(evaluation.command(more), stream)
    if code == DONE and not evaluation.is_finished:
        return FAILED, "the run wrote no results-test.json; the recipe needs callbacks.EvaluationResults"
    if code == DONE:
        return DONE, ""
    return code, last_said(evaluation.log, start, evaluation.subcommand)


def evaluate(options: argparse.Namespace, more: Sequence[str], root: Path) -> int:
    """All runs that are not finished, and the report of all; see :func:`main`."""
    from sslam.commands.report import report

    more = [*own_data(options), *more]
    recipes = recipes_of(options)
    chosen, more = chosen_parts(recipes, more)
    runs = list(all_runs(options, recipes, chosen, root))
    check_runs(runs, more)
    for evaluation in runs:
        keeps = ", --no_baselines to keep the random weights that are there" if evaluation.weights.random else ""
        require_same(evaluation.folder, evaluation.made_from(more), f"Choose another --run_id{keeps}")
    root.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(root, "Wait for it, or choose another --run_id.")
    failures: list[int] = []
    for number, evaluation in enumerate(runs, start=1):
        print(f"[{number}/{len(runs)}] {evaluation}", end="", flush=True)
        if evaluation.is_finished:
            print(": done before")
            continue
        evaluation.folder.mkdir(parents=True, exist_ok=True)
        keep(evaluation.folder, evaluation.made_from(more))
        try:
            code, said = run_in_process(evaluation, more)
        except (Ended, KeyboardInterrupt):
            print()  # what is said of it has a line of its own
            raise
        if code != DONE:
            failures.append(code)
        print(": done" if code == DONE else f": not done, {said} ({evaluation.log})", flush=True)
    if failures:
        print(f"\n{len(failures)} of {len(runs)} runs were not done; the table is of the others.", file=sys.stderr)
    if len(failures) == len(runs):
        return USERS_MISTAKE if set(failures) == {USERS_MISTAKE} else FAILED
    report([root], root)
    lock.release()
    return DONE if set(failures) <= {USERS_MISTAKE} else FAILED
