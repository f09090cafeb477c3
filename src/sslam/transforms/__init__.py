"""Random transforms: tensor in, tensor out, with an explicit generator."""

from sslam.transforms.masking import InverseBlockMasking, Masks
from sslam.transforms.mixing import PartialMixing, PartialMixture, partner_of

__all__ = ["InverseBlockMasking", "Masks", "PartialMixing", "PartialMixture", "partner_of"]
