"""`sslam`: answers --help and --version at once and loads torch only for a command that needs it."""

import difflib
import importlib
import sys
from collections.abc import Sequence

import sslam
from sslam.commands.exit_codes import DONE, FAILED, USERS_MISTAKE
from sslam.errors import UsageError

# Command: (module with `main(args) -> exit code`, what it does). Trainer commands get their own name as first argument.
TRAINER_COMMANDS = {
    "fit": "train, or go on with --ckpt_path",
    "validate": "metrics on the validation set",
    "test": "metrics on the test set",
    "predict": "outputs for a set of clips",
}
OTHER_COMMANDS = {
    "evaluate": ("sslam.commands.evaluate", "linear probes and fine-tuning of checkpoints, all folds, one table"),
    "convert": ("sslam.commands.convert", "published EAT, SSLAM and MixIT checkpoints to ours, encoders back"),
    "export": ("sslam.commands.export", "a model as a folder for others, with a model card"),
    "claims": ("sslam.commands.claims", "claims of the papers: runs, numbers, a verdict of each"),
    "report": ("sslam.commands.report", "results of evaluations as one table and one page"),
    "embed": ("sslam.commands.embed", "embeddings or tags of audio files"),
    "separate": ("sslam.commands.separate", "sources of audio files"),
    "processors": ("sslam.commands.processors", "one clip through the states of a separator, as a picture"),
    "data": ("sslam.commands.data", "lists, checks, shards and statistics of recordings; scenes of them"),
}


def overview() -> str:
    """The text of `sslam --help`."""
    commands = TRAINER_COMMANDS | {name: text for name, (_, text) in OTHER_COMMANDS.items()}
    lines = [f"  {name:10} {text}" for name, text in commands.items()]
    return "\n".join(
        [
            "usage: sslam COMMAND [--config FILE.yaml]... [--key value]...",
            "",
            "Learning audio representations from mixtures.",
            "",
            "commands:",
            *lines,
            "",
            "options:",
            "  --help      this text; `sslam COMMAND --help` for a command's own",
            "  --version   the version",
            "",
            "example: sslam fit --config experiments/pretrain.yaml --config experiments/overrides/smoke.yaml",
        ]
    )


def run(module: str, args: Sequence[str]) -> int:
    """Runs the command of a module.

    Returns:
        Its exit code.

    Raises:
        SystemExit: With code 1 if the environment is broken, which has been explained.
    """
    try:
        return int(importlib.import_module(module).main(args))
    except (ImportError, OSError, RuntimeError):  # RuntimeError: torchvision beside another torch
        from sslam.environment import BrokenEnvironmentError, check

        try:
            check()
        except BrokenEnvironmentError as error:
            print(f"Environment is broken: {error}", file=sys.stderr)
            sys.exit(FAILED)
        raise  # of other causes


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command line.

    Args:
        args: Without the program's name; those of the process if None.

    Returns:
        The command's exit code; 2 if there is no such command.

    Raises:
        SystemExit: See :func:`run`; also for what the command itself refuses.
    """
    is_own_process = args is None
    args = sys.argv[1:] if args is None else list(args)
    command = args[0] if args else "--help"
    if command in ("-h", "--help"):
        print(overview())
        return DONE
    if command == "--version":
        print(f"sslam {sslam.__version__}")
        return DONE
    if command in TRAINER_COMMANDS:
        from sslam.commands.fitting.config_files import locate_config_files

        try:
            locate_config_files(args)  # a wrong file name is answered without waiting for torch
        except UsageError as error:
            print(f"sslam {command}: {error}", file=sys.stderr)
            return USERS_MISTAKE
        if is_own_process and not {"-h", "--help"}.isdisjoint(args):
            from sslam.commands.fitting.help_alone import import_lightly

            import_lightly()
        return run("sslam.commands.fit", args)
    if command in OTHER_COMMANDS:
        return run(OTHER_COMMANDS[command][0], args[1:])
    names = [*TRAINER_COMMANDS, *OTHER_COMMANDS]
    nearest = difflib.get_close_matches(command, names, n=1)
    remedy = f"Did you mean {nearest[0]}?" if nearest else f"The commands are: {', '.join(names)}."
    print(f"sslam: there is no command '{command}'. {remedy}", file=sys.stderr)
    return USERS_MISTAKE


if __name__ == "__main__":
    sys.exit(main())
