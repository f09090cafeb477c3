"""``sslam processors``: one clip through the states of a separator, as one picture (Fonseca et al. 2021, figure 2)."""

import argparse
from pathlib import Path

from sslam.commands.command import DEVICE, USER_CLASSES, CommandParser, choose_device, main_of
from sslam.commands.exit_codes import DONE
from sslam.errors import UsageError

# Of the separation-contrastive paper, as callbacks.StepCheckpoints keeps them.
STATES = ("N=step=00000000.ckpt", "F=step=00000500.ckpt", "S1=step=00005000.ckpt", "S2=end.ckpt")


def build_parser() -> argparse.ArgumentParser:
    """The options of ``sslam processors``."""
    parser = CommandParser(
        "processors",
        description="Separates a clip by several states of a separator and draws the spectrograms of all channels: the "
        "clip, and below it a row for each state.",
        epilog="example: sslam processors clip.wav --folder runs/separate/RUN/checkpoints/kept --output figure2.png",
    )
    parser.add_argument("clip", type=Path, help="audio file; it is averaged to mono, and at most 60 s are used")
    parser.add_argument("--folder", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument(
        "--states",
        nargs="+",
        default=list(STATES),
        metavar="NAME=FILE",
        help=f"names in the picture, and checkpoints in the folder (default: {' '.join(STATES)})",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="PNG, PDF or SVG file")
    parser.add_argument("--user_classes", **USER_CLASSES)
    parser.add_argument("--device", **DEVICE)
    return parser


def draw(options: argparse.Namespace) -> int:
    """Write the picture.

    Raises:
        UsageError: If a state has no file, the clip cannot be used, or the kind of picture is unknown.
    """
    import torch

    from sslam.audio import AudioFileError, decode_audio
    from sslam.checkpoints import load_separator
    from sslam.separation.picture import processors_picture

    if options.output.suffix not in (".png", ".pdf", ".svg"):
        raise UsageError(f"--output {options.output} must end with .png, .pdf or .svg.")
    device, channels = choose_device(options.device), {}
    for state in options.states:
        name, _, file = state.partition("=")
        path = options.folder / file
        if not file or not path.is_file():
            raise UsageError(
                f"State '{state}': there is no file '{path}'. Give --folder with the checkpoints of a run, "
                "RUN/checkpoints/kept, and --states NAME=FILE with those that are there."
            )
        separator = load_separator(str(path), options.user_classes).to(device)
        try:
            waveform, _ = decode_audio(options.clip, separator.sample_rate, num_seconds=60.0)
        except AudioFileError as error:
            raise UsageError(f"The clip cannot be used: {error}") from error
        mixture_T = torch.from_numpy(waveform).to(device)
        with torch.no_grad():
            channels[f"{name} ({file})"] = separator(mixture_T[None])[0].cpu()
    figure = processors_picture(mixture_T.cpu(), channels, separator.sample_rate)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=120)
    print(f"{len(channels)} states: {options.output}")
    return DONE


main = main_of(build_parser, draw)
