"""Cost of one pre-training step of SSLAM: time, CPU seconds, peak memory, FLOPs and share of peak, by part.

    python benchmarks/pretrain_step.py --size base --stage 2 --clips 2 --clones 4 --threads 2 --precision bf16 --compile

The step is the real one: the Trainer runs the method on noise, and stopwatches sit around the calls of student,
teacher, decoder, backward and optimizer. Time outside them (front end, masks, mixing, losses) is "other", so the
parts add up to the step. The optimizer includes gradient clipping and the update of the teacher.

For comparison, the authors' code takes 18.7 CPU s and 5.8 GiB for ViT-B, stage 2, 2 clips, 4 clones, two threads of
an EPYC, float32.
"""

import argparse
import contextlib
import functools
import json
import logging
import math
import platform
import resource
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from sslam.frontends import KaldiFbank
from sslam.methods import SSLAM, Objectives, Stage
from sslam.networks import AudioViT, ConvDecoder
from sslam.transforms import InverseBlockMasking, PartialMixing

SIZES = {
    "tiny": {"width": 64, "depth": 2, "num_heads": 4},
    "small": {"width": 384, "depth": 12, "num_heads": 6},
    "base": {"width": 768, "depth": 12, "num_heads": 12},
    "large": {"width": 1024, "depth": 24, "num_heads": 16},
}
PARTS = ["student", "teacher", "decoder", "backward", "optimizer", "other"]


class Stopwatch:
    """Splits a step into parts: the time in a call belongs to its part, less the calls of other parts within it.

    On a GPU, events in the stream take the place of a clock, so that nothing waits for the device between the parts.

    Args:
        device: Whose time is taken.
        count_flops: Total FLOPs so far; None leaves them at 0.
    """

    def __init__(self, device: torch.device, count_flops: Callable[[], int] | None = None) -> None:
        self.device = device
        self.count_flops = count_flops
        self.running: list[str] = []
        # Part that ended at this moment, wall clock (seconds or an event), CPU seconds, FLOPs.
        self.marks: list[tuple[str | None, Any, float, int]] = []
        self.steps: list[dict[str, dict[str, float]]] = []

    def mark(self) -> None:
        if self.device.type == "cuda":
            wall: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            wall.record()
        else:
            wall = time.perf_counter()
        flops = self.count_flops() if self.count_flops else 0
        self.marks.append((self.running[-1] if self.running else None, wall, time.process_time(), flops))

    def time_calls(self, owner: Any, method: str, part: str) -> None:
        """Count every call of ``owner.method`` towards ``part``; calls outside a step are left alone."""
        original = getattr(owner, method)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if not self.running:
                return original(*args, **kwargs)
            with self.within(part):
                return original(*args, **kwargs)

        setattr(owner, method, timed)

    @contextlib.contextmanager
    def within(self, part: str) -> Iterator[None]:
        self.mark()
        self.running.append(part)
        yield
        self.mark()
        self.running.pop()

    @contextlib.contextmanager
    def step(self, part: str) -> Iterator[None]:
        """A whole step; what is in no timed call within it belongs to ``part``."""
        self.marks = []
        with self.within(part):
            yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        totals: dict[str, dict[str, float]] = {name: defaultdict(float) for name in PARTS}
        for (_, *before), (name, *after) in zip(self.marks[:-1], self.marks[1:], strict=True):
            assert name is not None
            wall = before[0].elapsed_time(after[0]) if self.device.type == "cuda" else 1000 * (after[0] - before[0])
            totals[name]["wall_ms"] += wall
            totals[name]["cpu_s"] += after[1] - before[1]
            totals[name]["flops"] += after[2] - before[2]
        totals["total"] = {key: sum(totals[name][key] for name in PARTS) for key in ("wall_ms", "cpu_s", "flops")}
        self.steps.append(totals)

    def attach(self, module: SSLAM) -> None:
        self.time_calls(module.student, "embed", "student")
        self.time_calls(module.student, "encode", "student")
        self.time_calls(module.teacher.encoder, "embed", "teacher")
        self.time_calls(module.teacher, "forward", "teacher")
        self.time_calls(module.decoder, "forward", "decoder")
        self.time_calls(module, "training_step", "other")
        self.time_calls(module, "backward", "backward")
        # Lightning runs forward and backward in the optimizer's closure: what is left over is the optimizer.
        optimizer_step = module.optimizer_step

        def timed_step(*args: Any, **kwargs: Any) -> None:
            with self.step("optimizer"):
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


def _attention_flops(query: list[int], key: list[int], value: list[int], *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward_flops(
    grad: list[int], query: list[int], key: list[int], value: list[int], *_: Any, **__: Any
) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))  # type: ignore[no-untyped-call]


def _convolution_backward_flops(grad: list[int], _input: list[int], weight: list[int], *settings: Any, **_: Any) -> int:
    wants_input, wants_weight, _bias = settings[-1]
    # Either gradient costs as much as the forward pass; the weight has the inputs of one group only.
    forward = 2 * grad[0] * math.prod(grad[2:]) * math.prod(weight)
    return int(forward * (wants_input + wants_weight))


def count_flops(arguments: argparse.Namespace) -> dict[str, float]:
    """FLOPs of one eager step by part (2 per multiply-add; matrix products, convolutions and attention)."""
    module = build(arguments)
    aten = torch.ops.aten
    # PyTorch's counter leaves out attention on a CPU and takes a grouped convolution's weight gradient for a dense one.
    formulas = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
        aten.convolution_backward: _convolution_backward_flops,
    }
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        watch = Stopwatch(torch.device(arguments.device), counter.get_total_flops)
        watch.attach(module)
        run_steps(module, arguments, 1)
    return {part: values["flops"] for part, values in watch.steps[0].items()}


def reset_peak_memory(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        with contextlib.suppress(OSError):  # not in every container
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_gib(device: str) -> float:
    """GPU: largest allocated memory since the reset. CPU: largest resident memory of the process, Python included."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status")
    if status.exists():
        kib = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(kib) / 2**20
    # Where there is no /proc, the peak of the whole process; macOS gives bytes, others KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if platform.system() == "Darwin" else 2**20)


def measured_peak_tflops(arguments: argparse.Namespace) -> float:
    """TFLOP/s of a large square matrix product in the same precision, on the same device and threads; best of 5."""
    size = arguments.matmul_size or (8192 if arguments.device == "cuda" else 2048)
    dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    left = torch.randn(size, size, device=arguments.device, dtype=dtype)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        left @ left
        if arguments.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds[1:]) / 1e12


def machine(arguments: argparse.Namespace) -> str:
    """What the numbers were measured on."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    if arguments.device == "cuda":
        name = f"{torch.cuda.get_device_name()}, host {name}"
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}"


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark; every number of the table, by part."""
    module = build(arguments)
    if arguments.compile:
        # Without the stopwatches, which sit outside the blocks.
        module.student.compile_blocks()
        module.teacher.encoder.compile_blocks()
    watch = Stopwatch(torch.device(arguments.device))
    watch.attach(module)
    run_steps(module, arguments, arguments.warmup)
    watch.steps.clear()
    reset_peak_memory(arguments.device)
    run_steps(module, arguments, arguments.repeats)
    peak_memory = peak_memory_gib(arguments.device)
    del module
    flops = count_flops(arguments)
    measured_peak = measured_peak_tflops(arguments)
    peak = arguments.peak_tflops or measured_peak
    rows = {}
    for part in [*PARTS, "total"]:
        wall = [step[part]["wall_ms"] for step in watch.steps]
        median = statistics.median(wall)
        rows[part] = {
            "wall_ms": median,
            "wall_ms_min": min(wall),
            "wall_ms_max": max(wall),
            "cpu_s": statistics.median(step[part]["cpu_s"] for step in watch.steps),
            "gflop": flops[part] / 1e9,
            "tflop_per_s": flops[part] / (median / 1000) / 1e12 if median else 0.0,
        }
        rows[part]["share_of_peak"] = rows[part]["tflop_per_s"] / peak
    settings = ("size", "stage", "clips", "clones", "frames", "precision", "compile", "device", "warmup", "repeats")
    return {
        "machine": machine(arguments),
        "settings": {name: getattr(arguments, name) for name in settings},
        "parts": rows,
        "peak_memory_gib": peak_memory,
        "measured_peak_tflops": measured_peak,
        "peak_tflops": peak,
    }


def print_table(result: dict[str, Any]) -> None:
    print(result["machine"])
    print(", ".join(f"{name} {value}" for name, value in result["settings"].items()))
    print(f"\n{'part':<10}{'wall ms':>10}{'min .. max':>22}{'CPU s':>9}{'GFLOP':>11}{'TFLOP/s':>10}{'of peak':>9}")
    for part, row in result["parts"].items():
        spread = f"{row['wall_ms_min']:.1f} .. {row['wall_ms_max']:.1f}"
        print(
            f"{part:<10}{row['wall_ms']:>10.1f}{spread:>22}{row['cpu_s']:>9.2f}{row['gflop']:>11.1f}"
            f"{row['tflop_per_s']:>10.3f}{row['share_of_peak']:>9.1%}"
        )
    where = "allocated on the GPU" if result["settings"]["device"] == "cuda" else "resident, of the whole process"
    print(f"\nPeak memory: {result['peak_memory_gib']:.2f} GiB {where}")
    print(f"Peak speed: {result['peak_tflops']:.3f} TFLOP/s (matrix product: {result['measured_peak_tflops']:.3f})")


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="base", help="encoder")
    parser.add_argument("--stage", type=int, choices=[1, 2], default=2, help="1: masked latents; 2: with mixtures")
    parser.add_argument("--clips", type=int, default=2, help="clips in a batch")
    parser.add_argument("--clones", type=int, default=4, help="masked views per clip")
    parser.add_argument("--frames", type=int, default=1024, help="frames of a clip, 10 ms each")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16 is mixed precision")
    parser.add_argument("--compile", action="store_true", help="compile the encoder blocks")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where the step runs")
    parser.add_argument("--threads", type=int, default=2, help="threads of the CPU")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the measured ones")
    parser.add_argument("--repeats", type=int, default=5, help="measured steps: the table has the median")
    parser.add_argument("--peak-tflops", type=float, help="data-sheet peak, in place of the matrix product's")
    parser.add_argument("--matmul-size", type=int, help="side of the matrix product; 2048 on a CPU, 8192 on a GPU")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args(args)
    for name in ("clips", "clones", "threads", "warmup", "repeats"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    if arguments.stage == 2 and arguments.clips < 2:
        parser.error("--clips must be at least 2 in stage 2, where every clip needs a partner")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here; leave it out or install a GPU build of torch")
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
