"""Cost of one training step of separation-contrastive pre-training, by part: CPU seconds, wall seconds, GFLOP.

    python benchmarks/contrastive_step.py --clips 4 --threads 1

The step is the method's own, on clips of noise: a mixture against a channel, both tasks, so four snippets of every
clip. Steps that separate on the fly and steps that read the channels from a cache take turns. Their parts:

    separate   the channels of whole clips, by a frozen TDCN++
    read       the same channels, from files that have just been written (and so from memory, not from a disk)
    features   views drawn and cropped, log-mels, SpecAugment
    learn      encoder, heads and losses, forward and backward, norm of the gradients, Adam

Others' work on the machine changes all parts of a step alike: the column "of learn" is a part's time over that of
learning in the same step (CPU seconds, on a GPU wall seconds), and can be compared between runs.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks import measuring
from benchmarks.measuring import Cost, Stopwatch, spread
from sslam.audio import SAMPLE_RATE, decode_audio
from sslam.finished_files import FinishedFiles, InputFile
from sslam.frontends import LogMel
from sslam.losses import Coincidence, NTXent
from sslam.methods import SeparationContrastive
from sslam.networks import CNN14, TDCN
from sslam.optim import clip_finite_gradients
from sslam.separation import Processors
from sslam.separation.cache import LIST, cache_settings, write_cache
from sslam.transforms import MixtureAgainstChannel, RandomSource, SpecAugment

# Arguments of separator and encoder.
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "small": ({"num_basis": 32, "width": 32, "hidden_width": 64, "num_blocks": 4}, {"channels": [8, 16, 32]}),
    "published": ({}, {}),
}
PARTS = ["separate", "read", "features", "learn"]


def write_clips(folder: Path, arguments: argparse.Namespace) -> list[str]:
    """Files with noise."""
    random = np.random.default_rng(0)
    paths = [str(folder / f"{number}.wav") for number in range(arguments.clips)]
    for path in paths:
        noise_T = 0.1 * random.standard_normal(round(SAMPLE_RATE * arguments.seconds))
        soundfile.write(path, noise_T.clip(-1, 1), SAMPLE_RATE)
    return paths


def make_method(folder: Path, paths: list[str], arguments: argparse.Namespace) -> SeparationContrastive:
    """The method with a separator of random weights, and the channels of the clips in a cache."""
    torch.manual_seed(0)
    separator_sizes, encoder_sizes = SIZES[arguments.size]
    separator = TDCN(arguments.num_sources, **separator_sizes).eval()
    checkpoint = folder / "end.ckpt"  # as a run of MixIT writes it
    weights = {f"separator.{name}": weight for name, weight in separator.state_dict().items()}
    architecture = {"separator": separator.architecture()}
    torch.save({"architecture": architecture, "global_step": 0, "state_dict": weights}, checkpoint)
    finished = FinishedFiles(folder / "cache" / checkpoint.stem / LIST, {"settings": cache_settings(checkpoint)})
    files = [InputFile.at(path, Path(path).name) for path in paths]
    write_cache(separator.to(arguments.device), files, finished, arguments.clips_at_once)
    method = SeparationContrastive(
        CNN14(**encoder_sizes),
        LogMel(),
        MixtureAgainstChannel(),
        Processors([checkpoint.name], str(folder), str(folder / "cache"), arguments.clips_at_once),
        NTXent(),
        Coincidence(),
        SpecAugment(),
    )
    return method.to(arguments.device)


class Steps:
    """Takes steps of training on the same clips over and over, and splits each into parts."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.device, self.precision = arguments.device, arguments.precision
        self.paths = write_clips(folder, arguments)
        self.method = make_method(folder, self.paths, arguments)
        self.optimizer = self.method.configure_optimizers()
        clips = np.stack([decode_audio(path).waveform for path in self.paths])
        self.waveform_BT = torch.from_numpy(clips).to(self.device)
        self.num_samples_B = torch.full((len(clips),), clips.shape[1], device=self.device)
        self.number = 0
        self.watch = Stopwatch(self.device)
        self.watch.time_calls(self.method, "losses", "features")
        self.watch.time_calls(self.method.processors, "channels", "channels")
        self.method.encoder.register_forward_pre_hook(lambda *_: self.watch.switch("learn"))

    def take(self, cached: bool) -> dict[str, Cost]:
        """Costs of a step, part by part."""
        with self.watch.step("learn"):
            self._take(cached)
        self.number += 1
        costs = self.watch.steps.pop()
        costs["read" if cached else "separate"] = costs.pop("channels")
        return costs

    def _take(self, cached: bool) -> None:
        random = RandomSource.seeded(torch.device(self.device), self.number)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16"):
            terms = self.method.losses(self.waveform_BT, self.num_samples_B, self.paths if cached else None, random)
            loss = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        clip_finite_gradients(self.method.parameters(), None, None)
        self.optimizer.step()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark: every number of the table."""
    with tempfile.TemporaryDirectory() as folder:
        steps = Steps(Path(folder), arguments)
        kinds = (False, True) * (arguments.warmup + arguments.repeats)
        taken = [steps.take(cached) for cached in kinds][2 * arguments.warmup :]
        with steps.watch.counting_flops():
            counted = steps.take(cached=False) | steps.take(cached=True)
    decisive = "wall_s" if arguments.device == "cuda" else "cpu_s"
    parts = {}
    for part in PARTS:
        with_part = [step for step in taken if part in step]
        parts[part] = {
            "cpu_s": [step[part].cpu_s for step in with_part],
            "wall_s": [step[part].wall_s for step in with_part],
            "of_learn": [getattr(step[part], decisive) / getattr(step["learn"], decisive) for step in with_part],
            "gflop": counted[part].gflop,
            "peak_memory_gib": max(step[part].peak_memory_gib for step in with_part),
        }
    return {**measuring.conditions(arguments), "parts": parts}


def print_table(result: dict[str, Any]) -> None:
    on_gpu = result["settings"]["device"] == "cuda"
    measuring.print_conditions(result)
    columns = "".join(f"{name:>9}{'min .. max':>20}" for name in ("CPU s", "wall s", "of learn"))
    print(f"\n{'part':<9}{columns}{'GFLOP':>10}" + f"{'peak GiB':>10}" * on_gpu)
    for part, row in result["parts"].items():
        print(
            f"{part:<9}{spread(row['cpu_s'])}{spread(row['wall_s'])}{spread(row['of_learn'], 4)}"
            f"{row['gflop']:>10.1f}" + f"{row['peak_memory_gib']:>10.2f}" * on_gpu
        )
    print(
        f"\nMedians of {result['settings']['repeats']} steps on the fly and as many from a cache; of learn: over the "
        f"{'wall' if on_gpu else 'CPU'} seconds of learning in the same step."
    )


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--size", choices=SIZES, default="published", help="of separator and encoder")
    parser.add_argument("--num_sources", type=int, default=2, help="channels M of the separator")
    parser.add_argument("--clips", type=int, default=4, help="clips in a batch; published: 64 on a device")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a clip; snippets have 0.975 s")
    parser.add_argument("--clips_at_once", type=int, default=16, help="clips that are separated together")
    arguments = measuring.parse(parser, args, clips=2, num_sources=2, clips_at_once=1)
    if not arguments.seconds >= 1:
        parser.error(f"--seconds must be at least 1, longer than a snippet, got {arguments.seconds:g}")
    return arguments


def main(args: list[str] | None = None) -> None:
    """Measure steps of both kinds and print the table (or JSON)."""
    arguments = parse(args)
    torch.set_num_threads(arguments.threads)
    result = measure(arguments)
    print(json.dumps(result, indent=2)) if arguments.json else print_table(result)


if __name__ == "__main__":
    main()
