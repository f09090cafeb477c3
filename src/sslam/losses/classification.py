"""Losses of a classifier's logits against labels that mixing may have made fractional.

Shape letters: B clips, C classes.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, distributed, nn

from sslam.checks import within
from sslam.losses.gathering import num_processes


class ClassificationLoss(nn.Module):
    """Base of the losses that a classifier can be given.

    Attributes:
        activation: Function that makes probabilities of logits, ``sigmoid`` or ``softmax``.
    """

    activation: Literal["sigmoid", "softmax"]

    def forward(self, logits_BC: Tensor, labels_BC: Tensor) -> Tensor:
        """Logits and labels in [0, 1], both (B, C), to a scalar in float32.

        Dimensions before these are classifiers that know nothing of each other: their losses are summed.
        """
        raise NotImplementedError

    def log_probabilities(self, logits_BC: Tensor) -> Tensor:
        """Logits to logarithms of the classes' probabilities, float32; sure classes stay apart where 1 - p vanishes."""
        raise NotImplementedError


def label_normalised_bce(logits_BC: Tensor, labels_BC: Tensor) -> Tensor:
    """Binary cross-entropy summed over clips and classes, divided by the sum of the labels.

    As published for several labels per clip (EAT and SSLAM fine-tuning). With several processes the divisor is the mean
    of theirs, so that the averaged gradients are those of the whole batch.
    """
    total = F.binary_cross_entropy_with_logits(logits_BC.float(), labels_BC.float(), reduction="none").sum(dim=(-2, -1))
    num_labels = labels_BC.float().sum(dim=(-2, -1))
    if num_processes() > 1:
        distributed.all_reduce(num_labels)
    # A batch may be without any label.
    return (total / (num_labels.clamp(min=1.0) / num_processes())).sum()


class LabelNormalisedBCE(ClassificationLoss):
    """:func:`label_normalised_bce`."""

    activation = "sigmoid"

    def forward(self, logits_BC: Tensor, labels_BC: Tensor) -> Tensor:
        return label_normalised_bce(logits_BC, labels_BC)

    def log_probabilities(self, logits_BC: Tensor) -> Tensor:
        return F.logsigmoid(logits_BC.float())


class CrossEntropy(ClassificationLoss):
    """Cross-entropy of clips with one label each, mean over clips.

    Args:
        label_smoothing: Share of the label that is spread over all classes, in [0, 1). Published for ESC-50: 0.1.

    Raises:
        ValueError: If the share is out of its range.
    """

    activation = "softmax"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        within(0, 1, "[)", label_smoothing=label_smoothing)
        self.label_smoothing = label_smoothing

    def forward(self, logits_BC: Tensor, labels_BC: Tensor) -> Tensor:
        smoothed_BC = labels_BC.float() * (1 - self.label_smoothing) + self.label_smoothing / labels_BC.shape[-1]
        return -(smoothed_BC * self.log_probabilities(logits_BC)).sum(dim=-1).mean(dim=-1).sum()

    def log_probabilities(self, logits_BC: Tensor) -> Tensor:
        return logits_BC.float().log_softmax(dim=-1)
