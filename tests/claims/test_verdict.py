"""Verdicts on made-up scores, of which it is known how good they are."""

import math
from pathlib import Path

import pytest
import torch

from callbacks.evaluation_results import score_arrays
from sslam.claims.claim import Clause
from sslam.claims.verdict import Finding, judge, number_of, verdict_of, verdict_of_all
from sslam.metrics import ClassificationMetrics
from sslam.report.intervals import Interval, no_interval
from sslam.report.results import Run, read_record, write_record
from tests.report.conftest import made_up_record

CLASSES, CLIPS = 5, 300


@pytest.mark.parametrize(
    ("low", "high", "more_than", "verdict"),
    [
        (0.01, 0.05, 0.0, "holds"),
        (-0.05, -0.01, 0.0, "does not hold"),
        (-0.01, 0.05, 0.0, "undecided at this scale"),
        (-0.01, 0.05, -0.02, "holds"),  # no worse than two points
        (-0.03, 0.05, -0.02, "undecided at this scale"),
        (-0.05, -0.03, -0.02, "does not hold"),
        (-0.05, -0.01, -0.02, "undecided at this scale"),  # worse, but perhaps by less than the margin
        (0.01, 0.05, 0.02, "undecided at this scale"),
        (math.nan, math.nan, 0.0, "undecided at this scale"),
    ],
)
def test_verdict_of__is_where_the_interval_lies(low: float, high: float, more_than: float, verdict: str) -> None:
    assert verdict_of(Interval(low, high), more_than) == verdict


def test_verdict_of_all__needs_every_clause() -> None:
    clause = Clause("a", "b", "polyphony", "map")

    def findings(*verdicts: str) -> list[Finding]:
        return [Finding(clause, {}, 0.0, no_interval(""), 1, verdict, {}) for verdict in verdicts]  # type: ignore[arg-type]

    assert verdict_of_all(findings("holds", "holds")) == "holds"
    assert verdict_of_all(findings("holds", "undecided at this scale")) == "undecided at this scale"
    assert verdict_of_all(findings("does not hold", "undecided at this scale", "holds")) == "does not hold"


def runs_of(
    folder: Path, skills: list[float], alone: float | None = None, clips: int = CLIPS, heads: int = 3
) -> list[Run]:
    """Evaluations on the same clips, one for each skill; ``alone`` is the skill where one event sounds."""
    random = torch.Generator().manual_seed(0)
    labels = (torch.rand(clips, CLASSES, generator=random) < 0.4).float()
    polyphony = labels.sum(dim=1).long().clamp(min=1)
    clips_differ = torch.randn(clips, CLASSES, generator=random)
    runs = []
    for seed, skill in enumerate(skills):
        own = torch.randn(clips, CLASSES, generator=torch.Generator().manual_seed(len(str(folder)) + seed))
        skill_B1 = torch.where(polyphony == 1, skill if alone is None else alone, skill)[:, None]
        results = []
        for head in range(heads):
            metrics = ClassificationMetrics(CLASSES, False)
            scores = skill_B1 * labels + clips_differ + 0.3 * own + 0.01 * head
            metrics.update(scores, labels, torch.arange(clips), polyphony)
            results.append(metrics.compute())
        path = write_record(folder / str(seed), made_up_record(results, title="Scenes"), score_arrays(results))
        runs.append(Run(path, read_record(path)))
    return runs


CLAUSE = Clause("new", "old", "polyphony", "map")


@pytest.mark.parametrize(
    ("new", "old", "more_than", "verdict"),
    [
        ([2.0, 2.1, 2.05], [1.0, 1.1, 1.05], 0.0, "holds"),
        ([1.0, 1.1, 1.05], [2.0, 2.1, 2.05], 0.0, "does not hold"),
        ([1.5, 1.6, 1.55], [1.5, 1.6, 1.55], 0.0, "undecided at this scale"),
        ([1.5, 1.6, 1.55], [1.5, 1.6, 1.55], -0.05, "holds"),  # equal ones are no worse
        ([1.0, 1.1, 1.05], [2.0, 2.1, 2.05], -0.05, "does not hold"),
        ([1.0, 2.5, 1.2], [1.5, 1.0, 1.6], 0.0, "undecided at this scale"),  # seeds contradict each other
    ],
)
def test_judge__made_up_scores(
    new: list[float], old: list[float], more_than: float, verdict: str, tmp_path: Path
) -> None:
    runs = {"new": runs_of(tmp_path / "new", new), "old": runs_of(tmp_path / "older", old)}
    finding = judge(Clause("new", "old", "polyphony", "map", more_than), runs)
    assert finding.verdict == verdict
    assert finding.num_clips == CLIPS
    means = [sum(run.record.metrics["map"] for run in runs[arm]) / 3 for arm in ("new", "old")]
    assert finding.difference == pytest.approx(means[0] - means[1], abs=1e-4)
    assert finding.interval.low < finding.difference < finding.interval.high


def test_judge__of_a_polyphony_only_its_clips_count(tmp_path: Path) -> None:
    """The new one is better where one event sounds and worse elsewhere."""
    runs = {
        "new": runs_of(tmp_path / "new", [1.0, 1.1, 1.05], alone=4.0),
        "old": runs_of(tmp_path / "older", [2.0, 2.1, 2.05], alone=1.0),
    }
    single = judge(Clause("new", "old", "polyphony", "map", polyphony=[1, 1]), runs)
    several = judge(Clause("new", "old", "polyphony", "map", polyphony=[2, None]), runs)
    assert (single.verdict, several.verdict) == ("holds", "does not hold")
    assert single.num_clips + several.num_clips == CLIPS
    by_polyphony = {row.polyphony: row for row in runs["new"][0].record.by_polyphony}
    assert single.num_clips == by_polyphony[1].num_clips
    assert single.numbers["new"].by_seed[0] == pytest.approx(by_polyphony[1].mean_average_precision, abs=1e-4)
    assert single.by_polyphony["new"][1] == pytest.approx(single.numbers["new"].value, abs=1e-4)


@pytest.mark.parametrize(
    "fault", ["one seed", "two seeds", "other seeds", "other clips", "no runs", "no metric", "no clips"]
)
def test_judge__without_an_interval_it_is_undecided(fault: str, tmp_path: Path) -> None:
    seeds = {"one seed": 1, "two seeds": 2}.get(fault, 3)
    runs = {
        "new": runs_of(tmp_path / "new", [3.0] * seeds),
        "old": runs_of(
            tmp_path / "older",
            [0.1] * (4 if fault == "other seeds" else seeds),
            clips=200 if fault == "other clips" else CLIPS,
        ),
    }
    if fault == "no runs":
        runs["old"] = []
    finding = judge(
        Clause(
            "new",
            "old",
            "polyphony",
            "accuracy" if fault == "no metric" else "map",
            polyphony=[9, None] if fault == "no clips" else None,
        ),
        runs,
    )
    reasons = {
        "one seed": "1 of at least 3 seeds",
        "two seeds": "2 of at least 3 seeds",
        "other seeds": "the arms have different seeds",
        "other clips": "the arms were evaluated on different clips",
        "no runs": "old: it was not evaluated",
        "no metric": "new: it has no accuracy, only map, d_prime, lwlrap",
        "no clips": "there is no clip of polyphony 9 to any",
    }
    assert finding.verdict == "undecided at this scale"
    assert reasons[fault] in finding.interval.reason


def test_judge__nothing_is_decided_where_random_weights_are_better(tmp_path: Path) -> None:
    runs = {"new": runs_of(tmp_path / "new", [2.0, 2.1, 2.05]), "old": runs_of(tmp_path / "older", [1.0, 1.1, 1.05])}
    between, above = (runs_of(tmp_path / name, [skill]) for name, skill in (("between", 1.5), ("above", 3.0)))
    assert judge(CLAUSE, runs, number_of(CLAUSE, between)).verdict == "holds"
    finding = judge(CLAUSE, runs, number_of(CLAUSE, above))
    assert finding.verdict == "undecided at this scale"
    assert finding.interval.low > 0


def test_judge__arms_that_are_as_good_as_random_weights_decide_nothing(tmp_path: Path) -> None:
    runs = {"new": runs_of(tmp_path / "new", [2.0, 2.1, 2.05]), "old": runs_of(tmp_path / "older", [1.0, 1.1, 1.05])}
    found = judge(CLAUSE, runs)
    assert found.verdict == "holds"
    assert judge(CLAUSE, runs, found.numbers["new"]).verdict == "undecided at this scale"


def test_number_of__what_is_no_share_may_lie_beyond_one(tmp_path: Path) -> None:
    number = number_of(Clause("new", "old", "polyphony", "d_prime"), runs_of(tmp_path, [3.0, 3.1, 3.05]))
    assert 1 < number.interval.low < number.value < number.interval.high
