"""``sslam data stats``: mean and standard deviation of the log-mels of recordings."""

import argparse
import sys

from sslam.commands.command import AUDIO_PATHS, CommandParser
from sslam.commands.data.options import add_num_workers
from sslam.commands.exit_codes import DONE
from sslam.errors import UsageError

MAX_NAMED = 10  # bad files on the terminal


def stats_parser() -> argparse.ArgumentParser:
    """The options of ``sslam data stats``."""
    parser = CommandParser(
        "data stats",
        description="Goes through audio files once and prints mean and standard deviation of their log-mels, over all "
        "frames and mel bins, with the lines of YAML that give them to the front end. Bad files are named.",
        epilog="example: sslam data stats recordings",
    )
    parser.add_argument("paths", **AUDIO_PATHS)
    parser.add_argument(
        "--frontend",
        choices=("KaldiFbank", "LogMel"),
        default="KaldiFbank",
        help="of SSLAM (128 mel bins) or of the contrastive method (64) (default: %(default)s)",
    )
    add_num_workers(parser, "threads that read files")
    return parser


def stats(options: argparse.Namespace) -> int:
    """Print the statistics of files and folders.

    Raises:
        UsageError: If there is no file that can be used.
    """
    from concurrent.futures import ThreadPoolExecutor

    import torch
    from tqdm import tqdm

    from sslam import frontends
    from sslam.audio import AudioFileError, FileProblem, decode_audio
    from sslam.audio_files import find_audio_files
    from sslam.frontends.statistics import FeatureStatistics, recording_statistics

    files = list(find_audio_files(options.paths))
    frontend = getattr(frontends, options.frontend)()

    def of_file(path: str) -> tuple[FeatureStatistics, int, FileProblem | None]:
        try:
            waveform, problem = decode_audio(path, frontend.sample_rate)
        except AudioFileError as error:
            return FeatureStatistics(), 0, error.problem
        return recording_statistics(frontend, torch.from_numpy(waveform)), len(waveform), problem

    statistics, num_samples, problems = FeatureStatistics(), 0, []
    with ThreadPoolExecutor(options.num_workers) as pool:
        try:
            for found, samples, problem in tqdm(
                pool.map(of_file, files), "statistics", len(files), unit=" files", disable=None, leave=False
            ):
                statistics += found
                num_samples += samples
                problems += [problem] if problem else []
        finally:
            pool.shutdown(cancel_futures=True)
    for problem in problems[:MAX_NAMED]:
        sys.stderr.write(f"sslam data stats: {problem.path} {problem.action}: {problem.reason}\n")
    if len(problems) > MAX_NAMED:
        sys.stderr.write(f"sslam data stats: and {len(problems) - MAX_NAMED} more\n")
    skipped = sum(problem.action == "skipped" for problem in problems)
    if not statistics.num_values:
        raise UsageError(
            f"None of the {len(files)} files can be used. Give readable wav, flac, mp3, ogg or opus files."
        )
    sys.stdout.write(
        f"{len(files) - skipped} files, {num_samples / frontend.sample_rate:.0f} s; {skipped} bad files skipped, "
        f"{len(problems) - skipped} repaired\n"
        f"log-mels of {options.frontend}: mean {statistics.mean:.3f}, standard deviation {statistics.std:.3f}\n\n"
        "model:\n  init_args:\n    frontend:\n      init_args:\n"
        f"        mean: {statistics.mean:.3f}\n        std: {statistics.std:.3f}\n"
    )
    return DONE
