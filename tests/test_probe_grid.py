"""The grid of heads on kept tokens: together they learn what each learns alone, and what chooses is not learnt."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sslam.losses import ClassificationLoss, CrossEntropy, LabelNormalisedBCE
from sslam.networks import ClassifierHead
from sslam.networks.heads import Standardise
from sslam.optim import warmup_cosine
from sslam.probe_grid import KeptClips, ProbeGrid, StackedHeads

SHALLOW = {"hidden_width": 24, "normalisation": "l2", "standardise": False}


def grid_of(**changes: Any) -> ProbeGrid:
    arguments: dict[str, Any] = {
        "loss": CrossEntropy(),
        "learning_rates": [1e-3, 1e-2],
        "seeds": [0, 1, 2],
        "epochs": 30,
        "batch_size": 16,
        "warmup_fraction": 0.0,
        "min_learning_rate": 1e-6,
        "weight_decay": 0.05,
        "weight_decay_exempt_1d": True,
        "betas": (0.9, 0.95),
        "standardise": True,
        "selection_folds": 5,
        "selection_fraction": None,
        "hidden_width": None,
        "normalisation": "layer_norm",
    }
    return ProbeGrid(**(arguments | changes))


def clips_of(number: int, width: int = 32, distance: float = 2.0) -> KeptClips:
    """Clips of four classes that lie the further apart, the greater the distance."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(number) % 4
    embedding = torch.randn(number, width, generator=random) + distance * torch.eye(width)[labels]
    return KeptClips(5 * embedding, torch.eye(4)[labels], torch.arange(number))


@pytest.mark.parametrize("loss", [CrossEntropy(0.1), LabelNormalisedBCE()])
@pytest.mark.parametrize(
    "shape", [{}, SHALLOW, {"normalisation": "standardise"}], ids=["linear", "shallow", "standardised"]
)
def test_train__together_learn_what_each_learns_alone(loss: ClassificationLoss, shape: dict[str, Any]) -> None:
    clips = clips_of(20, distance=0)
    rows, rates, seeds = torch.stack([torch.arange(18), torch.arange(2, 20)]), [1e-2, 1e-3], [4, 7]
    grid = grid_of(epochs=4, batch_size=5, loss=loss, **shape)
    for stack, rate in zip(grid.train(clips, rows, rates, seeds), rates, strict=True):
        for replica, seed in enumerate(seeds):
            (alone,) = grid.train(clips, rows[replica : replica + 1], [rate], [seed])
            for name, value in alone.parameters.items():
                torch.testing.assert_close(value[0], stack.parameters[name][replica], rtol=1e-4, atol=1e-6)


def test_train__one_step_is_adam_on_the_plain_head() -> None:
    clips = clips_of(8, distance=0)
    (stack,) = grid_of(epochs=1, batch_size=8, standardise=False).train(clips, torch.arange(8)[None], [1e-2], [5])
    head = ClassifierHead(32, 4, seed=5)
    optimizer = torch.optim.AdamW(
        [
            {"params": [head.head.weight], "weight_decay": 0.05},
            {"params": [head.head.bias, *head.fc_norm.parameters()], "weight_decay": 0.0},
        ],
        lr=1e-2,
        betas=(0.9, 0.95),
    )
    torch.nn.functional.cross_entropy(head(clips.embedding_NW), clips.labels_NC).backward()
    optimizer.step()
    for name, value in head.named_parameters():
        torch.testing.assert_close(stack.parameters[name][0].squeeze(0), value)
    (single,) = stack.heads()
    torch.testing.assert_close(single(clips.embedding_NW), stack(clips.embedding_NW[None])[0])


@pytest.mark.parametrize("loss", [CrossEntropy(0.1), LabelNormalisedBCE()])
def test_train__is_a_plain_mlp_on_unit_embeddings(loss: ClassificationLoss) -> None:
    clips, seed, rate = clips_of(30), 5, 1e-2
    grid = grid_of(loss=loss, epochs=3, batch_size=8, warmup_fraction=0.2, **SHALLOW)
    (stack,) = grid.train(clips, torch.arange(30)[None], [rate], [seed])
    start = ClassifierHead(32, 4, seed, hidden_width=24, normalisation="l2")
    first, second = nn.Linear(32, 24), nn.Linear(24, 4)
    first.load_state_dict(start.hidden.state_dict())  # type: ignore[union-attr]
    second.load_state_dict(start.head.state_dict())
    mlp = nn.Sequential(first, nn.ReLU(), second)
    weights, biases = [first.weight, second.weight], [first.bias, second.bias]
    groups = [{"params": weights, "weight_decay": 0.05}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95))
    inputs = clips.embedding_NW / clips.embedding_NW.norm(dim=1, keepdim=True)
    order, step = torch.Generator().manual_seed(seed), 0
    for _ in range(3):
        for rows in torch.split(torch.randperm(30, generator=order), 8):
            for group in optimizer.param_groups:
                group["lr"] = warmup_cosine(step, rate, 2, 12, 1e-6)
            optimizer.zero_grad()
            loss(mlp(inputs[rows]), clips.labels_NC[rows]).backward()
            optimizer.step()
            step += 1
    torch.testing.assert_close(stack(clips.embedding_NW[None])[0], mlp(inputs), rtol=1e-4, atol=1e-5)
    (single,) = stack.heads()
    torch.testing.assert_close(single(clips.embedding_NW), mlp(inputs), rtol=1e-4, atol=1e-5)
    assert (first.weight - start.hidden.weight).abs().max() > 1e-3  # type: ignore[operator,union-attr]  # it has learnt


@pytest.mark.parametrize("hidden_width", [None, 16])
@pytest.mark.parametrize("normalisation", ["layer_norm", "l2", "standardise"])
def test_stacked_heads__are_the_single_ones(hidden_width: int | None, normalisation: Any) -> None:
    embedding = clips_of(6).embedding_NW
    heads = [ClassifierHead(32, 4, seed, hidden_width, normalisation) for seed in (0, 1)]
    stack = StackedHeads(heads)
    if normalisation == "standardise":  # a norm that does something
        for replica, head in enumerate(heads):
            stack.standardise(replica, embedding[: 3 + replica])
            head.fc_norm.mean, head.fc_norm.std = Standardise.statistics(embedding[: 3 + replica])
    for replica, (head, again) in enumerate(zip(heads, stack.heads(), strict=True)):
        torch.testing.assert_close(stack(embedding.expand(2, -1, -1))[replica], head(embedding))
        assert torch.equal(again(embedding), head(embedding))


def test_standardise__outputs_of_the_norm_have_mean_0_and_deviation_1() -> None:
    embedding = torch.randn(50, 32, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 3, 32) + 2
    embedding[:, 3] = embedding.mean()  # hardly varies after the norm
    stack = StackedHeads([ClassifierHead(32, 4, 0)])
    stack.standardise(0, embedding)
    (head,) = stack.heads()
    output = head.fc_norm(embedding)
    torch.testing.assert_close(output.mean(dim=0), torch.zeros(32), atol=1e-4, rtol=0)
    torch.testing.assert_close(output.std(dim=0, correction=0), torch.ones(32), atol=1e-3, rtol=0)


def test_standardise__statistics_are_of_the_clips_that_learn_and_do_not_learn() -> None:
    clips, rows = clips_of(20), torch.stack([torch.arange(12), torch.arange(8, 20)])
    (stack,) = grid_of(epochs=3, normalisation="standardise").train(clips, rows, [1e-2], [0, 1])
    for head, own in zip(stack.heads(), rows, strict=True):
        embedding = clips.embedding_NW[own].double().numpy()
        np.testing.assert_allclose(head.fc_norm.mean, embedding.mean(axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(head.fc_norm.std, embedding.std(axis=0), rtol=1e-4)
        assert not any(name.startswith("fc_norm") for name, _ in head.named_parameters())


def test_standardise__numbers_that_do_not_vary_are_not_blown_up() -> None:
    embedding = torch.randn(50, 4)
    embedding[:, 1] = 7.0
    embedding[:, 2] = 1000 * (1 + 1e-7 * torch.randn(50))  # rounding
    embedding[:, 3] *= 1e-9  # small, but all of it
    mean, std = Standardise.statistics(embedding)
    assert std[1:3].tolist() == [1.0, 1.0]
    torch.testing.assert_close(((embedding - mean) / std)[:, 3].std(correction=0), torch.tensor(1.0))


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[set[int]], list[float], list[int]]]:
    """What every training of a grid was given: each head's clips, the learning rates, the seeds."""
    calls: list[tuple[list[set[int]], list[float], list[int]]] = []
    original = ProbeGrid.train

    def spy(self: ProbeGrid, clips: KeptClips, rows_RN: torch.Tensor, rates: Any, seeds: Any) -> Any:
        calls.append(([set(rows.tolist()) for rows in rows_RN], list(rates), list(seeds)))
        return original(self, clips, rows_RN, rates, seeds)

    monkeypatch.setattr(ProbeGrid, "train", spy)
    return calls


@pytest.mark.parametrize("single_label", [True, False])
def test_fit__chooses_by_clips_that_were_not_learnt_and_then_learns_all(learnt: Any, single_label: bool) -> None:
    # A rate that learns nothing, and one that does: the choice is no accident.
    trained = grid_of(learning_rates=[1e-9, 1e-2], seeds=[3]).fit([clips_of(42)], single_label)
    assert (trained.learning_rate, trained.num_clips, len(trained.heads)) == (1e-2, 42, 1)
    assert trained.scores[0][1e-2] > trained.scores[0][1e-9]
    (folds, rates, seeds), (final, final_rates, final_seeds) = learnt
    assert (rates, seeds) == ([1e-9, 1e-2], [0] * 5)
    assert (final, final_rates, final_seeds) == ([set(range(42))], [1e-2], [3])
    held_out = [set(range(42)) - fold for fold in folds]
    assert set().union(*held_out) == set(range(42))
    assert all(len(fold) == 33 for fold in folds)  # parts of eight or nine, and all heads learn from as many


@pytest.mark.parametrize("fraction", [None, 0.2])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_fit__chooses_the_readout_and_learns_from_that_one(learnt: Any, at: int, fraction: float | None) -> None:
    """Noise, but for one readout that tells the classes apart; widths differ."""
    noise = [torch.randn(42, width, generator=torch.Generator().manual_seed(width)) for width in (12, 20)]
    telling = clips_of(42, distance=8.0)
    readouts = [telling._replace(embedding_NW=embedding) for embedding in noise]
    readouts.insert(at, telling)
    trained = grid_of(seeds=[3, 4], selection_fraction=fraction, normalisation="standardise").fit(readouts, True)
    assert trained.choice == at
    assert [list(scores) for scores in trained.scores] == [[1e-3, 1e-2]] * 3
    assert max(trained.scores[at].values()) == trained.scores[at][trained.learning_rate] > 0.7
    assert max(max(scores.values()) for place, scores in enumerate(trained.scores) if place != at) < 0.6
    for head in trained.heads:
        logits = head(telling.embedding_NW)
        assert (logits.argmax(dim=1) == telling.labels_NC.argmax(dim=1)).float().mean() > 0.8
    # Each readout by itself gives what it would give alone, and every clip is held out alike.
    alone = grid_of(seeds=[3, 4], selection_fraction=fraction, normalisation="standardise").fit([telling], True)
    assert alone.scores[0] == trained.scores[at]
    assert all(
        torch.equal(*pair) for pair in zip(alone.heads[1].parameters(), trained.heads[1].parameters(), strict=True)
    )
    assert learnt[0][0] == learnt[1][0] == learnt[2][0]


def test_fit__of_one_learning_rate_there_is_nothing_to_choose(learnt: Any) -> None:
    clips = clips_of(20)
    trained = grid_of(learning_rates=[1e-2], seeds=[3, 5], epochs=2).fit([clips], single_label=True)
    assert [call[1:] for call in learnt] == [([1e-2], [3, 5])]
    assert (trained.scores, trained.learning_rate) == ([], 1e-2)
    assert [name for name, _ in trained.heads[0].named_parameters()][-1] == "head.bias"
    assert not torch.equal(*(head(clips.embedding_NW) for head in trained.heads))


def test_fit__what_is_held_out_is_never_learnt(learnt: Any) -> None:
    grid = grid_of(learning_rates=[1e-9, 1e-2], seeds=[0, 1], epochs=80, selection_fraction=0.1, **SHALLOW)
    trained = grid.fit([clips_of(40)], single_label=True)
    ((rows, rates, seeds),) = learnt  # one training, of all rates and seeds
    assert (len(rows[0]), rows[0] == rows[1], rates, seeds) == (36, True, [1e-9, 1e-2], [0, 1])
    assert (trained.learning_rate, trained.num_clips) == (1e-2, 36)
    # The heads that were kept are those of the chosen rate.
    for head, seed in zip(trained.heads, (0, 1), strict=True):
        fresh = grid.new_head(32, 4, seed)
        assert not torch.allclose(head.hidden.weight, fresh.hidden.weight, atol=1e-4)  # type: ignore[union-attr,arg-type]


def test_fit__too_few_clips_to_hold_some_out() -> None:
    with pytest.raises(ValueError, match=r"selection_fraction 0\.9 holds out all of 2 training clips\. Give"):
        grid_of(selection_fraction=0.9).fit([clips_of(2)], single_label=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rates": [0.0]}, r"learning_rates must be one or more positive numbers, got \[0\.0\]\."),
        ({"epochs": 0}, r"epochs must be at least 1, got 0\."),
        ({"batch_size": 0}, r"batch_size must be at least 1, got 0\."),
        ({"selection_folds": 1}, r"selection_folds must be at least 2, got 1\."),
        ({"hidden_width": 0}, "hidden_width must be at least 1, got 0."),
        ({"selection_fraction": 1.0}, "selection_fraction must be between 0 and 1, both excluded, got 1.0."),
        ({"normalisation": "l2"}, "standardise needs LayerNorm, .* Set standardise to false, or"),
    ],
)
def test_probe_grid__refuses_wrong_values(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid_of(**changes)


@pytest.mark.parametrize("fraction", [None, 0.2])
def test_fit__holds_out_whole_recordings(fraction: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No head that is scored to choose the learning rate has learnt an excerpt of what it is scored on."""
    clips, group = clips_of(40), torch.arange(40) // 4
    grid = grid_of(epochs=1, selection_fraction=fraction)
    learnt: list[Any] = []
    scored: list[Any] = []
    train, score = ProbeGrid.train, ProbeGrid._score

    def train_and_note(self: ProbeGrid, kept: KeptClips, rows: Any, *more: Any) -> Any:
        learnt.append(rows)
        return train(self, kept, rows, *more)

    def score_and_note(self: ProbeGrid, kept: KeptClips, held_out: Any, single_label: bool) -> float:
        scored.append([rows for _, rows in held_out])
        return score(self, kept, held_out, single_label)

    monkeypatch.setattr(ProbeGrid, "train", train_and_note)
    monkeypatch.setattr(ProbeGrid, "_score", score_and_note)
    grid.fit([clips], True, group)
    assert scored
    for parts in scored:
        for rows, held_out in zip(learnt[0], parts, strict=False):
            assert not set(group[rows].tolist()) & set(group[held_out].tolist())


@pytest.mark.parametrize("fraction", [None, 0.2])
def test_fit__refuses_excerpts_of_one_recording(fraction: float | None) -> None:
    with pytest.raises(ValueError, match="excerpts of one recording"):
        grid_of(selection_fraction=fraction).fit([clips_of(10)], True, torch.zeros(10, dtype=torch.int64))
