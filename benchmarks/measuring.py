"""What the benchmarks share: clocks, peak memory, FLOPs, the speed of a matrix product, options and tables."""

import argparse
import contextlib
import functools
import platform
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sslam.flops import flop_counter


class Seconds(NamedTuple):
    """Time of a call: processor time of all threads, and wall time."""

    cpu: float
    wall: float


def timed(work: Callable[[], object], device: str) -> Seconds:
    """Time of one call; a GPU is waited for."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def seconds_per_flop(rows: int, inner: int, columns: int, number: int, device: str, precision: str) -> Seconds:
    """Time of ``number`` matrix products (rows, inner) @ (inner, columns) over their FLOPs: best of 5 after one."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left = torch.randn(rows, inner, device=device, dtype=dtype)
    right = torch.randn(inner, columns, device=device, dtype=dtype)

    def products() -> None:
        for _ in range(number):
            left @ right

    cpu, wall = zip(*[timed(products, device) for _ in range(6)][1:], strict=True)
    flops = number * 2 * rows * inner * columns
    return Seconds(min(cpu) / flops, min(wall) / flops)


def reset_peak_memory(device: str) -> None:
    """What :func:`peak_memory_gib` gives afterwards counts from here, where the system allows that."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        with contextlib.suppress(OSError):  # not in every container
            Path("/proc/self/clear_refs").write_text("5")


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


@dataclass
class Cost:
    """What a part of a step costs; on a CPU, peak memory is that of the process until then."""

    cpu_s: float = 0.0
    wall_s: float = 0.0
    gflop: float = 0.0
    peak_memory_gib: float = 0.0


class Stopwatch:
    """Splits steps into parts: the time in a call belongs to its part, less the calls of other parts within it.

    On a GPU, events in the stream take the place of a clock, so that nothing waits for the device between the parts.

    Attributes:
        steps: Costs of every step so far, by part.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.steps: list[dict[str, Cost]] = []
        self._flops: Callable[[], int] = lambda: 0
        self._running: list[str] = []
        # Part that ended at this moment, CPU seconds, wall clock (seconds or an event), FLOPs, peak memory.
        self._marks: list[tuple[str, float, Any, int, float]] = []

    @contextlib.contextmanager
    def counting_flops(self) -> Iterator[None]:
        """Count the FLOPs of the steps within, which takes time."""
        with flop_counter() as counter:
            self._flops = counter.get_total_flops
            yield
        self._flops = lambda: 0

    @contextlib.contextmanager
    def step(self, part: str) -> Iterator[None]:
        """A whole step; what is in no timed call within it belongs to ``part``."""
        self._marks = []
        with self.within(part):
            yield
        if self.device == "cuda":
            torch.cuda.synchronize()
        costs: dict[str, Cost] = defaultdict(Cost)
        for before, after in zip(self._marks[:-1], self._marks[1:], strict=True):
            cost = costs[after[0]]
            cost.cpu_s += after[1] - before[1]
            cost.wall_s += before[2].elapsed_time(after[2]) / 1000 if self.device == "cuda" else after[2] - before[2]
            cost.gflop += (after[3] - before[3]) / 1e9
            cost.peak_memory_gib = max(cost.peak_memory_gib, after[4])
        self.steps.append(dict(costs))

    @contextlib.contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Time until the end of the block belongs to ``part``."""
        self._mark()
        self._running.append(part)
        yield
        self._mark()
        self._running.pop()

    def switch(self, part: str) -> None:
        """The rest of the innermost block belongs to ``part``."""
        self._mark()
        self._running[-1] = part

    def time_calls(self, owner: Any, method: str, part: str) -> None:
        """Count every call of ``owner.method`` towards ``part``; calls outside a step are left alone."""
        original = getattr(owner, method)

        @functools.wraps(original)
        def timed_call(*args: Any, **kwargs: Any) -> Any:
            if not self._running:
                return original(*args, **kwargs)
            with self.within(part):
                return original(*args, **kwargs)

        setattr(owner, method, timed_call)

    def _mark(self) -> None:
        if self.device == "cuda":
            wall: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            wall.record()
        else:
            wall = time.perf_counter()
        cpu = time.process_time()
        ended = self._running[-1] if self._running else ""
        self._marks.append((ended, cpu, wall, self._flops(), peak_memory_gib(self.device)))
        if self.device == "cuda":
            reset_peak_memory(self.device)


def total(costs: dict[str, Cost]) -> Cost:
    """Cost of a whole step."""
    cpu_s, wall_s, gflop, peak_memory_gib = zip(*map(astuple, costs.values()), strict=True)
    return Cost(sum(cpu_s), sum(wall_s), sum(gflop), max(peak_memory_gib))


def make_parser(description: str | None, warmup: int = 1) -> argparse.ArgumentParser:
    """Parser with the options that the benchmarks of a step share; its help shows the first paragraph."""
    parser = argparse.ArgumentParser(
        description=(description or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16 is autocast")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where it runs")
    parser.add_argument("--threads", type=int, default=2, help="threads of the CPU")
    parser.add_argument("--warmup", type=int, default=warmup, help="steps of each kind before the measured ones")
    parser.add_argument("--repeats", type=int, default=5, help="measured steps of each kind: the table has the median")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def parse(parser: argparse.ArgumentParser, args: list[str] | None, **least: int) -> argparse.Namespace:
    """Options, none of them (nor any in a list) below its least value, and a device that is there."""
    arguments = parser.parse_args(args)
    for name, lowest in {"threads": 1, "warmup": 1, "repeats": 1, **least}.items():
        value = getattr(arguments, name)
        if isinstance(value, list) and min(value) < lowest:
            parser.error(f"--{name} must be at least {lowest} each, got {min(value)}")
        if not isinstance(value, list) and value < lowest:
            parser.error(f"--{name} must be at least {lowest}, got {value}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here; leave it out or install a GPU build of torch")
    return arguments


def conditions(arguments: argparse.Namespace) -> dict[str, Any]:
    """What numbers were measured on, and with which options."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    if arguments.device == "cuda":
        name = f"{torch.cuda.get_device_name()}, host {name}"
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    settings = {key: value for key, value in vars(arguments).items() if key not in ("json", "threads")}
    return {"machine": f"{name}, {arguments.threads} threads, {versions}", "settings": settings}


def print_conditions(result: dict[str, Any]) -> None:
    """Two lines over a table."""
    print(result["machine"])
    print(", ".join(f"{name} {value}" for name, value in result["settings"].items() if value is not None))


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Two columns of a table, of 9 and 20 characters: median, and least to largest."""
    extremes = f"{min(values):.{digits}f} .. {max(values):.{digits}f}"
    return f"{statistics.median(values):>9.{digits}f}{extremes:>20}"
