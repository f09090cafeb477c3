"""Weights, inputs and waveforms of the reference numbers, defined by formulas so that nothing need be stored.

The numbers were measured by running the published code (SSLAM commit 0a3c0fff, EAT commit 06c1c34e) on them.
"""

import zlib
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, np.dtype[Any]]


def published_name(name: str) -> str:
    """Name that a published checkpoint gives to a tensor of :class:`sslam.methods.SSLAM`'s state dict."""
    owner, _, rest = name.partition(".")
    if owner == "decoder":
        return "modality_encoders.IMAGE.decoder." + rest.replace("projection", "proj")
    prefix = ""
    if owner == "teacher":
        prefix, rest = "_ema.", rest.removeprefix("encoder.")
    if rest == "cls_token":
        rest = "modality_encoders.IMAGE.extra_tokens"
    elif rest.startswith("patch_embed."):
        rest = rest.replace("patch_embed", "modality_encoders.IMAGE.local_encoder.proj")
    elif rest.startswith("norm."):
        rest = "modality_encoders.IMAGE.context_encoder." + rest
    return prefix + rest


def weight_formula(published: str, shape: tuple[int, ...]) -> Array:
    """Weights of the tensor that a published checkpoint calls ``published`` (teacher tensors: ``_ema.`` in front)."""
    random = np.random.RandomState(zlib.crc32(published.encode()) & 0xFFFFFFFF)
    weight = random.standard_normal(tuple(shape)) * 0.02
    parts = published.split(".")
    if parts[-1] == "weight" and (parts[-2].startswith("norm") or parts[-2] == "fc_norm"):
        weight = weight + 1.0
    return weight.astype(np.float32)


def set_formula_weights(module: torch.nn.Module) -> None:
    """Give every tensor of an SSLAM module its formula weights."""
    state = module.state_dict()
    module.load_state_dict(
        {
            name: torch.from_numpy(weight_formula(published_name(name), tuple(value.shape)))
            for name, value in state.items()
        }
    )


def input_formula(clips: int = 4, frames: int = 1024, mel_bins: int = 128, seed: int = 20250) -> Array:
    """Normalised log-mels, shape (clips, 1, frames, mel_bins)."""
    random = np.random.RandomState(seed)
    features = random.standard_normal((clips, 1, frames, mel_bins)) * 0.5
    t = np.arange(frames)[:, None]
    f = np.arange(mel_bins)[None, :]
    for clip in range(clips):
        features[clip, 0] += (
            0.3 * np.sin(2 * np.pi * t / (64.0 * (clip + 1))) * np.cos(2 * np.pi * f / 32.0) - 0.1 * clip
        )
    return features.astype(np.float32)


def wav_formula(i: int, sample_rate: int = 16000, seconds: float = 10.0) -> Array:
    """Waveform ``i``: two steady tones, one that starts after a second, noise and an offset."""
    samples = round(sample_rate * seconds)
    t = np.arange(samples) / float(sample_rate)
    random = np.random.RandomState(777 + i)
    waveform = (
        0.30 * np.sin(2 * np.pi * (220.0 * (i + 1)) * t)
        + 0.20 * np.sin(2 * np.pi * (1000.0 + 250.0 * i) * t + 0.5)
        + 0.10 * np.sin(2 * np.pi * 3500.0 * t) * (t > 1.0)
        + 0.05 * random.standard_normal(samples)
        + 0.01 * (i + 1)
    )
    return waveform.astype(np.float32)
