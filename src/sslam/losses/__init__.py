"""Losses as pure functions."""

from sslam.losses.classification import ClassificationLoss, CrossEntropy, LabelNormalisedBCE, label_normalised_bce
from sslam.losses.coincidence import Coincidence, coincidence_loss
from sslam.losses.gathering import all_gather_with_gradient
from sslam.losses.masked_latent import cls_loss, masked_latent_loss, scaled_squared_error
from sslam.losses.mixit import Assignments, best_assignment, mixit_loss, remix
from sslam.losses.nt_xent import NTXent, nt_xent_loss, shared_content_loss
from sslam.losses.separation import log_mse, pairwise_si_snr, permutation_invariant, si_snr
from sslam.losses.source_retention import Combination, source_retention_cls_target, source_retention_target
from sslam.losses.supervised_separation import supervised_separation_loss

__all__ = [
    "Assignments",
    "ClassificationLoss",
    "Coincidence",
    "Combination",
    "CrossEntropy",
    "LabelNormalisedBCE",
    "NTXent",
    "all_gather_with_gradient",
    "best_assignment",
    "cls_loss",
    "coincidence_loss",
    "label_normalised_bce",
    "log_mse",
    "masked_latent_loss",
    "mixit_loss",
    "nt_xent_loss",
    "pairwise_si_snr",
    "permutation_invariant",
    "remix",
    "scaled_squared_error",
    "shared_content_loss",
    "si_snr",
    "source_retention_cls_target",
    "source_retention_target",
    "supervised_separation_loss",
]
