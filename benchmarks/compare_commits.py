"""Whether two checkouts train to the same bits: losses, gradients, final weights and results of every method.

    git worktree add ../before COMMIT
    python benchmarks/compare_commits.py ../before .

Every method trains for a few steps on the built-in scenes in either checkout, in processes of their own. Compared are
all logged values, the tensors and the optimizer's moments (which hold the gradients) of the last checkpoint, and the
results and scores of evaluations. Then both go on with the older checkout's checkpoint of half the way. Exit code 1 if
anything differs or is gone. A tensor of another name and the same numbers counts as equal.
"""

import argparse
import csv
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

STAGES = json.dumps(
    [
        {
            "name": "clips",
            "steps": 4,
            "learning_rate": 1e-3,
            "warmup_steps": 1,
            "num_clones": 3,
            "cls_target_layers": None,
        }
        | {"objectives": {"unmixed": 1, "mixed": 0, "source_retention": 0}},
        {
            "name": "mixtures",
            "steps": 4,
            "learning_rate": 1e-3,
            "warmup_steps": 1,
            "num_clones": 2,
            "cls_target_layers": 1,
        }
        | {"objectives": {"unmixed": 1, "mixed": 1, "source_retention": 2}},
    ]
)
SHORT = (
    "--data.batch_size 4 --data.num_workers 0 --data.clip_seconds 1.28 --data.num_train_scenes 8 "
    "--data.num_val_scenes 4 --data.num_test_scenes 12 --trainer.max_steps 6 --trainer.accelerator cpu "
    "--trainer.devices 1 --trainer.log_every_n_steps 1 --trainer.num_sanity_val_steps 0 "
    "--checkpoint.every_n_train_steps 3 --checkpoint.milestone_steps 3"
)
SMOKE_CLASSIFIER = (
    f"--config experiments/overrides/smoke_classifier.yaml {SHORT} --model.encoder null "
    "--model.initial_checkpoint RUNS/sslam/one/checkpoints/last.ckpt --model.frontend sslam.frontends.KaldiFbank "
    "--model.frontend.num_frames 128"
)
METHODS = "experiments/evaluation/methods"
# Where an older checkout has a file, if not where the newer one has it.
MOVED = {
    f"{METHODS}/linear_probe.yaml": "experiments/linear_probe.yaml",
    f"{METHODS}/fine_tune.yaml": "experiments/fine_tune.yaml",
    f"{METHODS}/query_by_example.yaml": "experiments/query_by_example.yaml",
    f"{METHODS}/shallow_classifier.yaml": "experiments/evaluation/recipes/shallow_classifier.yaml",
}
# By name: a command line, in which RUNS stands for the folder of the checkout's own runs.
JOBS = {
    "sslam": "fit --config experiments/pretrain.yaml --config experiments/overrides/smoke.yaml "
    f"{SHORT} --model.stages '{STAGES}' --trainer.max_steps -1 --trainer.callbacks []",
    "mixit": "fit --config experiments/separate_soundscapes.yaml --config experiments/overrides/smoke_separation.yaml "
    f"{SHORT}",
    "contrastive": "fit --config experiments/contrastive.yaml --config experiments/overrides/smoke_contrastive.yaml "
    f"--data data_modules.SoundscapesDataModule {SHORT} --data.clip_seconds 2 --trainer.callbacks [] "
    "--model.processors.folder RUNS/mixit/one/checkpoints/kept --model.processors.files [end.ckpt]",
    "linear_probe": f"fit --config {METHODS}/linear_probe.yaml {SMOKE_CLASSIFIER} --model.epochs 3 "
    "--trainer.max_steps -1",
    "augmented_probe": "fit --config experiments/evaluation/recipes/polyphonic_linear.yaml "
    f"{SMOKE_CLASSIFIER} --trainer.max_epochs 3 "
    "--trainer.max_steps -1",
    "shallow_classifier": f"fit --config {METHODS}/shallow_classifier.yaml {SMOKE_CLASSIFIER} --model.epochs 3 "
    "--model.selection_fraction 0.3 --trainer.max_steps -1",
    "fine_tune": f"fit --config {METHODS}/fine_tune.yaml {SMOKE_CLASSIFIER} --model.learning_rate 1e-3",
    "retrieval": f"test --config {METHODS}/query_by_example.yaml {SHORT} "
    "--model.initial_checkpoint RUNS/sslam/one/checkpoints/last.ckpt",
}
GOING_ON = ("sslam", "mixit", "contrastive", "augmented_probe", "fine_tune")
NOT_COMPARED = ("clips_per_second", "wait_fraction", "step", "epoch")  # of the machine, or of Lightning's own count


def run(checkout: Path, name: str, runs: Path, run_id: str, more: Sequence[str] = ()) -> Path:
    """One job of a checkout; a run that is there already is not done again.

    Returns:
        Its run folder.

    Raises:
        RuntimeError: If the command fails, with the end of what it said.
    """
    folder = runs / name / run_id
    if (folder / "done").exists():
        return folder
    words = [word.replace("RUNS", str(runs)) for word in shlex.split(JOBS[name])]
    arguments = [word if word not in MOVED or (checkout / word).is_file() else MOVED[word] for word in words]
    place = ["--trainer.default_root_dir", str(runs), "--experiment", name, "--run_id", run_id]
    done = subprocess.run(
        [sys.executable, "-m", "sslam", *arguments, *place, *more],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": f"{checkout / 'src'}{os.pathsep}{checkout}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{name} of {checkout} failed: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    (folder / "done").touch()
    return folder


def logged(folder: Path) -> dict[str, list[str]]:
    """All values of a run's metrics by name, in their order, as they were written."""
    values: dict[str, list[str]] = {}
    for path in sorted(folder.glob("metrics*.csv")):
        with path.open() as stream:
            for row in csv.DictReader(stream):
                for name, value in row.items():
                    if value and not name.endswith(NOT_COMPARED):
                        values.setdefault(name, []).append(value)
    return values


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in nested dicts and lists, with its path."""
    if isinstance(value, dict | list | tuple):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(entry, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Weights and moments of the optimizers of the last checkpoint."""
    path = folder / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else {}
    kept = {key: checkpoint.get(key) for key in ("state_dict", "optimizer_states")}
    return {name: value for name, value in leaves(kept) if isinstance(value, torch.Tensor)}


def results(folder: Path) -> dict[str, Any]:
    """Numbers and scores of an evaluation."""
    found: dict[str, Any] = {}
    for path in folder.glob("results-*.json"):
        record = json.loads(path.read_text())
        for key in ("metrics", "spread", "per_class", "by_polyphony", "learning_rate", "num_heads"):
            found |= dict(leaves(record[key], key))
    for path in folder.glob("scores-*.npz"):
        with np.load(path) as arrays:
            found |= {name: arrays[name] for name in arrays.files}
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal bit for bit, where NaN equals NaN."""
    one, other = np.asarray(one), np.asarray(other)
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def compare(title: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> int:
    """Print what is equal, different, gone and new; returns how many values are different or gone."""
    different = [name for name in before if name in after and not same(before[name], after[name])]
    gone, new = [name for name in before if name not in after], [name for name in after if name not in before]
    for name in list(gone):
        twin = next((other for other in new if same(before[name], after[other])), None)
        if twin is not None:
            gone.remove(name)
            new.remove(twin)
    print(
        f"  {title}: {len(before) - len(different) - len(gone)} equal, {len(different)} different"
        + (f", gone: {', '.join(gone)}" if gone else "")
        + (f", new: {', '.join(new)}" if new else "")
    )
    for name in different[:8]:
        print(f"    {name}: {before[name]} -> {after[name]}")
    return len(different) + len(gone)


def compare_job(name: str, checkouts: Sequence[Path], runs: Sequence[Path]) -> int:
    """A job in both checkouts; returns how many values are different or gone."""
    print(name, flush=True)
    before, after = (run(checkout, name, place, "one") for checkout, place in zip(checkouts, runs, strict=True))
    wrong = sum(compare(read.__name__, read(before), read(after)) for read in (logged, tensors, results))
    if name in GOING_ON:
        half = before / "checkpoints" / "step=00000003.ckpt"
        # Files that a run reads beside its checkpoint are those of the older checkout for both.
        files = [word for word in shlex.split(JOBS[name]) if word.startswith("RUNS")]
        words = shlex.split(JOBS[name])
        fixed = [
            entry for file in files for entry in (words[words.index(file) - 1], file.replace("RUNS", str(runs[0])))
        ]
        more = [*fixed, "--ckpt_path", str(half)]
        before, after = (
            run(checkout, name, place, "on", more) for checkout, place in zip(checkouts, runs, strict=True)
        )
        wrong += sum(compare(f"{read.__name__}, going on", read(before), read(after)) for read in (logged, tensors))
    return wrong


def main() -> int:
    """Compare what the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="checkout of the older commit")
    parser.add_argument("after", type=Path, nargs="?", default=Path(), help="checkout of the newer one (default: here)")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS, help="these only")
    parser.add_argument("--runs", type=Path, help="folder for the runs, which are then kept (default: a temporary one)")
    options = parser.parse_args()
    checkouts = [options.before.resolve(), options.after.resolve()]
    with tempfile.TemporaryDirectory() as temporary:
        root = (options.runs or Path(temporary)).resolve()
        wrong = sum(compare_job(name, checkouts, [root / "before", root / "after"]) for name in options.jobs)
    print("Everything is equal." if not wrong else f"{wrong} values are different or gone.")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
