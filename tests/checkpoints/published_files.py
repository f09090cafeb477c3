"""Files as EAT and SSLAM publish them, made without fairseq: its classes exist only while a file is written."""

import argparse
import io
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from tests.reference.formulas import weight_formula

IMAGE = "modality_encoders.IMAGE."
POSITIONS = IMAGE + "fixed_positional_encoder.positions"
FOREIGN_CLASSES = ("fairseq.logging.meters.AverageMeter", "omegaconf.dictconfig.DictConfig", "fairseq.tasks.Modality")
Shapes = dict[str, tuple[int, ...]]


def encoder_shapes(width: int, depth: int) -> Shapes:
    """The 6 + 12 x depth tensors of a published encoder."""
    shapes: Shapes = {
        IMAGE + "extra_tokens": (1, 1, width),
        IMAGE + "local_encoder.proj.weight": (width, 1, 16, 16),
        IMAGE + "local_encoder.proj.bias": (width,),
        POSITIONS: (1, 6144, width),
        IMAGE + "context_encoder.norm.weight": (width,),
        IMAGE + "context_encoder.norm.bias": (width,),
    }
    for i in range(depth):
        shapes |= {
            f"blocks.{i}.norm1.weight": (width,),
            f"blocks.{i}.norm1.bias": (width,),
            f"blocks.{i}.attn.qkv.weight": (3 * width, width),
            f"blocks.{i}.attn.qkv.bias": (3 * width,),
            f"blocks.{i}.attn.proj.weight": (width, width),
            f"blocks.{i}.attn.proj.bias": (width,),
            f"blocks.{i}.norm2.weight": (width,),
            f"blocks.{i}.norm2.bias": (width,),
            f"blocks.{i}.mlp.fc1.weight": (4 * width, width),
            f"blocks.{i}.mlp.fc1.bias": (4 * width,),
            f"blocks.{i}.mlp.fc2.weight": (width, 4 * width),
            f"blocks.{i}.mlp.fc2.bias": (width,),
        }
    return shapes


def decoder_shapes(width: int, depth: int, kernel_size: int = 3) -> Shapes:
    shapes: Shapes = {}
    for i in range(depth):
        shapes[f"{IMAGE}decoder.blocks.{i}.0.weight"] = (width, width // 16, kernel_size, kernel_size)
        shapes[f"{IMAGE}decoder.blocks.{i}.0.bias"] = (width,)
    return shapes | {IMAGE + "decoder.proj.weight": (width, width), IMAGE + "decoder.proj.bias": (width,)}


def positions(width: int) -> Tensor:
    """The published table, from its formula: first half the mel patch, second half the time patch."""

    def encode(index: np.ndarray) -> np.ndarray:
        omega = 1 / 10000 ** (np.arange(width // 4, dtype=np.float32) / (width / 4))
        angles = np.outer(index.astype(np.float32), omega)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    tokens = np.arange(768 * 8)
    table = np.concatenate([encode(tokens % 8), encode(tokens // 8)], axis=1)
    return torch.from_numpy(table.astype(np.float32))[None]


def state_dict(shapes: Shapes, prefix: str = "") -> "OrderedDict[str, Any]":
    """Formula weights under their published names; ``prefix`` goes into the formula only."""
    return OrderedDict(
        (
            name,
            positions(shape[-1])
            if name.endswith(POSITIONS)
            else torch.from_numpy(weight_formula(prefix + name, shape)),
        )
        for name, shape in shapes.items()
    )


def pre_trained(width: int = 64, depth: int = 2, decoder_depth: int = 1) -> "OrderedDict[str, Any]":
    """The ``model`` entry of a file of stage 1 or 2: student, decoder, and the teacher under ``_ema``."""
    model = state_dict(encoder_shapes(width, depth) | decoder_shapes(width, decoder_depth))
    model["_ema"] = dict(state_dict(encoder_shapes(width, depth), prefix="_ema."))
    return model


def fine_tuned(width: int = 64, depth: int = 2, num_classes: int = 5) -> "OrderedDict[str, Any]":
    shapes = {f"model.{name}": shape for name, shape in encoder_shapes(width, depth).items()}
    shapes |= {"fc_norm.weight": (width,), "fc_norm.bias": (width,)}
    return state_dict(shapes | {"head.weight": (num_classes, width), "head.bias": (num_classes,)})


@contextmanager
def foreign_modules() -> Iterator[dict[str, type]]:
    """Classes that a published file refers to and that are not installed: they can be imported only in here."""
    classes: dict[str, type] = {}
    # A stand-in for any module that is imported: patch.dict puts back what was there.
    with mock.patch.dict(sys.modules):
        for qualified_name in FOREIGN_CLASSES:
            module_name, name = qualified_name.rsplit(".", 1)
            parts = module_name.split(".")
            for end in range(1, len(parts) + 1):
                parent = ".".join(parts[:end])
                sys.modules[parent] = types.ModuleType(parent)
            classes[name] = type(name, (), {"__module__": module_name})
            setattr(sys.modules[module_name], name, classes[name])
        yield classes


def save_published(path: Path, model: Any, legacy: bool = False, num_heads: int | None = None, **entries: Any) -> Path:
    """Write ``model`` with everything that fairseq puts beside it, foreign classes included."""
    with foreign_modules() as classes:
        meter, config, modality = classes["AverageMeter"](), classes["DictConfig"](), classes["Modality"]()
        vars(meter).update(val=np.float64(0.5), sum=torch.tensor(3.0), count=4)
        vars(config).update(_content={"data": Path("somewhere")}, _metadata=modality)
        moments = {"step": 3, "exp_avg": torch.ones(4), "exp_avg_sq": torch.ones(4)}
        root = {
            "args": argparse.Namespace(arch="data2vec_multi"),
            "cfg": {"_name": None, "model": {"depth": 12, "num_heads": num_heads, "modalities": config}},
            "model": model,
            "criterion": None,
            "optimizer_history": [{"criterion_name": "ModelCriterion", "num_updates": 3}],
            "task_state": {},
            "extra_state": {"metrics": {"default": [[10, "loss", meter]]}, "train_iterator": {"epoch": 2}},
            "last_optimizer_state": {"default": {"state": {0: moments}, "param_groups": [{"betas": [0.9, 0.95]}]}},
        }
        torch.save(root | entries, path, _use_new_zipfile_serialization=not legacy)
    return path


def rewrite_archive(path: Path, replace: dict[str, bytes], add: dict[str, bytes] | None = None) -> Path:
    """Replace entries of a checkpoint (named without the archive's folder), or add some (with their full names)."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(name, replace.get(name.partition("/")[2], data))
        for name, data in (add or {}).items():
            archive.writestr(name, data)
    path.write_bytes(buffer.getvalue())
    return path
