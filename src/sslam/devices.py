"""The device that a command runs on, and what devices differ in."""

import torch

from sslam.errors import UsageError


def choose_device(name: str | None) -> torch.device:
    """A device by its name; without one, or with "auto", a GPU if there is one.

    Raises:
        UsageError: If the device cannot be used.
    """
    if name is None or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {name} cannot be used ({reason}). Leave it out, or give cpu.") from error


def widest_float(device: torch.device) -> torch.dtype:
    """float64 where the device has it, float32 on Apple's GPUs."""
    return torch.float32 if device.type == "mps" else torch.float64
