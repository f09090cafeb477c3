"""A separator is evaluated, and leaves a record with all clips' scores that `sslam report` makes intervals of."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from callbacks import EvaluationResults
from data_modules import SoundscapesDataModule
from sslam.claims.claim import Clause
from sslam.claims.verdict import judge, number_of
from sslam.methods import MixIT, SeparationEvaluation
from sslam.report.comparison import Comparison
from sslam.report.page import write_page
from sslam.report.results import Run, read_record
from sslam.report.samples import SamplesError, samples_of_seeds
from sslam.report.tables import MSI, build_table
from tests.methods.contrastive_method import write_separator

CLIPS = 12


def data(**options: Any) -> SoundscapesDataModule:
    scenes = {"num_test_scenes": CLIPS, "events_per_scene": (1, 2), "polyphony": (1, 2), "return_stems": True}
    return SoundscapesDataModule(**{**scenes, "clip_seconds": 1.5, "batch_size": 4, "num_workers": 0} | options)


def evaluate(folder: Path, quiet_trainer: Any, checkpoint: Path, seed: int = 0, **changes: Any) -> Run:
    torch.manual_seed(seed)
    model = SeparationEvaluation(str(checkpoint), **changes)
    logger = CSVLogger(folder, "separation", f"{changes.get('label', 'own')}-{seed}")
    trainer = quiet_trainer(logger=logger, callbacks=[EvaluationResults()])
    trainer.test(model, data(), verbose=False)
    path = Path(logger.log_dir) / "results-test.json"
    return Run(path, read_record(path))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_separator(tmp_path / "separator.ckpt", 0)
    return tmp_path / "separator.ckpt"


def test_separation_evaluation__has_the_numbers_of_mixit_and_scores_behind_them(
    checkpoint: Path, quiet_trainer: Any, tmp_path: Path
) -> None:
    run = evaluate(tmp_path, quiet_trainer, checkpoint, label="mine")
    (expected,) = quiet_trainer().test(MixIT(None, initial_checkpoint=str(checkpoint)), data(), verbose=False)
    for name in ("msi", "one_source", "under_separation"):
        assert run.record.metrics[name] == pytest.approx(expected[f"test/{name}"], rel=1e-5)
    assert (run.record.method, run.record.data.num_clips, run.record.data.num_classes) == ("Separation", CLIPS, 0)
    assert (run.record.checkpoint.label, run.record.checkpoint.weights) == ("mine", "separator")
    assert len(str(run.record.checkpoint.sha256)) == 64
    with np.load(run.path.with_name("scores-test.npz")) as arrays:
        assert set(arrays["polyphony"].tolist()) == {1, 2}
        improvement, num_pairs = arrays["improvement"], arrays["num_pairs"]
    assert len(improvement) == CLIPS
    samples = samples_of_seeds([run])
    drawn = samples.by_metric["msi"].value_UB
    assert drawn[0, 0] == pytest.approx(improvement.sum() / num_pairs.sum())
    assert drawn.shape == (1, 401)
    assert drawn.std() > 0
    # One sound at once: no clip has a pair that counts for MSi, and all have one that counts for 1S.
    alone = samples_of_seeds([run], (1, 1)).by_metric
    assert np.isnan(alone["msi"].value_UB).all()
    assert alone["one_source"].value_UB[0, 0] == pytest.approx(expected["test/one_source"], rel=1e-5)
    with pytest.raises(SamplesError, match="no clip of polyphony 3"):
        samples_of_seeds([run], (3, None))


def test_separation_evaluation__is_reported_with_intervals_and_judged(
    checkpoint: Path, quiet_trainer: Any, tmp_path: Path
) -> None:
    runs = [evaluate(tmp_path, quiet_trainer, checkpoint, seed, weights="random", label="random") for seed in range(3)]
    runs.append(evaluate(tmp_path, quiet_trainer, checkpoint, label="mine"))
    table = build_table(runs)
    comparison = Comparison(table)
    (column,) = table.columns
    first, second = table.rows
    assert (first.name, second.name) == ("random", "mine")
    assert table.metrics(column)[0] == MSI
    interval = comparison.interval(second, column, MSI)
    assert interval.low < runs[-1].record.metrics["msi"] < interval.high
    difference = comparison.difference(second, column, MSI)
    assert difference.interval.low < difference.value < difference.interval.high
    write_page(tmp_path, comparison, [])
    assert "MSi in dB" in (tmp_path / "index.html").read_text()
    clause = Clause("new", "old", "separation", "msi")
    random = number_of(clause, runs[:1])
    assert random.interval.low < random.value < random.interval.high
    finding = judge(clause, {"new": runs[:3], "old": runs[:3]}, random)
    assert finding.difference == 0
    assert finding.verdict == "undecided at this scale"
    assert len(finding.numbers["new"].by_seed) == 3
    assert finding.interval.reason == ""


def test_separation_evaluation__needs_sources(checkpoint: Path, quiet_trainer: Any) -> None:
    model = SeparationEvaluation(str(checkpoint))
    with pytest.raises(ValueError, match="No clip came with its sources.*return_stems true"):
        quiet_trainer().test(model, data(return_stems=False), verbose=False)
    with pytest.raises(ValueError, match="trains nothing. Use sslam test"):
        model.configure_optimizers()
