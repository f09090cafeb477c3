"""What devices differ in."""

import torch


def widest_float(device: torch.device) -> torch.dtype:
    """float64 where the device has it, float32 on Apple's GPUs."""
    return torch.float32 if device.type == "mps" else torch.float64
