"""Everything that only a GPU can tell, with one command and into one JSON file.

    python benchmarks/on_gpu.py [--output on_gpu.json] [--minutes 9]

- ``parity``: networks, front ends, losses and gradients on the device in float32 and bfloat16 against the CPU's in
  float32, which the parity tests hold to the published numbers;
- ``host_syncs``: operations in the training steps of the three methods that wait for the device; there must be none;
- ``steps``: one training step of each method at published sizes: time, memory, FLOPs and share of the device's peak;
- ``runs``: `sslam fit` from FLAC files: clips/s, seconds a step, wait for data, memory, share of the peak;
- ``profile``: the operations of a stage-2 step by their time on the device.

Each part is a process of its own and written when it has ended; what the time does not suffice for is named. Exit
code: 0, 1 if a part failed or a number is not as it must be, 2 without a CUDA device. --size tiny --device cpu tries.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks import measuring, pretrain_step
from sslam.atomic_write import write_whole
from sslam.frontends import KaldiFbank, LogMel
from sslam.losses import NTXent, mixit_loss
from sslam.methods import MixIT, SeparationContrastive
from sslam.networks import CNN14, TDCN, AudioViT, ConvDecoder
from sslam.transforms import MixtureAgainstMixture, SpecAugment

TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}
"""Largest difference from the CPU's float32, over the largest value; the parity tests' own is 1e-4, on one device."""
ROOT = Path(__file__).resolve().parents[1]
VIT: dict[str, dict[str, Any]] = {"tiny": {"width": 64, "depth": 2, "num_heads": 4}, "published": {}}
TDCN_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"num_basis": 32, "width": 32, "hidden_width": 64, "num_blocks": 4},
    "published": {},
}
CNN_SIZES: dict[str, dict[str, Any]] = {"tiny": {"channels": [8, 16, 32]}, "published": {}}


# ---- parity ---------------------------------------------------------------------------------------------------------


def computed(options: argparse.Namespace, device: str, bf16: bool) -> dict[str, Tensor]:
    """Outputs, losses and gradients of all networks, from the same weights and inputs on any device."""
    torch.manual_seed(0)
    waveform_BT = 0.1 * torch.randn(4, 160_000 if options.size == "published" else 16_000)
    vit, tdcn = AudioViT(**VIT[options.size]), TDCN(4, **TDCN_SIZES[options.size])
    cnn, decoder = CNN14(**CNN_SIZES[options.size]), ConvDecoder(width=vit.width, decoder_width=vit.width)
    place = torch.device(device)
    autocast = torch.autocast(place.type, torch.bfloat16, enabled=bf16)
    for network in (vit, tdcn, cnn, decoder):
        network.to(place).eval()
    waveform_BT = waveform_BT.to(place)
    found: dict[str, Tensor] = {}
    fbank_BLF, log_mel_BLF = (frontend.to(place)(waveform_BT) for frontend in (KaldiFbank(), LogMel()))
    found |= {"KaldiFbank": fbank_BLF, "LogMel": log_mel_BLF}
    with autocast:
        tokens_BPD = vit(fbank_BLF)
        found["AudioViT"] = tokens_BPD
        mixtures_BMT = waveform_BT.view(2, 2, -1)
        estimates_BNT = tdcn(mixtures_BMT.sum(dim=1))
        found |= {"TDCN": estimates_BNT, "MixIT loss": mixit_loss(mixtures_BMT, estimates_BNT)}
        embedding_BD = cnn(log_mel_BLF[:, :96])[:, 0]
        found |= {"CNN14": embedding_BD, "NT-Xent": NTXent()(embedding_BD[:2], embedding_BD[2:])}
    (tokens_BPD.float().square().mean() + found["MixIT loss"].mean() + found["NT-Xent"].mean()).backward()
    for name, network in (("AudioViT", vit), ("TDCN", tdcn), ("CNN14", cnn)):
        gradients = [parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None]
        found[f"gradients of {name}"] = torch.cat(gradients)
    return {name: value.detach().float().cpu() for name, value in found.items()}


def parity(options: argparse.Namespace) -> dict[str, Any]:
    """Largest differences from the CPU, by precision and output."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    expected = computed(options, "cpu", bf16=False)
    result: dict[str, Any] = {"is_good": True}
    for precision in ("fp32", "bf16"):
        found = computed(options, options.device, precision == "bf16")
        differences = {
            name: float((value - expected[name]).norm() / expected[name].norm().clamp_min(1e-12))
            for name, value in found.items()
        }
        result[precision] = differences
        # Of bfloat16 gradients are told, not judged: maxima that are chosen otherwise change them as a whole.
        judged = [value for name, value in differences.items() if precision == "fp32" or "gradients" not in name]
        result["is_good"] &= all(difference <= TOLERANCE[precision] for difference in judged)
    return result


# ---- host syncs -----------------------------------------------------------------------------------------------------


class Syncs(pl.Callback):
    """Notes what waits for the device from the third training step on."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._catching: Any = None

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step >= 2 and module.device.type == "cuda":
            self._catching = warnings.catch_warnings(record=True)
            self._warned = self._catching.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")

    def on_train_batch_end(self, *_: Any) -> None:
        if self._catching is not None:
            torch.cuda.set_sync_debug_mode("default")
            self._catching.__exit__(None, None, None)
            self._catching = None
            said = [warning for warning in self._warned if "synchronizing CUDA operation" in str(warning.message)]
            self.found += [f"{warning.filename}:{warning.lineno}" for warning in said]


def methods(options: argparse.Namespace) -> dict[str, Callable[[], pl.LightningModule]]:
    """The three methods at their sizes."""
    size = "tiny" if options.size == "tiny" else "base"
    frames = 128 if options.size == "tiny" else 1024
    stage = argparse.Namespace(size=size, stage=2, clones=2 if options.size == "tiny" else 8, frames=frames)
    return {
        "SSLAM": lambda: pretrain_step.build(stage),
        "MixIT": lambda: MixIT(TDCN(4, **TDCN_SIZES[options.size])),
        "contrastive": lambda: SeparationContrastive(
            CNN14(**CNN_SIZES[options.size]), LogMel(), MixtureAgainstMixture(), similarity=NTXent(),
            spec_augment=SpecAugment(),
        ),
    }  # fmt: skip


def fit(module: pl.LightningModule, options: argparse.Namespace, steps: int, callback: pl.Callback) -> None:
    num_samples = 20_720 if options.size == "tiny" else 164_080
    clip = {"waveform": 0.1 * torch.randn(num_samples), "num_samples": num_samples, "index": 0}
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="gpu" if options.device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed",
        gradient_clip_val=4.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
    )
    clips: Any = [clip] * (4 * steps)
    trainer.fit(module, DataLoader(clips, batch_size=4, pin_memory=options.device == "cuda"))


def host_syncs(options: argparse.Namespace) -> dict[str, Any]:
    """Places in the steps of each method that wait for the device; None where there is none to wait for."""
    result: dict[str, Any] = {"is_good": True}
    for name, make in methods(options).items():
        syncs = Syncs()
        fit(make(), options, 5, syncs)
        result[name] = sorted(set(syncs.found)) if options.device == "cuda" else None
        result["is_good"] &= not syncs.found
    return result


# ---- profile --------------------------------------------------------------------------------------------------------


class Profiled(pl.Callback):
    """The operations of the steps from the third on."""

    def __init__(self, on_gpu: bool) -> None:
        kinds = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * on_gpu
        self.profiler = torch.profiler.profile(activities=kinds)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 2:
            self.profiler.start()

    def on_train_end(self, *_: Any) -> None:
        self.profiler.stop()


def profile(options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of three stage-2 steps by operation, the most first."""
    on_gpu = options.device == "cuda"
    callback = Profiled(on_gpu)
    fit(methods(options)["SSLAM"](), options, 5, callback)
    rows = [
        (event.key, (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1000, event.count)
        for event in callback.profiler.key_averages()
    ]
    rows.sort(key=lambda row: -row[1])
    return {"milliseconds": [{"operation": key, "ms": ms, "calls": calls} for key, ms, calls in rows[:30]]}


# ---- steps and runs: other commands ---------------------------------------------------------------------------------


def step_commands(options: argparse.Namespace) -> dict[str, list[str]]:
    """Benchmarks of the steps, which print JSON."""
    common = ["--device", options.device, "--json", "--precision", "bf16"]
    if options.size == "tiny":
        small = [*common, "--repeats", "1", "--threads", "1"]
        vit = ["--size", "tiny", "--frames", "128", "--clones", "2", "--matmul_size", "64"]
        return {
            "SSLAM stage 2": ["pretrain_step.py", *small, *vit],
            "contrastive": ["contrastive_step.py", *small, "--size", "small", "--seconds", "1.2", "--clips", "2"],
        }
    stages = {"1": "16", "2": "8"}
    return {
        **{
            f"SSLAM stage {stage}{', compiled' if compiled else ''}": [
                "pretrain_step.py", *common, "--stage", stage, "--clones", clones, "--clips", "12",
                *(["--compile"] if compiled else []),
            ]
            for compiled in (False, True) for stage, clones in stages.items()
        },
        "contrastive": ["contrastive_step.py", *common, "--clips", "64"],
        "MixIT": ["separation_step.py", *common, "--num_sources", "4", "--clips", "4", "4"],
    }  # fmt: skip


def benchmark(arguments: list[str], seconds: float) -> Any:
    """What a benchmark prints."""
    command = [sys.executable, f"benchmarks/{arguments[0]}", *arguments[1:]]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds)
    if done.returncode:
        return {"is_good": False, "error": done.stderr.strip().splitlines()[-1:]}
    return json.loads(done.stdout[min(done.stdout.find(mark) for mark in "[{" if mark in done.stdout) :])


def run_of_fit(config: list[str], options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Last logged speeds of `sslam fit` from FLAC files that are written for it."""
    with tempfile.TemporaryDirectory() as folder:
        audio = Path(folder) / "audio"
        audio.mkdir()
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, 160_000)
        for number in range(8 if options.size == "tiny" else 512):
            soundfile.write(audio / f"{number}.flac", np.roll(noise, 311 * number), 16_000)
        command = [sys.executable, "-m", "sslam", "fit"]
        for file in (*config, "experiments/data/folder.yaml"):
            command += ["--config", file]
        steps = 4 if options.size == "tiny" else 60
        command += ["--data.root", str(audio), "--trainer.default_root_dir", folder, "--run_id", "run",
                    "--trainer.max_steps", str(steps), "--trainer.log_every_n_steps", str(steps // 4),
                    "--trainer.accelerator", "gpu" if options.device == "cuda" else "cpu", "--trainer.devices", "1",
                    "--trainer.precision", "bf16-mixed", "--trainer.callbacks", "callbacks.Throughput",
                    "--trainer.callbacks.share_of_peak", "true"]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
        if done.returncode:
            return {"is_good": False, "error": done.stderr.strip().splitlines()[-1:]}
        with next(Path(folder).rglob("metrics.csv")).open() as metrics:
            rows = list(csv.DictReader(metrics))
        names = ("clips_per_second", "step_seconds", "wait_fraction", "memory_gib", "share_of_peak")
        columns = {name: [float(row[f"train/{name}"]) for row in rows if row.get(f"train/{name}")] for name in names}
        return {name: values[-1] for name, values in columns.items() if values}


def run_configs(options: argparse.Namespace) -> dict[str, list[str]]:
    """Files of the runs."""
    pretrain = ["experiments/pretrain.yaml"]
    if options.size == "tiny":
        return {"SSLAM stage 1": [*pretrain, "experiments/overrides/smoke.yaml"]}
    return {
        "SSLAM stage 1": pretrain,
        "SSLAM stage 2": [*pretrain, "experiments/overrides/stage_2_only.yaml"],
        "MixIT": ["experiments/separate.yaml"],
    }


# ---- all of it ------------------------------------------------------------------------------------------------------

OWN_PARTS = {"parity": parity, "host_syncs": host_syncs, "profile": profile}


def own_part(name: str, options: argparse.Namespace, seconds: float) -> Any:
    """One of :data:`OWN_PARTS` in a process of its own."""
    arguments = ["on_gpu.py", "--part", name, "--size", options.size, "--device", options.device]
    return benchmark(arguments, seconds)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("on_gpu.json"), help="JSON file (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=9.0, help="it ends by then (default: %(default)s)")
    parser.add_argument("--size", choices=["published", "tiny"], default="published", help="tiny tries the script")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu tries the script")
    parser.add_argument("--part", choices=OWN_PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("on_gpu: torch sees no CUDA device here, so there is nothing to measure (exit code 2).", file=sys.stderr)
        return 2
    if options.part is not None:
        warnings.filterwarnings("ignore", module="lightning")
        print(json.dumps(OWN_PARTS[options.part](options)))
        return 0
    end = time.monotonic() + 60 * options.minutes
    settings = argparse.Namespace(device=options.device, threads=torch.get_num_threads(), size=options.size)
    result: dict[str, Any] = measuring.conditions(settings)
    tasks: dict[tuple[str, str], Callable[[float], Any]] = {}
    for name in ("parity", "host_syncs"):
        tasks[name, ""] = partial(own_part, name, options)
    for name, command in step_commands(options).items():
        tasks["steps", name] = partial(benchmark, command)
    for name, files in run_configs(options).items():
        tasks["runs", name] = partial(run_of_fit, files, options)
    tasks["profile", ""] = partial(own_part, "profile", options)
    is_good = True
    for (part, name), task in tasks.items():
        start = time.monotonic()
        try:
            found = task(max(1.0, end - start - 5))
        except subprocess.TimeoutExpired:
            found = {"is_good": False, "error": "the time did not suffice"}
        if isinstance(found, dict):
            is_good &= found.get("is_good", True)
        if name:
            result.setdefault(part, {})[name] = found
        else:
            result[part] = found
        print(f"on_gpu: {part} {name}: {time.monotonic() - start:.0f} s", file=sys.stderr)
        text = json.dumps(result, indent=2) + "\n"
        write_whole(options.output, partial(Path.write_text, data=text))
    print(f"on_gpu: {options.output}" + ("" if is_good else ", and not all is as it must be"), file=sys.stderr)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
