"""Losses as pure functions."""

from sslam.losses.classification import ClassificationLoss, CrossEntropy, LabelNormalisedBCE, label_normalised_bce
from sslam.losses.masked_latent import cls_loss, masked_latent_loss, scaled_squared_error
from sslam.losses.source_retention import source_retention_target

__all__ = [
    "ClassificationLoss",
    "CrossEntropy",
    "LabelNormalisedBCE",
    "cls_loss",
    "label_normalised_bce",
    "masked_latent_loss",
    "scaled_squared_error",
    "source_retention_target",
]
