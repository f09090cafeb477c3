"""Cost of separating with TDCN++ and of training it with MixIT: CPU seconds, wall seconds and peak memory.

    python benchmarks/separation_step.py --num_sources 2 4 --threads 2 --checkpoint_blocks

A forward pass is what separation does; a training step is forward pass, MixIT loss, backward pass and Adam on mixtures
of two clips of noise. Every case runs in a process of its own, so that peak memory is its own. The column "x product"
says how many times as long a case takes as matrix products with as many FLOPs on the same machine in the same run (in
CPU seconds, on a GPU in wall seconds); it can be compared between machines.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sslam.losses import mixit_loss
from sslam.networks import TDCN

SIZES = {"tiny": {"num_basis": 32, "width": 32, "hidden_width": 64, "num_blocks": 4}, "published": {}}
# The authors' code on two EPYC cores in float32: clips, CPU s, GB.
AUTHORS: dict[str, tuple[int, float, float | None]] = {"forward": (2, 5.8, None), "step": (1, 9.0, 7.5)}


def make_work(case: str, arguments: argparse.Namespace) -> Callable[[], object]:
    """The function whose calls are measured."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"checkpoint_blocks": arguments.checkpoint_blocks, **SIZES[arguments.size]}
    separator = TDCN(arguments.num_sources[0], **options).to(arguments.device)
    clips = arguments.clips[list(AUTHORS).index(case)]
    mixtures_BMT = 0.1 * torch.randn(clips, 2, round(16_000 * arguments.seconds), device=arguments.device)
    optimizer = torch.optim.Adam(separator.parameters(), lr=1e-4)
    autocast = torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.precision == "bf16")

    @torch.no_grad()
    def forward() -> Tensor:
        with autocast:
            estimates_BNT: Tensor = separator(mixtures_BMT.sum(dim=1))
        return estimates_BNT

    def step() -> None:
        optimizer.zero_grad()
        with autocast:
            estimates_BNT = separator(mixtures_BMT.sum(dim=1))
        loss = mixit_loss(mixtures_BMT, estimates_BNT).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return {"forward": forward, "step": step}[case]


def timed(work: Callable[[], object], device: str) -> tuple[float, float]:
    """CPU seconds, of all threads, and wall seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.process_time() - cpu, time.perf_counter() - wall


def seconds_per_flop(arguments: argparse.Namespace) -> float:
    """Of the product that TDCN++ consists of at its published size, best of 5: CPU seconds, on a GPU wall seconds."""
    dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    weight = torch.randn(512, 256, device=arguments.device, dtype=dtype)
    signal = torch.randn(256, 8000, device=arguments.device, dtype=dtype)

    def products() -> None:
        for _ in range(10):
            weight @ signal

    seconds = [timed(products, arguments.device)[arguments.device == "cuda"] for _ in range(6)]
    return min(seconds[1:]) / (10 * 2 * 512 * 256 * 8000)


def peak_memory_gib(device: str) -> float:
    """GPU: largest allocated memory. CPU: largest resident memory of the process, Python and PyTorch included."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status")
    if status.exists():
        kib = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(kib) / 2**20
    # Where there is no /proc; macOS gives bytes, others KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if platform.system() == "Darwin" else 2**20)


def measure(case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every number of a row, for the first number of sources."""
    torch.set_num_threads(arguments.threads)
    work = make_work(case, arguments)
    for _ in range(arguments.warmup):
        timed(work, arguments.device)
    pairs = [timed(work, arguments.device) for _ in range(arguments.repeats)]
    peak_memory = peak_memory_gib(arguments.device)
    cpu, wall = (list(seconds) for seconds in zip(*pairs, strict=True))
    with FlopCounterMode(display=False) as counter:  # matrix products and convolutions, 2 per multiply-add
        work()
    gflop = counter.get_total_flops() / 1e9
    seconds = wall if arguments.device == "cuda" else cpu
    return {
        "case": case,
        "num_sources": arguments.num_sources[0],
        "clips": arguments.clips[list(AUTHORS).index(case)],
        "cpu_s": cpu,
        "wall_s": wall,
        "peak_memory_gib": peak_memory,
        "gflop": gflop,
        "times_product": statistics.median(seconds) / (1e9 * gflop * seconds_per_flop(arguments)),
    }


def measure_apart(case: str, num_sources: int, args: list[str]) -> dict[str, Any]:
    """The same in a new process."""
    command = [sys.executable, __file__, *args, "--num_sources", str(num_sources), "--case", case]
    result: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return result


def machine(arguments: argparse.Namespace) -> str:
    """What the numbers were measured on."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    if arguments.device == "cuda":
        name = f"{torch.cuda.get_device_name()}, host {name}"
    return f"{name}, {arguments.threads} threads, torch {torch.__version__}, Python {platform.python_version()}"


def print_table(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    def spread(seconds: list[float]) -> str:
        return f"{statistics.median(seconds):>9.3f}{f'{min(seconds):.3f} .. {max(seconds):.3f}':>20}"

    print(machine(arguments))
    settings = ("seconds", "size", "precision", "checkpoint_blocks", "device", "warmup", "repeats")
    print(", ".join(f"{name} {getattr(arguments, name)}" for name in settings))
    print(
        f"\n{'case':<9}{'M':>3}{'clips':>6}{'CPU s':>9}{'min .. max':>20}{'wall s':>9}{'min .. max':>20}"
        f"{'peak GiB':>10}{'GFLOP':>9}{'x product':>11}"
    )
    for row in rows:
        print(
            f"{row['case']:<9}{row['num_sources']:>3}{row['clips']:>6}{spread(row['cpu_s'])}{spread(row['wall_s'])}"
            f"{row['peak_memory_gib']:>10.2f}{row['gflop']:>9.1f}{row['times_product']:>11.2f}"
        )
    print("\nThe authors' code, two EPYC cores, float32, clips of 10 s:")
    for case, (clips, cpu, gigabytes) in AUTHORS.items():
        memory = "" if gigabytes is None else f"{gigabytes * 1e9 / 2**30:>59.2f}"
        print(f"{case:<9}{'':>3}{clips:>6}{cpu:>9.3f}{memory}")
    where = "allocated on the GPU" if arguments.device == "cuda" else "resident, of the whole process"
    print(f"\nPeak memory: {where}. Medians of {arguments.repeats}.")


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--num_sources", type=int, nargs="+", default=[2, 4], help="outputs M, one case for each")
    parser.add_argument(
        "--clips", type=int, nargs=2, default=[2, 1], metavar=("FORWARD", "STEP"), help="clips or mixtures in a batch"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a clip, at 16 kHz")
    parser.add_argument("--size", choices=SIZES, default="published", help="of the network")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16 is autocast")
    parser.add_argument("--checkpoint_blocks", action="store_true", help="keep fewer activations in training")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where it runs")
    parser.add_argument("--threads", type=int, default=2, help="threads of the CPU")
    parser.add_argument("--warmup", type=int, default=1, help="calls before the measured ones")
    parser.add_argument("--repeats", type=int, default=5, help="measured calls: the table has the median")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--case", choices=AUTHORS, help="measure this one alone, in this process, and print JSON")
    arguments = parser.parse_args(args)
    for name in ("threads", "warmup", "repeats"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    for name in ("num_sources", "clips"):
        if min(getattr(arguments, name)) < 1:
            parser.error(f"--{name} must be at least 1 each, got {min(getattr(arguments, name))}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here; leave it out or install a GPU build of torch")
    return arguments


def main(args: list[str] | None = None) -> None:
    """Measure all cases and print the table (or JSON)."""
    args = sys.argv[1:] if args is None else args
    arguments = parse(args)
    if arguments.case is not None:
        print(json.dumps(measure(arguments.case, arguments)))
        return
    rows = [measure_apart(case, num_sources, args) for case in AUTHORS for num_sources in arguments.num_sources]
    print(json.dumps(rows, indent=2)) if arguments.json else print_table(rows, arguments)


if __name__ == "__main__":
    main()
