"""Names of the tensors in published EAT and SSLAM checkpoints, beside ours, and what their shapes tell.

A pre-trained file has the student and decoder at the top and the teacher under ``_ema``, also as a state dict. A
fine-tuned file has the encoder under ``model.`` and the classifier as ``fc_norm`` and ``head``. Stage 1 (EAT) and
stage 2 (SSLAM) have the same tensors.

Ours: ``student.*``, ``decoder.*``, ``teacher.encoder.*`` (the state dict of :class:`sslam.methods.SSLAM`), or
``encoder.*``, ``fc_norm.*``, ``head.*``, of which the encoder may also be a :class:`~sslam.networks.CNN14`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from sslam.checkpoints.architecture import Network
from sslam.errors import CheckpointError
from sslam.frontends import KaldiFbank, LogMel
from sslam.networks import CNN14, AudioViT, ConvDecoder
from sslam.networks.audio_vit import sincos_positions_2d

Shape = tuple[int, ...]

IMAGE = "modality_encoders.IMAGE."
POSITIONS = IMAGE + "fixed_positional_encoder.positions"
DECODER = IMAGE + "decoder."
EMA = "_ema"
MAX_COLUMNS = 768  # the published table of positions is two minutes long
# Angles of two minutes reach 767 rad, where the same table in float64 instead of float32 differs by 6e-5.
POSITIONS_TOLERANCE = 1e-4
HEAD_WIDTH = 64  # of base, large and the small reference model

# Encoder tensors outside the blocks; those of the blocks have one name in both.
ENCODER_NAMES = {
    "cls_token": IMAGE + "extra_tokens",
    "patch_embed.weight": IMAGE + "local_encoder.proj.weight",
    "patch_embed.bias": IMAGE + "local_encoder.proj.bias",
    "norm.weight": IMAGE + "context_encoder.norm.weight",
    "norm.bias": IMAGE + "context_encoder.norm.bias",
}
OUR_ENCODER_NAMES = {published: ours for ours, published in ENCODER_NAMES.items()}

# Parts of our two kinds of file. The first is the encoder, which must be there; the others may be absent as a whole.
PRE_TRAINED_PARTS = ("student.", "decoder.", "teacher.encoder.")
FINE_TUNED_PARTS = ("encoder.", "fc_norm.", "head.")


def our_name(published: str, fine_tuned: bool) -> str:
    """Our name of a published tensor; ``_ema.`` stands before a teacher's. Names of nothing known go on as they are."""
    prefix, rest = "encoder." if fine_tuned else "student.", published
    if fine_tuned:
        if published.startswith(FINE_TUNED_PARTS[1:]):
            return published
        if not published.startswith("model."):
            return published
        rest = published.removeprefix("model.")
    elif published.startswith(EMA + "."):
        prefix, rest = "teacher.encoder.", published.removeprefix(EMA + ".")
    elif published.startswith(DECODER):
        return "decoder." + published.removeprefix(DECODER).replace("proj.", "projection.")
    if rest in OUR_ENCODER_NAMES:
        return prefix + OUR_ENCODER_NAMES[rest]
    return prefix + rest if rest.startswith("blocks.") else published


def published_name(ours: str) -> str:
    """The published name of one of our tensors; a teacher's has ``_ema.`` in front."""
    prefixes = {"student.": "", "teacher.encoder.": EMA + ".", "encoder.": "model."}
    if ours.startswith("decoder."):
        return DECODER + ours.removeprefix("decoder.").replace("projection.", "proj.")
    for our_prefix, prefix in prefixes.items():
        if ours.startswith(our_prefix):
            name = ours.removeprefix(our_prefix)
            return prefix + ENCODER_NAMES.get(name, name)
    return ours


def published_frontend(num_mel_bins: int) -> Network:
    """The front end of EAT and SSLAM, AudioSet's statistics included, which no published file states."""
    return Network(KaldiFbank, KaldiFbank(num_mel_bins=num_mel_bins).architecture())


def infer_networks(
    tensors: Mapping[str, Tensor], parts: tuple[str, ...], stated: Mapping[str, Any]
) -> dict[str, Network]:
    """Encoder, decoder and front end of a file that does not state their classes, as far as it has them.

    Args:
        tensors: Tensors by our names, whose shapes tell the sizes.
        parts: :data:`PRE_TRAINED_PARTS` or :data:`FINE_TUNED_PARTS`.
        stated: Arguments, by the network's role: of those of an encoder ``num_heads`` and ``num_mel_bins`` count, and
            a front end's are :class:`~sslam.frontends.LogMel`'s or :class:`~sslam.frontends.KaldiFbank`'s, all of them.

    Raises:
        CheckpointError: If tensors that tell the sizes are missing or have another number of axes, or the number of
            heads is not known.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    known = stated.get("encoder")
    known = {
        name: known[name]
        for name in ("num_heads", "num_mel_bins")
        if isinstance(known, dict) and type(known.get(name)) is int
    }
    infer = _infer_cnn14 if parts[0] + "embedding.weight" in shapes else _infer_vit
    networks = {"encoder": infer(shapes, parts[0], known)}
    convolution = shapes.get("decoder.blocks.0.0.weight", ())
    if len(convolution) == 4 and convolution[1] > 0:
        width = networks["encoder"].arguments["width"]
        networks["decoder"] = Network(
            ConvDecoder,
            {
                "width": width,
                "decoder_width": convolution[0],
                "depth": _number_of_blocks(shapes, "decoder.blocks."),
                "kernel_size": convolution[2],
                "groups": max(1, width // convolution[1]),
            },
        )
    for frontend_class in (KaldiFbank, LogMel):
        arguments = stated.get("frontend")
        if isinstance(arguments, dict) and arguments.keys() == frontend_class().architecture().keys():
            networks["frontend"] = Network(frontend_class, arguments)
    return networks


def _infer_vit(shapes: Mapping[str, Shape], encoder: str, known: Mapping[str, int]) -> Network:
    patch_embed = shapes.get(encoder + "patch_embed.weight", ())
    fc1 = shapes.get(encoder + "blocks.0.mlp.fc1.weight", ())
    if len(patch_embed) != 4 or len(fc1) != 2 or 0 in patch_embed:
        raise CheckpointError(
            f"The file holds no encoder: it has no {encoder}patch_embed.weight of 4 axes and no "
            f"{encoder}blocks.0.mlp.fc1.weight of 2, nor their published names. Give a checkpoint of EAT, SSLAM or "
            "this project."
        )
    width = patch_embed[0]
    num_heads = known.get("num_heads")
    if num_heads is None and width % HEAD_WIDTH:
        raise CheckpointError(
            f"The file does not state the number of attention heads, and its width {width} is not a multiple of "
            f"{HEAD_WIDTH}, which would tell it. Give num_heads."
        )
    return Network(
        AudioViT,
        {
            "width": width,
            "depth": _number_of_blocks(shapes, encoder + "blocks."),
            "num_heads": width // HEAD_WIDTH if num_heads is None else num_heads,
            "mlp_ratio": fc1[0] / width,
            "patch_size": patch_embed[2],
            "num_mel_bins": known.get("num_mel_bins", 128),
        },
    )


def _infer_cnn14(shapes: Mapping[str, Shape], encoder: str, known: Mapping[str, int]) -> Network:
    depth = _number_of_blocks(shapes, encoder + "blocks.")
    convolutions = [shapes.get(f"{encoder}blocks.{number}.conv1.weight", ()) for number in range(depth)]
    embedding = shapes[encoder + "embedding.weight"]
    if not depth or any(len(shape) != 4 for shape in (embedding, *convolutions)):
        raise CheckpointError(
            f"The file holds no whole CNN14: it has {encoder}embedding.weight, but not this and the convolutions "
            f"{encoder}blocks.0.conv1.weight, ... of 4 axes each. Give a whole checkpoint of this project."
        )
    channels = [shape[0] for shape in convolutions]
    return Network(CNN14, {"width": embedding[0], "channels": channels, "num_mel_bins": known.get("num_mel_bins", 64)})


def _number_of_blocks(names: Iterable[str], prefix: str) -> int:
    numbers = [name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)]
    # No more than there are names, so that a made-up block number cannot ask for a billion missing tensors.
    return len({number for number in numbers if number.isdecimal()})


def published_positions(width: int, num_rows: int) -> Tensor:
    """The table of positions of a published file, shape (1, 768 * num_rows, width)."""
    return sincos_positions_2d(width, MAX_COLUMNS, num_rows).unsqueeze(0)


def check_positions(name: str, positions: Tensor, width: int, num_rows: int) -> None:
    """Our encoder computes its positions; a file with others would give other features.

    Raises:
        CheckpointError: If the file's table is not the sine-cosine table to 1e-4, or has another shape.
    """
    num_positions = positions.shape[1] if positions.dim() == 3 else 0
    if positions.shape != (1, num_positions, width) or num_positions % num_rows or num_positions == 0:
        raise CheckpointError(
            f"{name} has shape {tuple(positions.shape)}; it must be (1, columns x {num_rows}, {width}). Give "
            "num_mel_bins of the model, or another file."
        )
    ours = sincos_positions_2d(width, num_positions // num_rows, num_rows)
    difference = torch.nan_to_num(positions[0] - ours, nan=torch.inf).abs().max().item()
    if difference > POSITIONS_TOLERANCE:
        raise CheckpointError(
            f"{name} differs by up to {difference:.2g} from the sine-cosine table of {num_rows} rows that our encoder "
            f"computes ({POSITIONS_TOLERANCE:g} is allowed), so its features would differ. Give num_mel_bins of the "
            "model, or another file."
        )
