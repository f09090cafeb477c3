"""``sslam data render``: scenes of recordings, as files."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sslam.commands.command import CommandParser, say_what_is_finished
from sslam.commands.data.options import add_num_workers, options_called
from sslam.commands.exit_codes import DONE
from sslam.errors import UsageError

if TYPE_CHECKING:
    from data_modules import RecordedSoundscapesDataModule

# Options that do not change what is rendered, and those that the data module does not have.
ELSEWHERE = ("root", "audio", "output", "num_workers")
NOT_THE_DATA_MODULES = ("output", "num_workers", "silence", "stems")


def render_parser() -> argparse.ArgumentParser:
    """The options of ``sslam data render``."""
    parser = CommandParser(
        "data render",
        description="Renders polyphonic scenes of recordings to files: OUTPUT/train, validation and test have FLAC "
        "files (16 kHz, 24 bits) with a JAMS file each, in Scaper's namespace, and OUTPUT/metadata.csv lists all "
        "events. No recording is heard in two of the three. The scenes are those of "
        "data_modules.RecordedSoundscapesDataModule with the same options; data_modules.RenderedSoundscapesDataModule "
        "reads them back. After an interruption the same command goes on.",
        epilog="example: sslam data render recordings --output scenes --stems",
    )
    parser.add_argument(
        "root",
        metavar="FOLDER",
        help="folder of class folders, or CSV file (file,label[,fold][,group]) with one class for each recording",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="OUTPUT", help="new, empty, or of an earlier run to go on with"
    )
    parser.add_argument("--audio", metavar="FOLDER", help="where the files of a CSV file are, if not beside it")
    for split, number in (("train", 1000), ("val", 200), ("test", 200)):
        parser.add_argument(f"--num_{split}_scenes", type=int, default=number, help="(default: %(default)s)")
    parser.add_argument("--clip_seconds", type=float, default=10.0, help="length of a scene (default: %(default)s)")
    for name, kind, default, text in (
        ("events_per_scene", int, (1, 6), "events in a scene"),
        ("polyphony", int, (1, 4), "largest number of events that sound at once"),
        ("event_seconds", float, (0.5, 4.0), "length of an event"),
        ("snr_db", float, (5.0, 25.0), "level of an event over the background in dB"),
    ):
        parser.add_argument(
            f"--{name}",
            type=kind,
            nargs=2,
            default=default,
            metavar=("LEAST", "MOST"),
            help=f"{text} (default: {default[0]} {default[1]})",
        )
    behind = parser.add_mutually_exclusive_group()
    behind.add_argument("--background_root", metavar="FOLDER", help="background recordings (default: coloured noise)")
    behind.add_argument("--silence", action="store_true", help="no background")
    parser.add_argument("--fold", type=int, default=1, help="its recordings are for test scenes (default: %(default)s)")
    parser.add_argument("--num_folds", type=int, default=5, help="where FOLDER gives none (default: %(default)s)")
    parser.add_argument("--fold_seed", type=int, default=0, help="of these folds (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes (default: %(default)s)")
    parser.add_argument("--stems", action="store_true", help="write the background and each event, too")
    add_num_workers(parser, "processes")
    return parser


def render(options: argparse.Namespace) -> int:
    """Write the scenes that are not there yet, and then the table of all events.

    Raises:
        UsageError: If the output holds other things, or lies among the recordings.
    """
    from torch.utils.data import DataLoader
    from tqdm import tqdm

    from data_modules.scene_files import SceneWriter, begin, write_metadata
    from sslam.audio_files import add_bad_files, as_text

    output: Path = options.output
    for folder in (options.root, options.audio, options.background_root):
        if folder is not None and output.resolve().is_relative_to(Path(folder).resolve()):
            raise UsageError(
                f"--output {output} is in '{folder}', so that scenes would be taken for recordings. Choose another one."
            )
    data = scenes_of(options)
    class_names = [as_text(name) for name in data.class_names]
    given = {name: value for name, value in vars(options).items() if name not in ELSEWHERE}
    begin(output, {"class_names": class_names, "recordings": data.recordings_digest, **given})
    bad_files = output / "bad_files.csv"
    bad_files.unlink(missing_ok=True)
    add_bad_files(bad_files, data.problems)

    writer = SceneWriter(output, data.sets(), class_names, options.stems, data.audio_folder)
    say_what_is_finished("data render", len(writer.files) - len(writer), len(writer.files), output)
    num_workers = 0 if options.num_workers == 1 else options.num_workers
    loader = DataLoader(writer, batch_size=None, num_workers=num_workers)
    for failure in tqdm(loader, "scenes", unit=" files", disable=None, leave=False):
        if failure is not None:
            raise failure
    write_metadata(output, writer.files)
    sys.stdout.write(f"{len(writer.files)} files rendered, scenes of {data.recordings.title}: {output}\n")
    if data.problems:
        sys.stdout.write(f"{len(data.problems)} bad recordings: {bad_files}\n")
    return DONE


def scenes_of(options: argparse.Namespace) -> "RecordedSoundscapesDataModule":
    """The data module that has the scenes, all sets made.

    Raises:
        UsageError: If there cannot be such scenes.
    """
    from data_modules import RecordedSoundscapesDataModule, Silence

    given = {name: value for name, value in vars(options).items() if name not in NOT_THE_DATA_MODULES}
    with options_called("--data.", "--"):
        data = RecordedSoundscapesDataModule(background=Silence() if options.silence else None, **given)
        data.make_sets("fit")  # which makes all of them
    return data
