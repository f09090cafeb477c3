"""Random transforms: tensor in, tensor out, with an explicit generator."""

from sslam.transforms.augmentation import Augmentation
from sslam.transforms.masking import InverseBlockMasking, Masks
from sslam.transforms.mixing import PartialMixing, PartialMixture, partner_of
from sslam.transforms.random_source import RandomSource

__all__ = [
    "Augmentation",
    "InverseBlockMasking",
    "Masks",
    "PartialMixing",
    "PartialMixture",
    "RandomSource",
    "partner_of",
]
