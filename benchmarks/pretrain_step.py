"""Cost of one pre-training step of SSLAM: time, CPU seconds, peak memory, FLOPs and share of peak, by part.

    python benchmarks/pretrain_step.py --size base --stage 2 --clips 2 --clones 4 --threads 2 --precision bf16 --compile

The step is the real one: the Trainer runs the method on noise, and stopwatches sit around the calls of student,
teacher, decoder, backward and optimizer. Time outside them (front end, masks, mixing, losses) is "other", so the
parts add up to the step. The optimizer includes gradient clipping and the update of the teacher.

For comparison, the authors' code takes 18.7 CPU s and 5.8 GiB for ViT-B, stage 2, 2 clips, 4 clones, two threads of
an EPYC, float32.
"""

import argparse
import json
import logging
import statistics
import warnings
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks import measuring
from benchmarks.measuring import Cost, Stopwatch
from sslam.frontends import KaldiFbank
from sslam.methods import SSLAM, Objectives, Stage
from sslam.networks import AudioViT, ConvDecoder
from sslam.transforms import InverseBlockMasking, PartialMixing

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"width": 64, "depth": 2, "num_heads": 4},
    "small": {"width": 384, "depth": 12, "num_heads": 6},
    "base": {"width": 768, "depth": 12, "num_heads": 12},
    "large": {"width": 1024, "depth": 24, "num_heads": 16},
}
PARTS = ["student", "teacher", "decoder", "backward", "optimizer", "other"]


def attach(watch: Stopwatch, module: SSLAM) -> None:
    """Time the parts of the module's steps."""
    watch.time_calls(module.student, "embed", "student")
    watch.time_calls(module.student, "encode", "student")
    watch.time_calls(module.teacher.encoder, "embed", "teacher")
    watch.time_calls(module.teacher, "forward", "teacher")
    watch.time_calls(module.decoder, "forward", "decoder")
    watch.time_calls(module, "training_step", "other")
    watch.time_calls(module, "backward", "backward")
    # Lightning runs forward and backward in the optimizer's closure: what is left over is the optimizer.
    optimizer_step = module.optimizer_step

    def timed_step(*args: Any, **kwargs: Any) -> None:
        with watch.step("optimizer"):
            optimizer_step(*args, **kwargs)

    module.optimizer_step = timed_step  # type: ignore[method-assign]


def build(arguments: argparse.Namespace) -> SSLAM:
    """The method at the asked size, with one endless stage."""
    torch.manual_seed(0)
    encoder = AudioViT(**SIZES[arguments.size])
    stage_1 = arguments.stage == 1
    stage = Stage(
        steps=1_000_000,
        warmup_steps=0,
        num_clones=arguments.clones,
        cls_target_layers=None if stage_1 else 1,
        objectives=Objectives(unmixed=1, mixed=0, source_retention=0) if stage_1 else Objectives(),
        name=f"stage {arguments.stage}",
    )
    return SSLAM(
        encoder,
        ConvDecoder(width=encoder.width, decoder_width=min(768, encoder.width)),
        KaldiFbank(num_frames=arguments.frames),
        InverseBlockMasking(),
        PartialMixing(),
        [stage],
    )


def run_steps(module: SSLAM, arguments: argparse.Namespace, num_steps: int) -> None:
    """Run optimizer steps with the Trainer, on one batch of noise that is over and over the same."""
    num_samples = 160 * arguments.frames + 240  # hop and window overlap of the front end
    generator = torch.Generator().manual_seed(0)
    clip_T = 0.1 * torch.randn(num_samples, generator=generator)
    clip: dict[str, Tensor | int] = {"waveform": clip_T, "num_samples": num_samples}
    trainer = pl.Trainer(
        max_steps=num_steps,
        accelerator="gpu" if arguments.device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if arguments.precision == "bf16" else "32-true",
        gradient_clip_val=4.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    clips: Any = [clip] * (arguments.clips * num_steps)
    trainer.fit(module, DataLoader(clips, batch_size=arguments.clips))


def count_flops(arguments: argparse.Namespace) -> dict[str, Cost]:
    """One eager step, whose costs have FLOPs."""
    module, watch = build(arguments), Stopwatch(arguments.device)
    attach(watch, module)
    with watch.counting_flops():
        run_steps(module, arguments, 1)
    return watch.steps[0]


def measured_peak_tflops(arguments: argparse.Namespace) -> float:
    """TFLOP/s of a large square matrix product in the same precision, on the same device and threads; best of 5."""
    size = arguments.matmul_size or (8192 if arguments.device == "cuda" else 2048)
    return 1e-12 / measuring.seconds_per_flop(size, size, size, 1, arguments.device, arguments.precision).wall


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark; every number of the table, by part."""
    module = build(arguments)
    if arguments.compile:
        # Without the stopwatches, which sit outside the blocks.
        module.student.compile_blocks()
        module.teacher.encoder.compile_blocks()
    watch = Stopwatch(arguments.device)
    attach(watch, module)
    run_steps(module, arguments, arguments.warmup)
    watch.steps.clear()
    measuring.reset_peak_memory(arguments.device)
    run_steps(module, arguments, arguments.repeats)
    del module
    steps = [{**step, "total": measuring.total(step)} for step in watch.steps]
    counted = count_flops(arguments)
    counted["total"] = measuring.total(counted)
    measured_peak = measured_peak_tflops(arguments)
    peak = arguments.peak_tflops or measured_peak
    rows = {}
    for part in [*PARTS, "total"]:
        wall = [1000 * step[part].wall_s for step in steps]
        median = statistics.median(wall)
        speed = counted[part].gflop / median if median else 0.0  # GFLOP in a ms: TFLOP in a second
        rows[part] = {
            "wall_ms": median,
            "wall_ms_min": min(wall),
            "wall_ms_max": max(wall),
            "cpu_s": statistics.median(step[part].cpu_s for step in steps),
            "gflop": counted[part].gflop,
            "tflop_per_s": speed,
            "share_of_peak": speed / peak,
        }
    return {
        **measuring.conditions(arguments),
        "parts": rows,
        "peak_memory_gib": max(step["total"].peak_memory_gib for step in steps),
        "measured_peak_tflops": measured_peak,
        "peak_tflops": peak,
    }


def print_table(result: dict[str, Any]) -> None:
    measuring.print_conditions(result)
    print(f"\n{'part':<10}{'wall ms':>10}{'min .. max':>22}{'CPU s':>9}{'GFLOP':>11}{'TFLOP/s':>10}{'of peak':>9}")
    for part, row in result["parts"].items():
        extremes = f"{row['wall_ms_min']:.1f} .. {row['wall_ms_max']:.1f}"
        print(
            f"{part:<10}{row['wall_ms']:>10.1f}{extremes:>22}{row['cpu_s']:>9.2f}{row['gflop']:>11.1f}"
            f"{row['tflop_per_s']:>10.3f}{row['share_of_peak']:>9.1%}"
        )
    where = "allocated on the GPU" if result["settings"]["device"] == "cuda" else "resident, of the whole process"
    print(f"\nPeak memory: {result['peak_memory_gib']:.2f} GiB {where}")
    print(f"Peak speed: {result['peak_tflops']:.3f} TFLOP/s (matrix product: {result['measured_peak_tflops']:.3f})")


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = measuring.make_parser(__doc__, warmup=2)
    parser.add_argument("--size", choices=SIZES, default="base", help="encoder")
    parser.add_argument("--stage", type=int, choices=[1, 2], default=2, help="1: masked latents; 2: with mixtures")
    parser.add_argument("--clips", type=int, default=2, help="clips in a batch")
    parser.add_argument("--clones", type=int, default=4, help="masked views per clip")
    parser.add_argument("--frames", type=int, default=1024, help="frames of a clip, 10 ms each")
    parser.add_argument("--compile", action="store_true", help="compile the encoder blocks")
    parser.add_argument("--peak_tflops", type=float, help="data-sheet peak, in place of the matrix product's")
    parser.add_argument("--matmul_size", type=int, help="side of the matrix product; 2048 on a CPU, 8192 on a GPU")
    arguments = measuring.parse(parser, args, clips=1, clones=1)
    if arguments.stage == 2 and arguments.clips < 2:
        parser.error("--clips must be at least 2 in stage 2, where every clip needs a partner")
    return arguments


def main(args: list[str] | None = None) -> None:
    """Measure one step and print the table (or JSON)."""
    arguments = parse(args)
    torch.set_num_threads(arguments.threads)
    result = measure(arguments)
    print(json.dumps(result, indent=2)) if arguments.json else print_table(result)


if __name__ == "__main__":
    # Settings of the whole process, which a test that calls main() must not be left with.
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    main()
