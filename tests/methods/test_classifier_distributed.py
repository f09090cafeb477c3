"""Two processes find what one finds: metrics of a checkpoint, the probes of frozen tokens, gradients of the losses."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from sslam.__main__ import main
from sslam.losses import ClassificationLoss, CrossEntropy, LabelNormalisedBCE

SMALL = [
    *("--config", "experiments/evaluation/tasks/soundscapes.yaml"),
    *("--config", "experiments/overrides/smoke_classifier.yaml"),
    # Odd numbers of scenes, of which one process has one more, in one more batch.
    *("--data.num_train_scenes", "17", "--data.num_val_scenes", "9", "--data.num_test_scenes", "9"),
    *("--trainer.limit_test_batches", "1.0"),
]
FINE_TUNE = ["--config", "experiments/evaluation/methods/fine_tune.yaml", *SMALL, "--model.learning_rate", "1e-2"]
LINEAR_PROBE = [
    *("--config", "experiments/evaluation/methods/linear_probe.yaml", *SMALL),
    *("--trainer.limit_val_batches", "0", "--model.epochs", "10"),
]
DDP = ["--config", "experiments/overrides/ddp.yaml"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a fine-tuning and a linear probe were trained and tested by one process."""
    folder = tmp_path_factory.mktemp("one process")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for method in (FINE_TUNE, LINEAR_PROBE):
            assert main(["fit", *method, "--run_id", "one"]) == 0
        yield folder


def two_processes(folder: Path, *args: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sslam", *args, *DDP], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "MEMBER: 2/2" in done.stderr
    assert "sync_dist" not in done.stderr


def results(run: Path, stage: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(run / f"scores-{stage}.npz") as scores:
        return json.loads((run / f"results-{stage}.json").read_text()), dict(scores)


def numbers(record: dict[str, Any]) -> list[float]:
    """All metrics of a record in one list; -1 for those of classes without clips."""
    rows = [record["metrics"], record["spread"], *record["per_class"], *record["by_polyphony"]]
    values = [value for row in rows for name, value in row.items() if name != "name"]
    return [-1.0 if value is None else value for value in values]


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("method", "experiment", "stage"),
    [(FINE_TUNE, "fine_tune", "test"), (LINEAR_PROBE, "linear_probe", "validation")],
    ids=["fine-tuning, sslam test", "linear probe, sslam validate"],
)
def test_evaluation__two_processes_and_one_give_the_same_numbers(
    method: list[str], experiment: str, stage: str, folder: Path
) -> None:
    runs = Path("runs") / experiment
    command = [
        "validate" if stage == "validation" else stage,
        *(*method, "--ckpt_path", str(runs / "one/checkpoints/last.ckpt"), "--trainer.limit_val_batches", "1.0"),
    ]
    assert main([*command, "--run_id", f"one-{stage}"]) == 0
    two_processes(folder, *command, "--run_id", f"two-{stage}")
    (one, one_scores), (two, two_scores) = (results(runs / f"{name}-{stage}", stage) for name in ("one", "two"))
    assert one["data"]["num_clips"] == 9
    assert len(one["by_polyphony"]) > 1
    assert len(set(numbers(one))) > 20  # something to compare
    assert numbers(two) == pytest.approx(numbers(one), abs=1e-6)
    for entry in ("data", "epoch", "step", "seed", "learning_rate", "num_heads", "checkpoint"):
        assert two[entry] == one[entry], entry
    for name in ("labels", "index", "polyphony", "class_names"):
        np.testing.assert_array_equal(two_scores[name], one_scores[name])
    np.testing.assert_allclose(two_scores["scores"], one_scores["scores"], rtol=1e-5, atol=1e-6)


@pytest.mark.distributed
def test_linear_probe__learns_the_same_from_the_tokens_of_two_processes(folder: Path) -> None:
    runs = Path("runs/linear_probe")
    two_processes(folder, "fit", *LINEAR_PROBE, "--run_id", "two")
    (one, one_scores), (two, two_scores) = (results(runs / name, "test") for name in ("one", "two"))
    assert two["learning_rate"] == one["learning_rate"]
    # A hundred steps from tokens that differ by rounding.
    np.testing.assert_allclose(two_scores["scores"], one_scores["scores"], rtol=1e-3, atol=1e-3)
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-2)


# ---- gradients ------------------------------------------------------------------------------------------------------

LOSSES: dict[str, tuple[ClassificationLoss, torch.Tensor]] = {
    # As many labels in one half of the batch as not in the other.
    "mixed": (LabelNormalisedBCE(), torch.tensor([[1, 1, 0.7], [1, 0, 1], [0.3, 0, 0], [0, 0, 0]])),
    "one label": (LabelNormalisedBCE(), torch.tensor([[0, 0, 0], [0, 1.0, 0], [0, 0, 0], [0, 0, 0]])),
    "no label": (LabelNormalisedBCE(), torch.zeros(4, 3)),
    "single label": (CrossEntropy(0.1), torch.eye(3)[[0, 2, 1, 1]]),
}


def classifier_and_clips() -> tuple[torch.nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    return torch.nn.Linear(5, 3), torch.randn(4, 5)


def train_half(rank: int, folder: str) -> None:
    """One of two processes: gradients of its half of the batch, averaged as in training."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    half = slice(2 * rank, 2 * rank + 2)
    gradients = {}
    for name, (loss, labels_BC) in LOSSES.items():
        classifier, clips_BW = classifier_and_clips()
        averaging = DistributedDataParallel(classifier)
        loss(averaging(clips_BW[half]), labels_BC[half]).backward()
        gradients[name] = classifier.weight.grad
    if rank == 0:
        torch.save(gradients, f"{folder}/gradients.pt")
    distributed.destroy_process_group()


@pytest.mark.distributed
def test_losses__averaged_gradients_of_two_processes_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    multiprocessing.spawn(train_half, (str(tmp_path),), nprocs=2)
    gradients = torch.load(tmp_path / "gradients.pt", weights_only=True)
    for name, (loss, labels_BC) in LOSSES.items():
        classifier, clips_BW = classifier_and_clips()
        loss(classifier(clips_BW), labels_BC).backward()
        assert classifier.weight.grad is not None
        np.testing.assert_allclose(gradients[name], classifier.weight.grad, rtol=1e-5, atol=1e-6, err_msg=name)
