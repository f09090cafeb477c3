"""What a claim's YAML may state."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sslam.claims.claim import PUBLISHED_CLONES, PlannedRun, Scale, read, read_claim, scaled_stages
from sslam.errors import UsageError
from sslam.stages import Stage

CLAIM: dict[str, Any] = {
    "claim": "New is better.",
    "source": "a paper, table 1",
    "arms": {"new": {"files": ["a.yaml"], "scale": "small"}, "old": {"files": ["b.yaml"], "scale": "small"}},
    "clauses": [{"better": "new", "than": "old", "evaluation": "polyphony", "metric": "map"}],
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "claim.yaml"
    path.write_text(yaml.safe_dump(CLAIM | changes))
    return path


def test_read_claim__as_stated(tmp_path: Path) -> None:
    claim = read_claim(written(tmp_path))
    assert claim.arms["new"] == PlannedRun(["a.yaml"], "small")
    assert claim.clauses[0].more_than == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clauses": []}, "a claim needs at least one"),
        ({"clauses": [CLAIM["clauses"][0] | {"than": "older"}]}, "no arm 'older'. The arms are: new, old."),
        ({"clauses": [CLAIM["clauses"][0] | {"polyphony": [2]}]}, r"must be \[least, most\]"),
        ({"verdict": "holds"}, "is no claim: verdict: Unexpected keyword argument"),
        ({"source": None}, "is no claim: source: Input should be a valid string"),
    ],
)
def test_read_claim__wrong(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read_claim(written(tmp_path, **changes))


def test_read__missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no file"):
        read(Scale, tmp_path / "none.yaml")


def test_scaled_stages__one_of_two() -> None:
    assert Stage().num_clones == PUBLISHED_CLONES
    scale = Scale([0], {}, {}, stages=[{"steps": 3}, {"steps": 2, "warmup_steps": 1}], clones_divided_by=4)
    stages = [{"num_clones": 16, "steps": 400}, {"objectives": {"mixed": 1}}]
    run = PlannedRun(["a.yaml"], "small", stage=1)
    assert scaled_stages(stages, run, scale) == [
        {"objectives": {"mixed": 1}, "num_clones": 2, "steps": 2, "warmup_steps": 1}
    ]
    with pytest.raises(UsageError, match="there is no stage 1: the files have 1"):
        scaled_stages(stages[:1], run, scale)
    odd = Scale([0], {}, {}, stages=scale.stages, clones_divided_by=3)
    with pytest.raises(UsageError, match="must divide all numbers of clones, got 3 for 8"):
        scaled_stages(stages, run, odd)
