"""What an evaluation found, as files in the run's folder that `sslam report` reads."""

from pathlib import Path

import lightning.pytorch as pl

from sslam.methods.evaluated_encoder import EvaluatedEncoder
from sslam.report.results import CheckpointFacts, SplitCounts, write_record


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
        folder = trainer.log_dir  # a broadcast: all processes ask
        if not trainer.is_global_zero or folder is None:
            return
        if not isinstance(pl_module, EvaluatedEncoder):
            raise ValueError(
                "callbacks.EvaluationResults writes the results of LinearProbe, FineTune and QueryByExample, got "
                f"{type(pl_module).__name__}. Take it out of trainer.callbacks."
            )
        data = trainer.datamodule  # type: ignore[attr-defined]
        record = pl_module.record(
            title=data.title,
            class_path=f"{type(data).__module__.split('.')[0]}.{type(data).__name__}",
            splits={
                split: SplitCounts(listing.listed, listing.found, listing.missing, listing.unreadable)
                for split, listing in data.listings.items()
            },
            experiment=Path(folder).parent.name,
            run_id=Path(folder).name,
            method=pl_module.name,
            stage=stage,
            checkpoint=CheckpointFacts(**pl_module.provenance),
            **pl_module.training_facts(),
        )
        write_record(Path(folder), record, pl_module.score_arrays())
