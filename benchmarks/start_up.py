"""What a data set of millions of clips costs at the start of a run: time to the first batch, memory of every process.

    python benchmarks/start_up.py FOLDER_OR_MANIFEST [--labelled] [--workers 0 2]

Prints the seconds from the beginning of ``setup`` to the first batch, imports aside, and the private memory of the main
process, before and after, and of every worker. A first run makes the arrays that later ones map. With --labelled FOLDER
has ``train.tsv``, ``train.lbl`` and so on.
"""

import argparse
import os
import time
from pathlib import Path

from data_modules import AudioDataModule, FolderDataModule, LabelledManifestDataModule


def private_mb(process: int) -> float:
    """Memory that a process shares with no other and that no file backs, in MB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    values = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines[1:])}
    return values["Private_Dirty"] / 1000


def children() -> list[int]:
    return [int(child) for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="folder, packed folder or manifest; with --labelled folder of labelled manifests")
    parser.add_argument("--labelled", action="store_true", help="a LabelledManifestDataModule")
    parser.add_argument("--workers", type=int, default=2, help="workers of the loader (default: %(default)s)")
    args = parser.parse_args(arguments)
    before = private_mb(os.getpid())
    start, cpu_start = time.perf_counter(), time.process_time()
    kind: type[AudioDataModule] = LabelledManifestDataModule if args.labelled else FolderDataModule
    data = kind(args.root, num_workers=args.workers)
    data.setup("fit")
    set_up = time.perf_counter() - start
    loader = data.train_dataloader()
    batches = iter(loader)
    next(batches)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    clips = len(data.train_set)  # type: ignore[arg-type]
    print(f"{clips} clips: setup {set_up:.2f} s, first batch after {seconds:.2f} s ({cpu:.2f} CPU s)")
    for _ in range(20):
        next(batches, None)
    workers = ", ".join(f"{private_mb(child):.0f}" for child in children())
    print(
        f"private MB: {before:.0f} of the imports, {private_mb(os.getpid()):.0f} in all; workers: {workers or 'none'}"
    )


if __name__ == "__main__":
    main()
