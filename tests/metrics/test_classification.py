"""Metrics against scikit-learn, against numbers worked out by hand, and between one process and two."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    label_ranking_average_precision_score,
    roc_auc_score,
)
from torch import Tensor

from sslam.metrics import ClassificationMetrics, ClassificationResults


def evaluate(
    scores: Tensor, labels: Tensor, single_label: bool = False, polyphony: Tensor | None = None, batch_size: int = 7
) -> ClassificationResults:
    metrics = ClassificationMetrics(scores.shape[1], single_label)
    for ids in torch.arange(len(scores)).split(batch_size):
        metrics.update(scores[ids], labels[ids], ids, None if polyphony is None else polyphony[ids])
    return metrics.compute()


def random_case(seed: int, clips: int = 40, classes: int = 9, density: float = 0.2) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    labels = (torch.rand(clips, classes, generator=random) < density).float()
    return torch.randn(clips, classes, generator=random) + labels, labels


def with_absent_classes() -> tuple[Tensor, Tensor]:
    scores, labels = random_case(1)
    labels[:, [0, 4, 8]] = 0
    return scores, labels


def with_a_class_of_all_clips() -> tuple[Tensor, Tensor]:
    scores, labels = random_case(2)
    labels[:, 3] = 1
    return scores, labels


def with_ties() -> tuple[Tensor, Tensor]:
    scores, labels = random_case(3)
    return scores.round(), labels


def with_equal_scores() -> tuple[Tensor, Tensor]:
    _, labels = random_case(4)
    return torch.full_like(labels, 0.3), labels


def with_one_positive() -> tuple[Tensor, Tensor]:
    scores, labels = random_case(5)
    return scores, torch.zeros_like(labels).index_put_((torch.tensor(11), torch.tensor(2)), torch.tensor(1.0))


def with_one_clip() -> tuple[Tensor, Tensor]:
    return random_case(6, clips=1, density=0.5)


def with_bf16_scores() -> tuple[Tensor, Tensor]:
    scores, labels = random_case(7, clips=300)
    return scores.bfloat16(), labels


def with_large_logits() -> tuple[Tensor, Tensor]:
    # All different, but through a sigmoid in float32 all would be 1.
    scores, labels = random_case(8)
    return scores + 60, labels


def with_tiny_probabilities() -> tuple[Tensor, Tensor]:
    scores, labels = random_case(9)
    return (scores * 1e-6).exp() * 1e-30, labels


CASES = [
    lambda: random_case(0),
    with_absent_classes,
    with_a_class_of_all_clips,
    with_ties,
    with_equal_scores,
    with_one_positive,
    with_one_clip,
    with_bf16_scores,
    with_large_logits,
    with_tiny_probabilities,
]


@pytest.mark.parametrize("case", CASES)
def test_metrics__agree_with_scikit_learn(case: Any) -> None:
    scores, labels = case()
    results = evaluate(scores, labels)
    s, t = scores.float().numpy().astype(np.float64), labels.numpy().astype(int)
    for c in range(labels.shape[1]):
        if t[:, c].any():
            expected = average_precision_score(t[:, c], s[:, c])
            assert results.average_precision_C[c] == pytest.approx(expected, abs=1e-6)
        else:
            assert math.isnan(results.average_precision_C[c])
        if t[:, c].any() and not t[:, c].all():
            assert results.auc_C[c] == pytest.approx(roc_auc_score(t[:, c], s[:, c]), abs=1e-6)
        else:
            assert math.isnan(results.auc_C[c])
    assert results.mean_average_precision == pytest.approx(np.nanmean(results.average_precision_C))
    assert results.num_classes_with_support == (t.sum(0) > 0).sum()
    assert results.support_C.tolist() == t.sum(0).tolist()
    number = t.sum(1)
    lwlrap = label_ranking_average_precision_score(t[number > 0], s[number > 0], sample_weight=number[number > 0])
    assert results.lwlrap == pytest.approx(lwlrap, abs=1e-6)
    assert results.accuracy is None
    assert results.confusion_CC is None


@pytest.mark.parametrize("seed", range(3))
def test_metrics__single_label_agree_with_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    true = random.integers(0, 5, 60)
    scores = random.normal(size=(60, 6)) + 1.5 * np.eye(6)[true]
    results = evaluate(torch.from_numpy(scores), torch.eye(6)[true], single_label=True)
    found = scores.argmax(1)
    assert results.accuracy == pytest.approx(accuracy_score(true, found))
    assert results.confusion_CC is not None
    assert results.confusion_CC.tolist() == confusion_matrix(true, found, labels=range(6)).tolist()
    assert results.scalars()["accuracy"] == results.accuracy


def test_d_prime__worked_out() -> None:
    # Of the four pairs of a positive and a negative clip three, and four, are in order: AUC .75 and 1.
    scores = torch.tensor([[4.0, 9.0], [2.0, 8.0], [3.0, 1.0], [1.0, 2.0]])
    labels = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    results = evaluate(scores, labels)
    assert results.auc_C.tolist() == [0.75, 1.0]
    assert results.d_prime == pytest.approx(math.sqrt(2) * norm.ppf(0.875), abs=1e-6)
    assert results.d_prime == pytest.approx(1.6268, abs=1e-4)


def test_d_prime__perfect_and_undefined() -> None:
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert evaluate(labels, labels).d_prime == math.inf
    assert math.isnan(evaluate(labels, torch.ones(2, 2)).d_prime)


def test_lwlrap__worked_out() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.1], [0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.5, 0.5]])
    labels = torch.tensor([[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    # First clip: 1 of 1 and 2 of 3; second: 1 of 4; the third has no label. A mean over clips would be .5417.
    assert evaluate(scores, labels).lwlrap == pytest.approx((1 + 2 / 3 + 1 / 4) / 3)


def test_metrics__without_any_label_are_not_defined() -> None:
    results = evaluate(torch.randn(4, 3), torch.zeros(4, 3))
    assert all(math.isnan(value) for value in results.scalars().values())
    assert results.num_classes_with_support == 0


def test_by_polyphony__is_the_map_of_the_clips_of_a_degree() -> None:
    scores, labels = random_case(3, clips=60)
    polyphony = torch.arange(60) % 4
    labels[polyphony == 0] = 0
    labels[polyphony == 2, 5] = 0
    results = evaluate(scores, labels, polyphony=polyphony)
    assert [row[:2] for row in results.by_polyphony] == [(0, 15), (1, 15), (2, 15), (3, 15)]
    assert results.by_polyphony[0].num_classes == 0
    assert math.isnan(results.by_polyphony[0].mean_average_precision)
    for row in results.by_polyphony[1:]:
        ids = polyphony == row.polyphony
        alone = evaluate(scores[ids], labels[ids])
        assert row.mean_average_precision == pytest.approx(alone.mean_average_precision)
        assert row.num_classes == alone.num_classes_with_support
    # A clip of degree 0 counts as a negative in the mAP of all clips.
    some = evaluate(scores[polyphony > 0], labels[polyphony > 0])
    assert results.mean_average_precision < some.mean_average_precision
    assert results.polyphony_N is not None
    assert results.polyphony_N.tolist() == polyphony.tolist()
    assert evaluate(scores, labels).by_polyphony == ()


def test_by_distinct_events__is_the_map_of_the_clips_with_so_many_classes() -> None:
    """By brute force: every clip is put into its bracket by hand."""
    random = torch.Generator().manual_seed(0)
    labels = (torch.rand(300, 12, generator=random) < torch.linspace(0, 1, 300)[:, None]).float()
    scores = torch.rand(300, 12, generator=random)
    results = evaluate(scores, labels)
    clips: dict[tuple[int, int | None], list[int]] = {}
    for clip, number in enumerate(int(row.sum()) for row in labels):
        bracket = (
            (10, None) if number > 9 else (1, 1) if number == 1 else (number - number % 2, number - number % 2 + 1)
        )
        clips.setdefault(bracket, []).extend([clip] if number else [])
    assert [row[:2] for row in results.by_distinct_events] == [(1, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, None)]
    for row in results.by_distinct_events:
        ids = torch.tensor(clips[row.fewest, row.most])
        assert row.num_clips == len(ids)
        expected = evaluate(scores[ids], labels[ids])
        assert row.mean_average_precision == pytest.approx(expected.mean_average_precision, abs=1e-12)
        assert row.num_classes == expected.num_classes_with_support
    assert evaluate(scores, torch.eye(12).repeat(25, 1), single_label=True).by_distinct_events == ()


def test_by_polyphony__chance_is_what_random_scores_reach() -> None:
    random = torch.Generator().manual_seed(0)
    labels = (torch.rand(20, 4, generator=random) < torch.tensor([0.1, 0.3, 0.6, 0.0])).float()
    polyphony = torch.ones(20, dtype=torch.int64)
    trials = [
        evaluate(torch.rand(20, 4, generator=random), labels, polyphony=polyphony, batch_size=20).by_polyphony[0]
        for _ in range(100)
    ]
    values = [row.mean_average_precision for row in trials]
    assert abs(np.mean(values) - trials[0].chance) < 4 * np.std(values) / math.sqrt(len(values))
    one_clip = evaluate(torch.rand(1, 3), torch.ones(1, 3), polyphony=torch.ones(1, dtype=torch.int64))
    assert one_clip.by_polyphony[0].chance == 1


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_compute__does_not_depend_on_order_or_batches() -> None:
    scores, labels = with_ties()
    straight = evaluate(scores, labels)
    metrics = ClassificationMetrics(9, single_label=False)
    for ids in torch.randperm(40, generator=torch.Generator().manual_seed(1)).split(3):
        metrics.update(scores[ids], labels[ids], ids)
    shuffled = metrics.compute()
    assert shuffled.scalars() == straight.scalars()
    assert (shuffled.scores_NC == straight.scores_NC).all()
    assert shuffled.index_N.tolist() == list(range(40))
    metrics.reset()
    with pytest.raises(ValueError, match="No clip was evaluated. Check that the evaluation set has clips"):
        metrics.compute()


def test_update__of_what_autocast_leaves_gives_float32_on_the_cpu() -> None:
    metrics = ClassificationMetrics(9, single_label=False)
    scores, labels = with_bf16_scores()
    metrics.update(scores.requires_grad_(), labels, torch.arange(300))
    assert (metrics.scores[0].dtype, metrics.scores[0].requires_grad) == (torch.float32, False)
    assert metrics.compute().scores_NC.dtype == np.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"scores": torch.tensor([[0.0, 1.0], [math.nan, 0.0]])},
            "The scores of 1 of 2 clips are not finite, the first is clip 8. Evaluate in",
        ),
        (
            {"scores": torch.tensor([[-math.inf, 1.0], [0.0, 0.0]])},
            "The scores of 1 of 2 clips are not finite, the first is clip 7.",
        ),
        ({"scores": torch.zeros(2, 3)}, "scores must have shape (2, 2), got (2, 3)."),
        ({"labels": torch.zeros(2, 3)}, "labels must have shape (2, 2), got (2, 3)."),
        ({"labels": torch.tensor([[0.0, 1.0], [0.3, 0.7]])}, "The labels of clip 8 are not all 0 or 1. Evaluate on"),
        ({"labels": torch.tensor([[1.0, 1.0], [0.0, 1.0]])}, "Clip 7 has 2 labels, and in single-label data a clip"),
        ({"labels": torch.tensor([[1.0, 0.0], [0.0, 0.0]])}, "Clip 8 has 0 labels, and in single-label data a clip"),
        ({"index": torch.tensor([7, 7])}, "Clip 7 was evaluated more than once. Every clip must be evaluated exactly"),
    ],
)
def test_metrics__mistakes_name_the_clip(changes: dict[str, Tensor], message: str) -> None:
    batch = {"scores": torch.zeros(2, 2), "labels": torch.eye(2), "index": torch.tensor([7, 8])} | changes
    metrics = ClassificationMetrics(2, single_label=True)

    def evaluate_batch() -> None:
        metrics.update(batch["scores"], batch["labels"], batch["index"])
        metrics.compute()

    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate_batch()


def test_compute__polyphony_of_some_clips_only_is_a_mistake() -> None:
    metrics = ClassificationMetrics(2, single_label=False)
    metrics.update(torch.zeros(2, 2), torch.eye(2), torch.tensor([0, 1]), torch.tensor([1, 2]))
    metrics.update(torch.zeros(2, 2), torch.eye(2), torch.tensor([2, 3]))
    with pytest.raises(ValueError, match="Clip 2 has no polyphony and others have. Give it for all clips"):
        metrics.compute()


def test_metrics__need_two_classes() -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1."):
        ClassificationMetrics(1, single_label=False)


PROCESS = """
import json, os, sys
import torch
from sslam.metrics import ClassificationMetrics

rank, world = int(os.environ["RANK"]), 2
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=rank, world_size=world)
for clips in map(int, sys.argv[2:]):
    random = torch.Generator().manual_seed(0)
    labels = (torch.rand(clips, 6, generator=random) < 0.3).float()
    scores = (torch.randn(clips, 6, generator=random) * 3).round() + labels
    polyphony = labels.sum(dim=1).long()
    metrics = ClassificationMetrics(6, single_label=False)
    mine = torch.arange(rank, clips, world)
    for ids in mine.split(4) if len(mine) else ():
        metrics.update(scores[ids], labels[ids], ids, polyphony[ids])
    results = metrics.compute()
    assert sum(map(len, metrics.scores)) == len(mine)  # as before the exchange
    alone = ClassificationMetrics(6, single_label=False, sync_on_compute=False)
    alone.update(scores, labels, torch.arange(clips), polyphony)
    expected = alone.compute()
    assert str(results.scalars()) == str(expected.scalars()), (results.scalars(), expected.scalars())
    assert (results.scores_NC == expected.scores_NC).all() and (results.labels_NC == expected.labels_NC).all()
    assert str(results.by_polyphony) == str(expected.by_polyphony)
    print(json.dumps(results.index_N.tolist()))
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


@pytest.mark.distributed
def test_compute__two_processes_and_one_agree(tmp_path: Path) -> None:
    """Eleven clips: six and five, with batches of 4, 2 and 4, 1; one clip: the second process has none."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path / "meeting"), "11", "1"],
            env={**os.environ, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs[0][1] + outputs[1][1]
    for output, _ in outputs:
        assert [json.loads(line) for line in output.splitlines()] == [list(range(11)), [0]]
