"""Query-by-example retrieval from whole clips (Fonseca et al. 2021, sec. 4.1).

Shape letters: B clips, W pooled width.
"""

from typing import Any

import torch
from torch import Tensor

from sslam.checks import at_least
from sslam.methods.evaluated_encoder import EvaluatedEncoder
from sslam.metrics import RetrievalMetrics, RetrievalResults


class QueryByExample(EvaluatedEncoder):
    """Whether clips of one class lie closer to each other than to other clips; for ``sslam test`` and ``validate``.

    Nothing is trained. What is compared are the encoder's pooled tokens of whole clips; the metric and what the paper
    leaves open of it are in :func:`~sslam.metrics.query_by_example_map`.

    Args:
        examples_per_class: Number of clips of each class that are compared. Published: "around 100".
        **kwargs: Arguments of :class:`~sslam.methods.evaluated_encoder.EvaluatedEncoder`.

    Raises:
        ValueError: If there are fewer than two examples, or see
            :class:`~sslam.methods.evaluated_encoder.EvaluatedEncoder`.
    """

    needs_training = False

    def __init__(self, examples_per_class: int = 100, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        at_least(2, examples_per_class=examples_per_class)
        self.examples_per_class = examples_per_class
        self.freeze_encoder()
        self.results: RetrievalResults | None = None
        self._metrics: RetrievalMetrics | None = None

    def start_evaluation(self) -> None:
        self._metrics = RetrievalMetrics(len(self.class_names), self.width, self.examples_per_class)

    def evaluation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        assert self._metrics is not None
        self._metrics.update(self.embed_clips(batch), batch["labels"], batch["index"])

    def finish_evaluation(self, split: str) -> None:
        assert self._metrics is not None
        # Every process gathers the embeddings of all and computes the same numbers.
        self.results = self._metrics.compute()
        self._metrics = None
        self.log_results(split, self.results.scalars(), prog_bar=True)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Embeddings of whole clips ``embedding`` (B, W), with the clips' ``index``."""
        return {"index": batch["index"], "embedding": self.embed_clips(batch)}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        raise ValueError(
            "Query-by-example retrieval trains nothing. Use sslam test (or sslam validate) instead of sslam fit."
        )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        raise AssertionError("configure_optimizers refuses to train")  # Lightning asks for both before it begins
