"""Random generators of one training step, made from a key."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch


class RandomSource(NamedTuple):
    """Generators of one training step: masks and noise on the device, windows on the CPU (no wait for the device)."""

    device: torch.Generator
    cpu: torch.Generator

    @classmethod
    def seeded(cls, device: torch.device, *key: int) -> "RandomSource":
        """Determined by the key alone, so that a resumed run draws what a straight one would have drawn."""
        seeds = np.random.SeedSequence(key).generate_state(2, np.uint64) >> np.uint64(1)
        return cls(
            torch.Generator(device).manual_seed(int(seeds[0])),
            torch.Generator().manual_seed(int(seeds[1])),
        )

    @contextmanager
    def as_global(self) -> Iterator[None]:
        """Layers that know only torch's global generators, such as dropout, draw from this source within."""
        device = self.device.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(torch.randint(2**62, (), generator=self.cpu)))
            yield
