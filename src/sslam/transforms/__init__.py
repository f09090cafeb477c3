"""Random transforms: tensor in, tensor out, with an explicit generator."""

from sslam.transforms.augmentation import Augmentation
from sslam.transforms.hearing import Hearing
from sslam.transforms.masking import InverseBlockMasking, Masks
from sslam.transforms.mixing import FullMixing, Mixing, PartialMixing, PartialMixture, partner_of
from sslam.transforms.random_source import RandomSource
from sslam.transforms.spec_augment import SpecAugment
from sslam.transforms.views import (
    ChannelAgainstChannel,
    Comparison,
    MixtureAgainstAny,
    MixtureAgainstChannel,
    MixtureAgainstMixture,
    ViewDraws,
    crop_views,
    draw_views,
)

__all__ = [
    "Augmentation",
    "ChannelAgainstChannel",
    "Comparison",
    "FullMixing",
    "Hearing",
    "InverseBlockMasking",
    "Masks",
    "Mixing",
    "MixtureAgainstAny",
    "MixtureAgainstChannel",
    "MixtureAgainstMixture",
    "PartialMixing",
    "PartialMixture",
    "RandomSource",
    "SpecAugment",
    "ViewDraws",
    "crop_views",
    "draw_views",
    "partner_of",
]
