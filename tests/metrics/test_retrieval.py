"""Retrieval against the paper's text in plain loops, at values known beforehand, and between one process and two."""

import math
import os
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from sslam.metrics import RetrievalMetrics, RetrievalResults, query_by_example_map, retrieval
from sslam.metrics.retrieval import draw_examples


def random_case(
    seed: int, clips: int = 40, classes: int = 6, width: int = 5, density: float = 0.25
) -> tuple[Tensor, Tensor]:
    """Embeddings that say something of the classes, and labels of which a clip may have several or none."""
    random = torch.Generator().manual_seed(seed)
    labels = (torch.rand(clips, classes, generator=random) < density).float()
    embeddings = torch.randn(clips, width, generator=random) + labels @ torch.randn(classes, width, generator=random)
    return embeddings, labels


def with_ties() -> tuple[Tensor, Tensor]:
    """Few directions, some clips the same but for their length, some without a direction."""
    embeddings, labels = random_case(1, clips=60)
    embeddings = embeddings.sign() * (embeddings.abs() > 1)
    assert (embeddings == 0).all(dim=1).any()
    return embeddings * torch.linspace(0.1, 9, 60).unsqueeze(1), labels


def with_classes_left_out() -> tuple[Tensor, Tensor]:
    """Classes of no clip, one clip and all clips."""
    embeddings, labels = random_case(2)
    labels[:, 0] = 0
    labels[:, 1] = torch.eye(40)[7]
    labels[:, 2] = 1
    return embeddings, labels


def papers_text(embeddings: Tensor, labels: Tensor, examples: Tensor | None = None) -> list[float]:
    """Section 4.1, pair by pair, and scikit-learn's average precision."""
    x, has_class = embeddings.double().numpy(), labels.numpy() == 1
    is_example = has_class if examples is None else examples.numpy()

    def distance(i: int, j: int) -> float:
        norms = np.sqrt(x[i] @ x[i]) * np.sqrt(x[j] @ x[j])
        # Rounded, as ties are to be ties.
        return round(1 - (x[i] @ x[j] / norms if norms > 0 else 0.0), 9)

    values = []
    for c in range(labels.shape[1]):
        present, not_present = np.flatnonzero(is_example[:, c]), np.flatnonzero(~has_class[:, c])
        target = [distance(i, j) for i, j in combinations(present, 2)]
        non_target = [distance(i, j) for i in present for j in not_present]
        if target and non_target:
            is_target = [1] * len(target) + [0] * len(non_target)
            values.append(average_precision_score(is_target, -np.array(target + non_target)))
        else:
            values.append(math.nan)
    return values


@pytest.mark.parametrize("trials_at_once", [retrieval.TRIALS_AT_ONCE, 70, 1])
@pytest.mark.parametrize("case", [lambda: random_case(0), with_ties, with_classes_left_out])
def test_query_by_example_map__is_the_papers_text(
    case: Any, trials_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "TRIALS_AT_ONCE", trials_at_once)
    embeddings, labels = case()
    scores = query_by_example_map(embeddings, labels)
    expected = papers_text(embeddings, labels)
    assert scores.average_precision_C.tolist() == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert scores.mean_average_precision == pytest.approx(np.nanmean(expected), abs=1e-6)
    present, absent = (labels == 1).sum(0), (labels == 0).sum(0)
    assert scores.num_targets_C.tolist() == (present * (present - 1) // 2).tolist()
    assert scores.num_non_targets_C.tolist() == (present * absent).tolist()


def test_query_by_example_map__of_given_examples_is_the_papers_text() -> None:
    embeddings, labels = random_case(3, density=0.5)
    examples = (labels == 1) & (torch.rand(40, 6, generator=torch.Generator().manual_seed(0)) < 0.4)
    scores = query_by_example_map(embeddings, labels, examples)
    assert scores.average_precision_C.tolist() == pytest.approx(papers_text(embeddings, labels, examples), abs=1e-6)
    assert scores.num_non_targets_C.tolist() == (examples.sum(0) * (labels == 0).sum(0)).tolist()


def test_query_by_example_map__worked_out() -> None:
    angles = torch.tensor([0.0, 10.0, 40.0, 60.0]) * math.pi / 180
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.tensor([[1.0], [7.0], [0.2], [3.0]])
    labels = torch.tensor([[1.0], [0.0], [1.0], [1.0]])
    # Ascending angles: 10 non-target, 20 target, 30 non-target, 40 target, 50 non-target, 60 target.
    scores = query_by_example_map(embeddings, labels)
    assert scores.mean_average_precision == pytest.approx(1 / 2)
    assert scores.chance == 1 / 2
    # All at one place: the precision of each is the share of targets.
    assert query_by_example_map(torch.ones(4, 2), labels).mean_average_precision == pytest.approx(1 / 2)


def test_query_by_example_map__a_perfect_embedding_gives_1() -> None:
    labels = torch.eye(5).repeat(8, 1)
    scores = query_by_example_map(labels, labels)
    assert scores.average_precision_C.tolist() == [1.0] * 5
    # The opposite: each of a class looks elsewhere, and all others are near.
    worst = query_by_example_map(torch.eye(4)[[0, 1, 2, 3, 0, 1, 2, 3]], torch.eye(2).repeat_interleave(4, 0))
    assert worst.mean_average_precision < worst.chance


def test_query_by_example_map__a_random_embedding_gives_the_share_of_targets() -> None:
    random = torch.Generator().manual_seed(0)
    labels = (torch.rand(400, 3, generator=random) < torch.tensor([0.1, 0.3, 0.6])).float()
    scores = [query_by_example_map(torch.randn(400, 64, generator=random), labels) for _ in range(10)]
    share_C = scores[0].num_targets_C / (scores[0].num_targets_C + scores[0].num_non_targets_C)
    mean_C = torch.stack([score.average_precision_C for score in scores]).mean(dim=0)
    np.testing.assert_allclose(mean_C, share_C, rtol=0.05)
    assert scores[0].chance == pytest.approx(share_C.mean().item())
    assert share_C.max() > 5 * share_C.min()


def test_query_by_example_map__does_not_depend_on_order_lengths_or_directions() -> None:
    embeddings, labels = with_ties()
    expected = query_by_example_map(embeddings, labels).average_precision_C
    random = torch.Generator().manual_seed(0)
    for _ in range(5):
        order = torch.randperm(60, generator=random)
        found = query_by_example_map(embeddings[order], labels[order]).average_precision_C
        assert torch.equal(found, expected)  # ties included
    classes = torch.tensor([5, 1, 0, 2, 4, 3])
    assert torch.equal(query_by_example_map(embeddings, labels[:, classes]).average_precision_C, expected[classes])
    lengths = torch.logspace(-18, 18, 60).unsqueeze(1)
    assert torch.equal(query_by_example_map(embeddings * lengths, labels.bool()).average_precision_C, expected)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=random, dtype=torch.float64))[0]
    torch.testing.assert_close(query_by_example_map(embeddings.double() @ rotation, labels)[0], expected)


def test_query_by_example_map__zeros_are_similar_to_none() -> None:
    # Opposite (distance 2) is further than zeros (distance 1).
    embeddings = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    scores = query_by_example_map(embeddings, labels)
    # First class: target at 2 after non-targets at 1, 1. Second: target at 1, non-targets at 2 and 1.
    assert scores.average_precision_C.tolist() == pytest.approx([1 / 3, 1 / 2])


@pytest.mark.parametrize("clips", [0, 1])
def test_query_by_example_map__without_trials_is_not_defined(clips: int) -> None:
    scores = query_by_example_map(torch.ones(clips, 4), torch.ones(clips, 3))
    assert math.isnan(scores.mean_average_precision)
    assert math.isnan(scores.chance)
    assert scores.num_targets_C.tolist() == [0, 0, 0]


def test_query_by_example_map__mistakes() -> None:
    embeddings, labels = random_case(0, clips=4, classes=2)
    with pytest.raises(ValueError, match=re.escape("must be of the same clips, got shapes (4, 5) and (3, 2).")):
        query_by_example_map(embeddings, labels[:3])
    with pytest.raises(ValueError, match=re.escape("got shapes (5,) and (4, 2).")):
        query_by_example_map(embeddings[0], labels)
    with pytest.raises(ValueError, match="Examples must be among the clips that are labelled with their class"):
        query_by_example_map(embeddings, labels, torch.ones(4, 2, dtype=torch.bool))
    with pytest.raises(
        ValueError, match=re.escape("of shape (4, 2) that is False where the label is 0, got shape (4,)")
    ):
        query_by_example_map(embeddings, labels, torch.zeros(4, dtype=torch.bool))
    embeddings[0, 1], embeddings[3, 0] = math.nan, math.inf
    with pytest.raises(ValueError, match="The embeddings of 2 of 4 clips are not finite. Embed in fp32"):
        query_by_example_map(embeddings, labels)


# ---- the metric -----------------------------------------------------------------------------------------------------


def evaluate(embeddings: Tensor, labels: Tensor, order: Tensor | None = None, **settings: Any) -> RetrievalResults:
    metrics = RetrievalMetrics(labels.shape[1], embeddings.shape[1], **settings)
    for ids in (torch.arange(len(labels)) if order is None else order).split(7):
        metrics.update(embeddings[ids], labels[ids], ids)
    return metrics.compute()


def test_metrics__of_all_examples_are_those_of_the_labelled_clips() -> None:
    embeddings, labels = with_classes_left_out()
    labels[:, 2] = 0
    labels[10, 3] = 1
    labels[20] = 0
    results = evaluate(embeddings, labels, examples_per_class=None)
    labelled = labels.any(dim=1)
    expected = query_by_example_map(embeddings[labelled], labels[labelled])
    assert (results.num_clips, results.num_compared_clips) == (40, int(labelled.sum()))
    assert results.num_compared_clips < 40
    np.testing.assert_array_equal(results.average_precision_C, expected.average_precision_C)
    assert results.scalars() == {"qbe_map": expected.mean_average_precision}
    assert results.chance == expected.chance
    assert (results.num_classes, results.num_classes_with_trials) == (6, 3)
    assert np.isnan(results.average_precision_C).nonzero()[0].tolist() == [0, 1, 2]
    assert results.num_examples_C.tolist() == labels.sum(0).tolist()
    assert results.num_targets_C.tolist() == expected.num_targets_C.tolist()
    assert results.num_non_targets_C.tolist() == expected.num_non_targets_C.tolist()


def test_metrics__compare_a_fixed_draw_of_examples() -> None:
    embeddings, labels = random_case(4, clips=200, density=0.3)
    labels[:, 5] *= torch.arange(200) < 30  # fewer than the others
    results = evaluate(embeddings, labels, examples_per_class=20)
    assert results.num_examples_C.tolist() == [20, 20, 20, 20, 20, min(20, int(labels[:, 5].sum()))]
    assert 20 < results.num_compared_clips < results.num_clips == 200
    examples = draw_examples(labels == 1, 20, seed=0)
    compared = examples.any(dim=1)
    expected = papers_text(embeddings[compared], labels[compared], examples[compared])
    assert results.average_precision_C.tolist() == pytest.approx(expected, abs=1e-6)
    # The same clips whatever the embeddings; other clips for another seed.
    assert evaluate(torch.randn(200, 5), labels, examples_per_class=20).num_non_targets_C.tolist() == (
        results.num_non_targets_C.tolist()
    )
    assert evaluate(embeddings, labels, examples_per_class=20, seed=1).scalars() != results.scalars()
    # As many as there are at most.
    assert evaluate(embeddings, labels, examples_per_class=1000).scalars() == (
        evaluate(embeddings, labels, examples_per_class=None).scalars()
    )


def test_draw_examples__every_clip_is_as_likely() -> None:
    labels = torch.ones(10, 1, dtype=torch.bool)
    draws = torch.stack([draw_examples(labels, 3, seed) for seed in range(600)]).float()
    assert draws.sum(dim=(1, 2)).tolist() == [3.0] * 600
    assert (draws.mean(dim=0) - 0.3).abs().max() < 0.08


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_compute__does_not_depend_on_order_or_batches() -> None:
    embeddings, labels = with_ties()
    labels[(embeddings == 0).all(dim=1), 3] = 1
    straight = evaluate(embeddings, labels, examples_per_class=5)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    shuffled = evaluate(embeddings, labels, order, examples_per_class=5)
    assert str(shuffled) == str(straight)
    assert evaluate(embeddings, labels, order).num_zero_embeddings == (embeddings == 0).all(dim=1).sum() > 0
    metrics = RetrievalMetrics(6, 5)
    metrics.update(embeddings, labels, torch.arange(60))
    metrics.reset()
    with pytest.raises(ValueError, match="No clip was evaluated. Check that the evaluation set has clips"):
        metrics.compute()


def test_compute__one_clip_has_no_map() -> None:
    results = evaluate(torch.ones(1, 4), torch.ones(1, 2))
    assert math.isnan(results.scalars()["qbe_map"])
    assert (results.num_clips, results.num_classes_with_trials) == (1, 0)
    assert np.isnan(results.average_precision_C).all()


def test_update__of_what_autocast_leaves_gives_float32_on_the_cpu() -> None:
    embeddings, labels = random_case(0)
    metrics = RetrievalMetrics(6, 5)
    metrics.update(embeddings.bfloat16().requires_grad_(), labels, torch.arange(40))
    assert (metrics.embeddings[0].dtype, metrics.embeddings[0].requires_grad) == (torch.float32, False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"embeddings": torch.tensor([[0.0, 1.0], [math.nan, 0.0]])},
            "The embeddings of 1 of 2 clips are not finite, the first is clip 8. Evaluate in fp32",
        ),
        ({"embeddings": torch.zeros(2, 3)}, "embeddings must have shape (2, 2), got (2, 3)."),
        ({"labels": torch.zeros(2, 3)}, "labels must have shape (2, 2), got (2, 3)."),
        ({"labels": torch.tensor([[0.0, 1.0], [0.3, 0.7]])}, "The labels of clip 8 are not all 0 or 1. Evaluate on"),
        ({"index": torch.tensor([7, 7])}, "Clip 7 was evaluated more than once. Every clip must be evaluated exactly"),
    ],
)
def test_metrics__mistakes_name_the_clip(changes: dict[str, Tensor], message: str) -> None:
    batch = {"embeddings": torch.zeros(2, 2), "labels": torch.eye(2), "index": torch.tensor([7, 8])} | changes
    metrics = RetrievalMetrics(2, 2)

    def evaluate_batch() -> None:
        metrics.update(batch["embeddings"], batch["labels"], batch["index"])
        metrics.compute()

    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate_batch()


def test_metrics__settings_that_give_no_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="examples_per_class must be at least 2, got 1."):
        RetrievalMetrics(2, 2, examples_per_class=1)
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0."):
        RetrievalMetrics(0, 2)


PROCESS = """
import os, sys
import torch
from sslam.metrics import RetrievalMetrics

rank, world = int(os.environ["RANK"]), 2
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=rank, world_size=world)
for clips in map(int, sys.argv[2:]):
    random = torch.Generator().manual_seed(0)
    labels = (torch.rand(clips, 4, generator=random) < 0.4).float()
    embeddings = torch.randn(clips, 3, generator=random).sign()
    metrics = RetrievalMetrics(4, 3, examples_per_class=5)
    mine = torch.arange(rank, clips, world)
    for ids in mine.split(4) if len(mine) else ():
        metrics.update(embeddings[ids], labels[ids], ids)
    results = metrics.compute()
    assert sum(map(len, metrics.embeddings)) == len(mine)  # as before the exchange
    alone = RetrievalMetrics(4, 3, examples_per_class=5, sync_on_compute=False)
    alone.update(embeddings, labels, torch.arange(clips))
    assert str(results) == str(alone.compute()), results
    print(results.num_clips, results.num_classes_with_trials)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


@pytest.mark.distributed
def test_compute__two_processes_and_one_agree(tmp_path: Path) -> None:
    """23 clips: twelve and eleven, with batches of 4, 4, 4 and 4, 4, 3; one clip: the second process has none."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path / "meeting"), "23", "1"],
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
        assert output.split() == ["23", "4", "1", "0"]
