"""Claims, numbers and verdicts as a CSV file, as Markdown, and as a page."""

import csv
import math
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import sslam
from sslam.atomic_write import write_whole
from sslam.claims.claim import Claim, Clause
from sslam.claims.verdict import Finding, Number, Verdict, verdict_of_all
from sslam.report.tables import MAP, METRICS, Metric
from sslam.templates import templates_of


class Arm(NamedTuple):
    """What stands behind an arm: steps and clips seen of its last run, its commands, and its configs by seed."""

    steps: int
    clips: int
    command: str
    configs: tuple[str, ...]


class Judged(NamedTuple):
    """A claim with what was found.

    Args:
        name: Name of its file.
        claim: The claim.
        findings: Of its clauses, in their order.
        random: The numbers of random weights, of each clause.
        arms: What stands behind each of its arms; one that was not run is missing.
    """

    name: str
    claim: Claim
    findings: Sequence[Finding]
    random: Sequence[Number]
    arms: Mapping[str, Arm]

    @property
    def verdict(self) -> Verdict:
        return verdict_of_all(self.findings)


EXPLANATION = (
    "A claim holds where the whole 95 % interval of every difference lies above its threshold, does not hold where "
    "all of one lies below, and is undecided at this scale otherwise, and where no arm beats random weights. "
    "Intervals: paired bootstrap over clips, by recording where it is known, with what seeds of pre-training add. "
    "Scenes are resampled as if they were independent: intervals speak of other scenes of the same recordings. All "
    "arms of a claim have as many steps and clips seen."
)


def metric_of(clause: Clause) -> Metric:
    """How a clause's metric is shown."""
    return next(
        (metric for metric in METRICS if metric.key == clause.metric), Metric(clause.metric, clause.metric, False)
    )


def clips_of(clause: Clause) -> str:
    """`polyphony, 2 or more at once`: the evaluation and the clips that count."""
    if clause.polyphony is None:
        return clause.evaluation.replace("_", " ")
    least, most = clause.polyphony
    which = f"{least}" if least == most else f"{least} or more" if most is None else f"{least} to {most}"
    return f"{clause.evaluation.replace('_', ' ')}, {which} at once"


def threshold_of(clause: Clause) -> str:
    """`> 0.0`, or `> −2.0` for a margin of two points."""
    return f"> {metric_of(clause).signed(clause.more_than).removeprefix('+')}"


def bounds(number: Number | Finding, metric: Metric) -> str:
    """The interval, or why there is none."""
    return metric.bounds(number.interval) or number.interval.reason


def write_results(folder: Path, claims: Sequence[Judged], settings: Mapping[str, str]) -> list[Path]:
    """Write `claims.csv`, `claims.md` and `claims.html`.

    Args:
        folder: Exists already.
        claims: One or more.
        settings: What all share: scale, seeds, data.

    Returns:
        The files.
    """
    environment = templates_of("sslam.claims")
    environment.filters |= {"metric": metric_of, "clips": clips_of, "threshold": threshold_of}
    environment.globals |= {"bounds": bounds, "explanation": EXPLANATION, "map": MAP, "version": sslam.__version__}
    texts = {"claims.csv": csv_text(claims)}
    for ending in ("md", "html"):
        page = environment.get_template(f"claims.{ending}")
        texts[f"claims.{ending}"] = page.render(claims=claims, settings=settings)
    for name, text in texts.items():
        write_whole(folder / name, lambda partial, text=text: partial.write_text(text, encoding="utf-8"))  # type: ignore[misc]
    return [folder / name for name in texts]


def csv_text(claims: Sequence[Judged]) -> str:
    """A line for each arm of each clause, with all digits; of the first arm also the difference."""
    lines = []
    for judged in claims:
        for finding, random in zip(judged.findings, judged.random, strict=True):
            named = {**finding.numbers, "random weights": random}
            lines += [_line(judged, finding, arm, number) for arm, number in named.items()]
    stream = StringIO()
    writer = csv.DictWriter(stream, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def _line(judged: Judged, finding: Finding, arm: str, number: Number) -> dict[str, str]:
    clause, is_first = finding.clause, arm == finding.clause.better
    behind = judged.arms.get(arm)
    return {
        "claim": judged.name,
        "claim_verdict": judged.verdict,
        "clips": clips_of(clause),
        "num_clips": str(finding.num_clips),
        "metric": clause.metric,
        "arm": arm,
        "value": _digits(number.value),
        "low": _digits(number.interval.low),
        "high": _digits(number.interval.high),
        "by_seed": " ".join(map(_digits, number.by_seed)),
        "compared_with": clause.than if is_first else "",
        "difference": _digits(finding.difference) if is_first else "",
        "difference_low": _digits(finding.interval.low) if is_first else "",
        "difference_high": _digits(finding.interval.high) if is_first else "",
        "more_than": f"{clause.more_than:g}" if is_first else "",
        "verdict": finding.verdict if is_first else "",
        "no_interval": finding.interval.reason if is_first else number.interval.reason,
        "steps": str(behind.steps) if behind else "",
        "clips_seen": str(behind.clips) if behind else "",
        "configs": " ".join(behind.configs) if behind else "",
    }


def _digits(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
