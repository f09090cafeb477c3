"""Run folders with results of made-up scores."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.evaluation_results import make_record, score_arrays
from sslam.metrics import ClassificationMetrics, ClassificationResults
from sslam.report.results import CheckpointFacts, EvaluationRecord, SplitCounts, write_record


def made_up_results(
    skill: float, seed: int = 0, clips: int = 60, classes: int = 5, single_label: bool = True, polyphony: bool = False
) -> ClassificationResults:
    """Scores that follow the labels the better, the higher the skill and the fewer sounds there are."""
    random = torch.Generator().manual_seed(seed)
    if single_label:
        labels = torch.eye(classes)[torch.arange(clips) % classes]
    else:
        labels = (torch.rand(clips, classes, generator=random) < 0.3).float()
    degree = labels.sum(dim=1).long()
    noise = torch.randn(clips, classes, generator=random)
    scores = skill * labels / (1 + 0.3 * degree[:, None]) + noise
    metrics = ClassificationMetrics(classes, single_label)
    metrics.update(scores, labels, torch.arange(clips), degree if polyphony else None)
    return metrics.compute()


def made_up_record(results: list[ClassificationResults], **changes: Any) -> EvaluationRecord:
    """A record of these results; `label`, `weights`, `sha256`, `title` and `fold` may be changed as any field of it."""
    label = changes.pop("label", "stage 1")
    sha256 = changes.pop("sha256", label.encode().hex().ljust(64, "0"))
    names = [f"class_{number}" for number in range(results[0].num_classes)]
    origin: dict[str, Any] = {
        "title": "ESC-50",
        "fold": None if "title" in changes else 1,
        "class_path": "data_modules.ESC50DataModule",
        "splits": {"training": SplitCounts(1600, 1600, 0, 0), "test": SplitCounts(400, 400, 0, 0)},
        "experiment": "probe_esc50",
        "run_id": "20250131-142530-a1b2c3",
        "method": "LinearProbe",
        "stage": "test",
        "epoch": 0,
        "step": 100,
        "seed": 0,
        "checkpoint": CheckpointFacts(label, changes.pop("weights", "student"), f"{label}.ckpt", sha256),
        "learning_rate": 1e-3,
        "date": "2025-01-31T14:25:30+00:00",
    }
    return make_record(results, changes.pop("class_names", names), **{**origin, **changes})


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes the results of one run into a folder of its own, and returns this folder."""

    def write(name: str, skill: float = 2.0, seed: int = 0, results: Any = None, **changes: Any) -> Path:
        folder = tmp_path / "runs" / name
        results = results or [made_up_results(skill, seed)]
        write_record(
            folder, made_up_record(results, **{"run_id": name, "seed": seed, **changes}), score_arrays(results)
        )
        return folder

    return write
