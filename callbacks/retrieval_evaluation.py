"""Query-by-example retrieval at every validation, by which the separation-contrastive paper chooses its checkpoint."""

from typing import Any

import lightning.pytorch as pl

from sslam.metrics import RetrievalMetrics


class RetrievalEvaluation(pl.Callback):
    """Logs ``val/qbe_map``, retrieval among the labelled validation clips by their ``pl_module.embed(...)``.

    Args:
        examples_per_class: Clips of each class that are compared. Published: around 100.

    Raises:
        ValueError: Before training or validation, if the clips have no labels.
    """

    def __init__(self, examples_per_class: int = 100) -> None:
        self.examples_per_class = examples_per_class
        self._metrics: RetrievalMetrics | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage not in ("fit", "validate"):
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not getattr(data, "class_names", None):
            raise ValueError(
                f"Retrieval needs labelled validation clips, and {type(data).__name__} has no classes. Take labelled "
                "data, such as data_modules.ESC50DataModule, or leave callbacks.RetrievalEvaluation out of "
                "trainer.callbacks."
            )

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        num_classes = len(trainer.datamodule.class_names)  # type: ignore[attr-defined]
        self._metrics = RetrievalMetrics(num_classes, pl_module.encoder.width, self.examples_per_class)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert self._metrics is not None
        embedding_BD = pl_module.embed(batch["waveform"], batch["num_samples"])
        self._metrics.update(embedding_BD, batch["labels"], batch["index"])

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self._metrics is not None
        # Every process gathers the embeddings of all and computes the same number. A sanity check has a few clips.
        if not trainer.sanity_checking:
            qbe_map = self._metrics.compute().mean_average_precision
            pl_module.log("val/qbe_map", qbe_map, prog_bar=True, sync_dist=True)
        self._metrics = None
