"""Tags of mixtures and of sources: which score counts, and the numbers against scikit-learn and a loop."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from benchmarks import separate_then_tag
from data_modules.sound_events import CLASS_NAMES
from sslam.__main__ import main as sslam
from tests.data_modules.official_layouts import write_tone_classes
from tests.embedding.conftest import ENCODER, FRONTEND, encoder_state
from tests.separation.conftest import checkpoint

__all__ = ["checkpoint"]


class ThirdsTagger:
    """Hears a class as the sum of a third of the samples."""

    device = "cpu"

    def __call__(self, waveform_BT: torch.Tensor) -> Any:
        return SimpleNamespace(logits=waveform_BT.unflatten(1, (3, -1)).sum(dim=2))

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.sigmoid()


def test_scores_of_batch__are_the_greatest_probabilities_of_what_was_tagged() -> None:
    sources = torch.randn(4, 3, 30)
    sources[1, 2] = 0.01 * sources[1, 0]  # 40 dB below
    stems = torch.randn(4, 2, 30)
    stems[2, 1] = 0  # a scene of one sound
    batch = {"waveform": torch.randn(4, 30), "stems": stems}
    scores = separate_then_tag.scores_of_batch(lambda _: sources, ThirdsTagger(), batch)  # type: ignore[arg-type]

    def heard(sound: torch.Tensor, number: int) -> float:
        return float(sound[10 * number : 10 * (number + 1)].sum().sigmoid())

    for clip in range(4):
        loudest = sources[clip].square().sum(dim=1).max()
        for number in range(3):
            of_mixture = heard(batch["waveform"][clip], number)
            of_sources = [heard(source, number) for source in sources[clip]]
            loud = [heard(source, number) for source in sources[clip] if source.square().sum() > loudest / 100]
            known = [heard(stem, number) for stem in stems[clip] if stem.any()]
            expected = {
                "mixture": of_mixture,
                "sources": max(of_sources),
                "loud sources": max(loud),
                "mixture and sources": max(of_mixture, *of_sources),
                "known sources": max(known),
            }
            found = {name: float(scores_BC[clip, number]) for name, scores_BC in scores.items()}
            assert found == pytest.approx(expected)


def made_up(num_scenes: int) -> tuple[separate_then_tag.Scores, np.ndarray]:
    """Two classes of five in every scene, and scores that know some of it, those of sources more."""
    rng = np.random.default_rng(0)
    labels = np.zeros((num_scenes, 5), np.bool_)
    for row in labels:
        row[rng.choice(5, 2, replace=False)] = True
    mixture = (labels + rng.standard_normal(labels.shape)).astype(np.float32)
    return {"mixture": mixture, "sources": mixture + labels, "same": mixture.copy()}, labels


def test_compare__numbers_are_those_of_scikit_learn_and_a_loop() -> None:
    scores, labels = made_up(60)
    numbers = separate_then_tag.compare(scores, labels)
    for name, scores_NC in scores.items():
        map_of_classes = [average_precision_score(labels[:, c], scores_NC[:, c]) for c in range(5)]
        assert numbers[name]["mAP"].value == pytest.approx(np.mean(map_of_classes), abs=1e-5)
        found = [
            len({*np.argsort(-row)[:2]} & {*np.flatnonzero(true)}) / 2
            for row, true in zip(scores_NC, labels, strict=True)
        ]
        assert numbers[name]["recall"].value == pytest.approx(np.mean(found))
        for metric in ("mAP", "recall"):
            number, mixture = numbers[name][metric], numbers["mixture"][metric]
            assert number.difference == pytest.approx(number.value - mixture.value)
            assert number.interval.low < number.value < number.interval.high


def test_compare__pairs_scenes_so_that_equal_scores_differ_by_nothing() -> None:
    numbers = separate_then_tag.compare(*made_up(60))
    for metric in ("mAP", "recall"):
        assert numbers["same"][metric].difference_interval[:2] == (0, 0)
        interval = numbers["sources"][metric].difference_interval
        assert interval.excludes_zero
        # Of independent draws the widths would add up as squares.
        widths = [np.ptp(numbers[name][metric].interval[:2]) for name in ("mixture", "sources")]
        assert interval.high - interval.low < 0.9 * np.hypot(*widths)


@pytest.fixture
def write_tagger(tmp_path: Path) -> Any:
    def write(class_names: list[str]) -> Path:
        state = encoder_state("encoder.", 2)
        state |= {"fc_norm.weight": torch.ones(32), "fc_norm.bias": torch.zeros(32)}
        state |= {"head.weight": torch.randn(len(class_names), 32), "head.bias": torch.zeros(len(class_names))}
        head = {"num_classes": len(class_names), "pooling": "mean", "activation": "sigmoid"}
        architecture = {"encoder": ENCODER, "frontend": FRONTEND, "head": head}
        path = tmp_path / "tagger.ckpt"
        torch.save({"state_dict": state, "architecture": architecture, "class_names": class_names}, path)
        return path

    return write


def test_separate_then_tag__of_built_in_scenes(
    write_tagger: Any, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The classes are found by their names, in whatever order the tagger has them."""
    args = ["--separator", str(checkpoint), "--num_scenes", "12", "--batch_size", "5"]
    separate_then_tag.main([*args, "--tagger", str(write_tagger(["other", *reversed(CLASS_NAMES)]))])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == [
        *("mixture", "sources", "loud sources", "mixture and sources", "known sources")
    ]
    separate_then_tag.main([*args, "--tagger", str(write_tagger([*CLASS_NAMES])), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert 2 <= found["num_scenes"] <= 12
    assert f"| {found['num_scenes']} scenes |" in lines[0]


def test_separate_then_tag__of_rendered_scenes(
    write_tagger: Any, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recordings = write_tone_classes(tmp_path / "tones")
    counts = ["--num_train_scenes", "1", "--num_val_scenes", "1", "--num_test_scenes", "30", "--clip_seconds", "2"]
    counts += ["--events_per_scene", "1", "3", "--polyphony", "1", "2"]
    more = ["--num_workers", "1", "--output", str(tmp_path / "scenes")]
    assert sslam(["data", "render", str(recordings), *counts, *more]) == 0
    classes = sorted(folder.name for folder in recordings.iterdir())
    args = ["--separator", str(checkpoint), "--scenes", str(tmp_path / "scenes")]
    capsys.readouterr()
    separate_then_tag.main([*args, "--tagger", str(write_tagger(classes)), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert 2 <= found["num_scenes"] < 30  # of one sound, or of more than two, are left out
    assert "known sources" not in found["numbers"]  # rendered without --stems
    with pytest.raises(SystemExit):
        separate_then_tag.main([*args, "--tagger", str(write_tagger(classes[1:]))])
    assert f"The tagger does not know the class {classes[0]} (1 such)." in capsys.readouterr().err
