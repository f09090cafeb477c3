"""What the data path costs: ms per 10-s clip for each of its parts, and clips per second through the loader.

    python benchmarks/data_path.py [--repeats 20] [--workers 0 1 2]

Processor time of one thread for the parts, wall time for the loader; median and quartiles over the repeats. The files
are written for the occasion, from rendered scenes; --audio measures the loader on a folder of yours instead.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from torchaudio.compliance.kaldi import fbank

from benchmarks.measuring import timed
from data_modules import AudioDataModule, FolderDataModule, SoundscapesDataModule
from data_modules.clips import AudioFileDataset, collate_clips
from data_modules.scenes import SceneRenderer
from data_modules.soundscapes import SoundscapesDataset
from sslam.audio import SAMPLE_RATE, decode_audio
from sslam.commands.command import main_of
from sslam.commands.data.pack import pack, pack_parser
from sslam.frontends import KaldiFbank
from sslam.transforms import InverseBlockMasking

CLIP_SECONDS = 10.0
BATCH_SIZE = 12
NUM_FILES = 96


def show(name: str, values: list[float], unit: str) -> None:
    low, median, high = np.percentile(values, [25, 50, 75])
    print(f"{name:<44} {median:>9.3f} {low:>9.3f} {high:>9.3f}  {unit}", flush=True)


def measure(name: str, function: Callable[[], Any], repeats: int, clips: int = 1) -> None:
    """Processor time per clip of a function that handles `clips` of them."""
    function()
    show(name, [1000 * timed(function, "cpu").cpu / clips for _ in range(repeats)], "ms")


def measure_files(folder: Path, scenes: list[np.ndarray], repeats: int) -> None:
    """Decoding alone, then the worker's whole path: crop, decode, mono, checks, resample, tensor."""
    for extension in ("wav", "flac", "mp3", "ogg"):
        for rate in (16_000, 44_100) if extension in ("wav", "flac") else (16_000,):
            paths = [folder / f"{number}_{rate}.{extension}" for number in range(len(scenes))]
            for path, scene in zip(paths, scenes, strict=True):
                soundfile.write(path, soxr.resample(scene, SAMPLE_RATE, rate), rate)
            label = f"{extension} {rate / 1000:g} kHz"

            def decode(paths: list[Path] = paths) -> None:
                for path in paths:
                    soundfile.read(path, dtype="float32")

            dataset = AudioFileDataset([str(path) for path in paths], CLIP_SECONDS, training=True)

            def read(dataset: AudioFileDataset = dataset) -> None:
                collate_clips([dataset[index, 0] for index in range(len(dataset))])

            measure(f"decode {label}", decode, repeats, len(paths))
            measure(f"worker, whole path {label}", read, repeats, len(paths))
    flac_paths = [folder / f"{number}_16000.flac" for number in range(len(scenes))]

    def read_with_features() -> None:
        for path in flac_paths:
            waveform = torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None]
            fbank(waveform - waveform.mean(), htk_compat=True, window_type="hanning", num_mel_bins=128, dither=0.0)

    # The published code computes features clip by clip in the worker; without its masks, which it draws there too.
    measure("worker, published order (decode, fbank)", read_with_features, repeats, len(flac_paths))
    path = flac_paths[0]
    measure("1-s part of flac 16 kHz by seeking", lambda: decode_audio(path, SAMPLE_RATE, 4.5, 1.0), repeats)


def measure_parts(scenes: list[np.ndarray], repeats: int) -> None:
    for rate in (32_000, 44_100):
        source = soxr.resample(scenes[0], SAMPLE_RATE, rate)

        def resample(source: np.ndarray = source, rate: int = rate) -> None:
            soxr.resample(source, rate, SAMPLE_RATE)

        measure(f"resample {rate / 1000:g} to 16 kHz", resample, repeats)
    renderer = SceneRenderer(CLIP_SECONDS)
    dataset = SoundscapesDataset(renderer, 24, split=0)
    measure("render a scene", lambda: [dataset[index] for index in range(24)], repeats, 24)
    waveform_BT = torch.from_numpy(np.stack([scenes[index % len(scenes)] for index in range(BATCH_SIZE)]))
    frontend, masking = KaldiFbank(), InverseBlockMasking()
    generator = torch.Generator().manual_seed(0)
    measure(f"front end, {BATCH_SIZE} clips", lambda: frontend(waveform_BT), repeats, BATCH_SIZE)

    def draw() -> None:
        masking(BATCH_SIZE * 8, (64, 8), generator)

    measure(f"masks, {BATCH_SIZE} clips x 8 clones", draw, repeats, BATCH_SIZE)


def measure_loader(name: str, data: AudioDataModule, repeats: int) -> None:
    """Clips per second over whole epochs, after a first one that starts the workers."""
    data.setup("fit")
    loader = data.train_dataloader()
    rates = []
    for epoch in range(repeats + 1):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        start = time.perf_counter()
        clips = sum(len(batch["index"]) for batch in loader)
        if epoch:
            rates.append(clips / (time.perf_counter() - start))
    show(name, rates, "clips/s")


def bare_loop(paths: list[str]) -> float:
    """Clips per second of a loop that does nothing but decode, with libsndfile, in one thread."""
    start = time.perf_counter()
    for path in paths:
        soundfile.read(path, dtype="float32")
    return len(paths) / (time.perf_counter() - start)


def measure_ratios(audio: Path, shards: Path, workers: list[int], repeats: int) -> None:
    """Loaders against the bare loop, by turns, so that other work on the machine hits both."""
    main_of(pack_parser, pack)([str(audio), "--output", str(shards)])
    paths = sorted(map(str, audio.glob("*.flac")))
    for name, root in (("folder", audio), ("shards", shards)):
        for num_workers in workers:
            data = FolderDataModule(str(root), batch_size=BATCH_SIZE, num_workers=num_workers)
            data.setup("fit")
            loader = data.train_dataloader()
            ratios = []
            for epoch in range(repeats + 1):
                loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
                before = bare_loop(paths)
                start = time.perf_counter()
                clips = sum(len(batch["index"]) for batch in loader)
                rate = clips / (time.perf_counter() - start)
                if epoch:  # the first one starts the workers
                    ratios.append(2 * rate / (before + bare_loop(paths)) / max(1, num_workers))
            show(f"{name}, {num_workers} worker(s), over bare loops", ratios, "a process")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="measurements of each part (default: 20)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="numbers of workers (default: 0 1 2)")
    parser.add_argument("--audio", help="folder for the loader to read (default: 96 written 16-kHz flac files)")
    parser.add_argument("--ratios", action="store_true", help="only the loaders over a loop that decodes")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    renderer = SceneRenderer(CLIP_SECONDS)
    scenes = [renderer.render(np.random.default_rng(seed)).waveform for seed in range(8)]
    print(f"10-s clips, one thread, {args.repeats} repeats")
    print(f"{'':<44} {'median':>9} {'25 %':>9} {'75 %':>9}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if not args.ratios:
            measure_files(folder, scenes, args.repeats)
            measure_parts(scenes, args.repeats)
        audio = folder / "loader"
        if args.audio is None:
            audio.mkdir()
            for number in range(NUM_FILES):
                soundfile.write(audio / f"{number:03}.flac", scenes[number % len(scenes)], SAMPLE_RATE)
        epochs = max(1, args.repeats // 5)
        if args.audio is None:
            measure_ratios(audio, folder / "shards", args.workers, epochs)
        if args.ratios:
            return
        for num_workers in args.workers:
            files = FolderDataModule(args.audio or str(audio), batch_size=BATCH_SIZE, num_workers=num_workers)
            measure_loader(f"loader, files, {num_workers} worker(s)", files, epochs)
        for num_workers in args.workers:
            rendered = SoundscapesDataModule(NUM_FILES, batch_size=BATCH_SIZE, num_workers=num_workers)
            measure_loader(f"loader, Soundscapes, {num_workers} worker(s)", rendered, epochs)


if __name__ == "__main__":
    main()
