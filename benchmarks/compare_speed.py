"""CPU seconds of two checkouts, taken in turns in one run, and what one takes of the other.

    git worktree add ../before COMMIT
    python benchmarks/compare_speed.py ../before . [--jobs help step_bf16 features]

A process of each checkout does each job in turn with the other's, so that whatever else the machine does meets both.
The table has the medians, and the ratio of each turn: median, least and largest. Losses of the steps stand below it.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMMANDS = ("fit", "evaluate", "embed", "claims")


def help_jobs() -> dict[str, Callable[[], dict[str, float]]]:
    """`sslam COMMAND --help` in a process of its own."""

    def measure(command: str) -> dict[str, float]:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "sslam", command, "--help"], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {"cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}

    return {f"help_{command}": lambda command=command: measure(command) for command in COMMANDS}  # type: ignore[misc]


def step(precision: str, size: str) -> dict[str, float]:
    """A training step of SSLAM in stage 2, 2 clips of 10 s x 4 clones, after one that is not counted."""
    from benchmarks import measuring, pretrain_step

    arguments = pretrain_step.parse(["--precision", precision, "--threads", "1", "--size", size])
    module, watch = pretrain_step.build(arguments), measuring.Stopwatch("cpu")
    pretrain_step.attach(watch, module)
    pretrain_step.run_steps(module, arguments, 2)
    loss = module.trainer.callback_metrics["train/loss"].item()
    return {"cpu_s": measuring.total(watch.steps[-1]).cpu_s, "loss": loss}


def features() -> dict[str, float]:
    """Kaldi's fbank of eight clips of 10 s."""
    import torch

    from sslam.frontends import KaldiFbank

    frontend, waveform_BT = KaldiFbank(), 0.1 * torch.randn(8, 160_000, generator=torch.Generator().manual_seed(0))
    frontend(waveform_BT)
    start = time.process_time()
    features_BLF = frontend(waveform_BT)
    return {"cpu_s": time.process_time() - start, "sum": features_BLF.double().sum().item()}


def separation(precision: str) -> dict[str, float]:
    """TDCN++'s forward pass of a clip of 10 s, at the published size."""
    import torch

    from sslam.networks import TDCN

    torch.manual_seed(0)
    network, mixture_BT = TDCN(), 0.1 * torch.randn(1, 160_000)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        network(mixture_BT[:, :16_000])
        start = time.process_time()
        estimates_BNT = network(mixture_BT)
        return {"cpu_s": time.process_time() - start, "power": estimates_BNT.double().square().sum().item()}


JOBS: dict[str, Callable[[], dict[str, float]]] = {
    **help_jobs(),
    "features": features,
    **{f"step_{name}": lambda name=name: step(name, "base") for name in ("fp32", "bf16")},  # type: ignore[misc]
    **{f"small_step_{name}": lambda name=name: step(name, "small") for name in ("fp32", "bf16")},  # type: ignore[misc]
    **{f"separation_{name}": lambda name=name: separation(name) for name in ("fp32", "bf16")},  # type: ignore[misc]
}


def serve() -> None:
    """Do the jobs whose names come in on standard input; the results go out as lines of JSON."""
    import torch

    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr
    for name in sys.stdin:
        print(json.dumps(JOBS[name.strip()]()), file=answers, flush=True)


def start(checkout: Path) -> "subprocess.Popen[str]":
    """A process that serves with the code of a checkout, one thread; the benchmark itself is this file."""
    paths = [str(checkout.resolve() / "src"), str(checkout.resolve())]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--serve"]
    return subprocess.Popen(
        command,
        env=environment,
        cwd=checkout,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def main(args: list[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("before", type=Path, help="checkout")
    parser.add_argument("after", type=Path, help="checkout")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS), metavar="JOB", help=", ".join(JOBS))
    parser.add_argument("--repeats", type=int, default=5, help="turns, after one that is not counted")
    arguments = parser.parse_args(args)
    checkouts = [start(arguments.before), start(arguments.after)]

    def ask(process: "subprocess.Popen[str]", job: str) -> dict[str, float]:
        assert process.stdin is not None
        assert process.stdout is not None
        print(job, file=process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(process.stdout.readline())
        return answer

    print(f"{'job':<18}{'before, CPU s':>15}{'after':>10}{'after / before':>17}{'least .. largest':>22}", flush=True)
    for job in arguments.jobs:
        turns = [[ask(process, job) for process in checkouts] for _ in range(1 + arguments.repeats)][1:]
        before, after = zip(*turns, strict=True)
        ratios = [new["cpu_s"] / old["cpu_s"] for old, new in turns]
        medians = [statistics.median(turn["cpu_s"] for turn in side) for side in (before, after)]
        spread = f"{min(ratios):.2f} .. {max(ratios):.2f}"
        print(f"{job:<18}{medians[0]:>15.3f}{medians[1]:>10.3f}{statistics.median(ratios):>17.2f}{spread:>22}")
        for name in before[0].keys() - {"cpu_s"}:
            print(f"  {name}: {before[0][name]:.9g} before, {after[0][name]:.9g} after", flush=True)
    for process in checkouts:
        process.communicate()


if __name__ == "__main__":
    serve() if "--serve" in sys.argv[1:] else main()
