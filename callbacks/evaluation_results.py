"""What an evaluation found, as files in the run's folder that `sslam report` reads. Shape letters: H heads, N clips."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
from numpy.typing import NDArray

from sslam.methods.evaluated_encoder import EvaluatedEncoder
from sslam.methods.separation_evaluation import SeparationEvaluation, SeparationScores
from sslam.metrics import ClassificationResults, RetrievalResults
from sslam.report.results import (
    CheckpointFacts,
    ClassScore,
    DataFacts,
    DistinctEventsScore,
    EvaluationRecord,
    PolyphonyScore,
    SplitCounts,
    deviation,
    write_record,
)
from sslam.run_folder import required_run_folder

Results = RetrievalResults | SeparationScores | Sequence[ClassificationResults]
"""What an evaluation found: of classifiers, one for each head on the same clips."""


class EvaluationResults(pl.Callback):
    """Writes ``results-validation.json`` or ``results-test.json`` and the scores behind them after an evaluation.

    A later evaluation of the same kind takes the place of an earlier one, so that what stays is the last epoch's.
    """

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._write(trainer, pl_module, "validation")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer, pl_module, "test")

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        folder = required_run_folder(trainer, self)  # all processes ask
        if not trainer.is_global_zero:
            return
        if not isinstance(pl_module, EvaluatedEncoder | SeparationEvaluation):
            raise ValueError(
                "callbacks.EvaluationResults writes the results of LinearProbe, FineTune, QueryByExample and "
                f"SeparationEvaluation, got {type(pl_module).__name__}. Take it out of trainer.callbacks."
            )
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert pl_module.results is not None
        record = make_record(
            pl_module.results,
            pl_module.class_names,
            title=data.title,
            fold=getattr(data, "fold", None),
            class_path=f"{type(data).__module__.split('.')[0]}.{type(data).__name__}",
            splits={
                split: SplitCounts(listing.listed, listing.found, listing.missing, listing.unreadable)
                for split, listing in data.listings.items()
            },
            experiment=folder.parent.name,
            run_id=folder.name,
            method=pl_module.name,
            stage=stage,
            checkpoint=CheckpointFacts(**pl_module.provenance),
            **pl_module.training_facts(),
        )
        scored_set = getattr(data, "val_set" if stage == "validation" else "test_set", None)
        groups = getattr(scored_set, "groups", None)
        write_record(folder, record, score_arrays(pl_module.results, groups))


def make_record(
    results: Results,
    class_names: Sequence[str],
    title: str,
    fold: int | None,
    class_path: str,
    splits: dict[str, SplitCounts],
    **origin: Any,
) -> EvaluationRecord:
    """The record of an evaluation; metrics of several heads are their means, and confusions their sums.

    Args:
        results: What was found.
        class_names: Names of the classes, in the order of the scores.
        title: See :class:`~sslam.report.results.DataFacts`.
        fold: See :class:`~sslam.report.results.DataFacts`.
        class_path: See :class:`~sslam.report.results.DataFacts`.
        splits: See :class:`~sslam.report.results.DataFacts`.
        **origin: The other fields of :class:`~sslam.report.results.EvaluationRecord`, from `experiment` to `checkpoint`
            and from `learning_rate` on.
    """
    if isinstance(results, SeparationScores):
        counts = results.results.num_clips, 0, 0
        precision_C, support_C = np.zeros(0), np.zeros(0, np.int64)
        found: dict[str, Any] = {
            "metrics": results.results.scalars(),
            "spread": {},
            "by_polyphony": [],
            "confusion": None,
        }
    elif isinstance(results, RetrievalResults):
        counts = results.num_compared_clips, results.num_classes, results.num_classes_with_trials
        precision_C, support_C = results.average_precision_C, results.num_examples_C
        found = {
            "metrics": results.scalars() | {"qbe_chance": results.chance},
            "spread": {},
            "by_polyphony": [],
            "confusion": None,
        }
    else:
        first, confusions = results[0], [head.confusion_CC for head in results if head.confusion_CC is not None]
        counts = first.num_clips, first.num_classes, first.num_classes_with_support
        precision_C, support_C = np.mean([head.average_precision_C for head in results], axis=0), first.support_C
        values = {name: [head.scalars()[name] for head in results] for name in first.scalars()}
        found = {
            "metrics": {name: float(np.mean(numbers)) for name, numbers in values.items()},
            "spread": {name: deviation(numbers) for name, numbers in values.items()} if len(results) > 1 else {},
            "by_polyphony": [
                PolyphonyScore(
                    polyphony=rows[0].polyphony,
                    num_clips=rows[0].num_clips,
                    num_classes=rows[0].num_classes,
                    mean_average_precision=float(np.mean([row.mean_average_precision for row in rows])),
                    chance=rows[0].chance,
                )
                for rows in zip(*(head.by_polyphony for head in results), strict=True)
            ],
            "by_distinct_events": [
                DistinctEventsScore(
                    **events[0]._asdict()
                    | {"mean_average_precision": float(np.mean([row.mean_average_precision for row in events]))}
                )
                for events in zip(*(head.by_distinct_events for head in results), strict=True)
            ],
            "confusion": np.sum(confusions, axis=0).tolist() if confusions else None,
            "num_heads": len(results),
        }
    per_class = [
        ClassScore(name, int(support), float(precision))
        for name, support, precision in zip(class_names, support_C, precision_C, strict=True)
    ]
    data = DataFacts(title, fold, class_path, splits, *counts)
    return EvaluationRecord(format_version=1, data=data, per_class=per_class, **(found | origin))


def score_arrays(results: Results, groups: NDArray[np.int64] | None = None) -> dict[str, Any]:
    """What a record's numbers were computed from, by name.

    Args:
        results: What was found.
        groups: Number of the recording that each clip of the data is of, by the clips' index, where that is known.

    Returns:
        Of classifiers `scores` (H, N, C), `labels` (N, C), `index` (N,), and `group` and `polyphony` (N,) where they
        are known; of separation `improvement`, `num_pairs`, `si_snr` and `num_singles`, see
        :class:`~sslam.metrics.SeparatedClips`, with `index`, `group` where it is known and, in `polyphony`, the number
        of sources, all (N,); of retrieval `average_precision` (C,), nan where a class has no trials, `num_examples`,
        `num_targets` and `num_non_targets`, (C,).
    """
    if isinstance(results, RetrievalResults):
        return {
            "average_precision": results.average_precision_C,
            "num_examples": results.num_examples_C,
            "num_targets": results.num_targets_C,
            "num_non_targets": results.num_non_targets_C,
        }
    if isinstance(results, SeparationScores):
        clips = results.clips
        sums = {name.removesuffix("_N"): column for name, column in clips._asdict().items()}
        sums["polyphony"] = sums.pop("num_sources")
        return sums if groups is None else sums | {"group": groups[clips.index_N]}
    first = results[0]
    arrays = {
        "scores": np.stack([head.scores_NC for head in results]),
        "labels": first.labels_NC,
        "index": first.index_N,
    }
    if groups is not None:
        arrays["group"] = groups[first.index_N]
    return arrays if first.polyphony_N is None else arrays | {"polyphony": first.polyphony_N}
