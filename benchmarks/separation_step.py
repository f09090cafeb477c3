"""Cost of separating with TDCN++ and of training it with MixIT: CPU seconds, wall seconds and peak memory.

    python benchmarks/separation_step.py --num_sources 2 4 --threads 2 --checkpoint_blocks

A forward pass is what separation does; a training step is forward pass, MixIT loss, backward pass and Adam on mixtures
of two clips of noise. Every case runs in a process of its own, so that peak memory is its own. The column "x product"
says how many times as long a case takes as matrix products with as many FLOPs on the same machine in the same run (in
CPU seconds, on a GPU in wall seconds); it can be compared between machines.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import measuring
from benchmarks.measuring import spread
from sslam.flops import flop_counter
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


def measure(case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every number of a row, for the first number of sources."""
    torch.set_num_threads(arguments.threads)
    work = make_work(case, arguments)
    calls = [measuring.timed(work, arguments.device) for _ in range(arguments.warmup + arguments.repeats)]
    peak_memory = measuring.peak_memory_gib(arguments.device)
    cpu, wall = (list(seconds) for seconds in zip(*calls[arguments.warmup :], strict=True))
    with flop_counter() as counter:
        work()
    flops = counter.get_total_flops()
    # The product that TDCN++ consists of at its published size.
    product = measuring.seconds_per_flop(512, 256, 8000, 10, arguments.device, arguments.precision)
    on_gpu = arguments.device == "cuda"
    return {
        "case": case,
        "num_sources": arguments.num_sources[0],
        "clips": arguments.clips[list(AUTHORS).index(case)],
        "cpu_s": cpu,
        "wall_s": wall,
        "peak_memory_gib": peak_memory,
        "gflop": flops / 1e9,
        "times_product": statistics.median(wall if on_gpu else cpu) / (flops * product[on_gpu]),
    }


def measure_apart(case: str, num_sources: int, args: list[str]) -> dict[str, Any]:
    """The same in a new process."""
    command = [sys.executable, __file__, *args, "--num_sources", str(num_sources), "--case", case]
    result: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return result


def print_table(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    measuring.print_conditions(measuring.conditions(arguments))
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
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--num_sources", type=int, nargs="+", default=[2, 4], help="outputs M, one case for each")
    parser.add_argument(
        "--clips", type=int, nargs=2, default=[2, 1], metavar=("FORWARD", "STEP"), help="clips or mixtures in a batch"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a clip, at 16 kHz")
    parser.add_argument("--size", choices=SIZES, default="published", help="of the network")
    parser.add_argument("--checkpoint_blocks", action="store_true", help="keep fewer activations in training")
    parser.add_argument("--case", choices=AUTHORS, help="measure this one alone, in this process, and print JSON")
    return measuring.parse(parser, args, num_sources=1, clips=1)


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
