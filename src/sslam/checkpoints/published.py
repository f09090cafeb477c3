"""Names and shapes of the tensors in published EAT and SSLAM checkpoints, beside ours.

A pre-trained file has the student and decoder at the top and the teacher under ``_ema``, also as a state dict. A
fine-tuned file has the encoder under ``model.`` and the classifier as ``fc_norm`` and ``head``. Stage 1 (EAT) and
stage 2 (SSLAM) have the same tensors.

Ours: ``student.*``, ``decoder.*``, ``teacher.encoder.*`` (the state dict of :class:`sslam.methods.SSLAM`), or
``encoder.*``, ``fc_norm.*``, ``head.*``, of which the encoder may also be a :class:`~sslam.networks.CNN14`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sslam.errors import CheckpointError
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


@dataclass(frozen=True)
class Sizes:
    """Sizes of the networks in a checkpoint, read from the shapes of its tensors.

    Attributes:
        width: Token size D of the encoder.
        depth: Number of blocks.
        hidden_width: Of the blocks' MLP; 0 for CNN14.
        patch_size: Frames and mel bins of a patch.
        decoder_width: Channels of the decoder; 0 where the file has none, as for the next three.
        decoder_depth: Number of its convolutions.
        decoder_kernel_size: Their side.
        decoder_groups: Their groups.
        num_classes: Outputs of the classifier; 0 where the file has none.
        pooled_width: Its inputs: ``width``, or twice that where it takes CLS token and mean of the patches.
        channels: Of CNN14's feature maps; empty where the encoder is a transformer.
    """

    width: int
    depth: int
    hidden_width: int
    patch_size: int
    decoder_width: int = 0
    decoder_depth: int = 0
    decoder_kernel_size: int = 0
    decoder_groups: int = 0
    num_classes: int = 0
    pooled_width: int = 0
    channels: tuple[int, ...] = ()


def _number_of_blocks(names: Iterable[str], prefix: str) -> int:
    numbers = [name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)]
    # No more than there are names, so that a made-up block number cannot ask for a billion missing tensors.
    return len({number for number in numbers if number.isdecimal()})


def sizes_of(shapes: dict[str, Shape], parts: tuple[str, ...]) -> Sizes:
    """Read the sizes from our names and their shapes.

    Raises:
        CheckpointError: If the tensors that tell the sizes are missing or have another number of axes.
    """
    encoder = parts[0]
    head = shapes.get("head.weight", ())
    if encoder + "embedding.weight" in shapes:
        return _sizes_of_cnn14(shapes, encoder, head)
    patch_embed = shapes.get(encoder + "patch_embed.weight", ())
    fc1 = shapes.get(encoder + "blocks.0.mlp.fc1.weight", ())
    if len(patch_embed) != 4 or len(fc1) != 2:
        raise CheckpointError(
            f"The file holds no encoder: it has no {encoder}patch_embed.weight of 4 axes and no "
            f"{encoder}blocks.0.mlp.fc1.weight of 2, nor their published names. Give a checkpoint of EAT, SSLAM or "
            "this project."
        )
    conv = shapes.get("decoder.blocks.0.0.weight", ())
    has_decoder = len(conv) == 4 and conv[1] > 0
    takes_both = head[1:] == (2 * patch_embed[0],)
    return Sizes(
        width=patch_embed[0],
        depth=_number_of_blocks(shapes, encoder + "blocks."),
        hidden_width=fc1[0],
        patch_size=patch_embed[2],
        decoder_width=conv[0] if has_decoder else 0,
        decoder_depth=_number_of_blocks(shapes, "decoder.blocks.") if has_decoder else 0,
        decoder_kernel_size=conv[2] if has_decoder else 0,
        decoder_groups=max(1, patch_embed[0] // conv[1]) if has_decoder else 0,
        num_classes=head[0] if head else 0,
        pooled_width=patch_embed[0] * (2 if takes_both else 1),
    )


def _sizes_of_cnn14(shapes: dict[str, Shape], encoder: str, head: Shape) -> Sizes:
    depth = _number_of_blocks(shapes, encoder + "blocks.")
    convolutions = [shapes.get(f"{encoder}blocks.{number}.conv1.weight", ()) for number in range(depth)]
    embedding = shapes[encoder + "embedding.weight"]
    if not depth or any(len(shape) != 4 for shape in (embedding, *convolutions)):
        raise CheckpointError(
            f"The file holds no whole CNN14: it has {encoder}embedding.weight, but not this and the convolutions "
            f"{encoder}blocks.0.conv1.weight, ... of 4 axes each. Give a whole checkpoint of this project."
        )
    return Sizes(
        width=embedding[0],
        depth=depth,
        hidden_width=0,
        patch_size=2 ** (depth - 1),
        num_classes=head[0] if head else 0,
        pooled_width=embedding[0] * (2 if head[1:] == (2 * embedding[0],) else 1),
        channels=tuple(shape[0] for shape in convolutions),
    )


def cnn14_shapes(sizes: Sizes) -> dict[str, Shape]:
    """Names and shapes of :class:`sslam.networks.CNN14`'s state dict."""
    shapes: dict[str, Shape] = {}
    for number, (before, after) in enumerate(zip((1, *sizes.channels), sizes.channels, strict=False)):
        for layer, channels in (("conv1", before), ("conv2", after)):
            shapes[f"blocks.{number}.{layer}.weight"] = (after, channels, 3, 3)
            shapes[f"blocks.{number}.{layer}.bias"] = (after,)
    return shapes | {"embedding.weight": (sizes.width, sizes.channels[-1], 1, 1), "embedding.bias": (sizes.width,)}


def encoder_shapes(sizes: Sizes) -> dict[str, Shape]:
    """Names and shapes of the state dict of :class:`sslam.networks.AudioViT`, or of CNN14 where there are channels."""
    if sizes.channels:
        return cnn14_shapes(sizes)
    width, hidden, patch_size = sizes.width, sizes.hidden_width, sizes.patch_size
    shapes: dict[str, Shape] = {
        "cls_token": (1, 1, width),
        "patch_embed.weight": (width, 1, patch_size, patch_size),
        "patch_embed.bias": (width,),
    }
    norm: dict[str, Shape] = {"weight": (width,), "bias": (width,)}
    shapes |= {f"norm.{name}": shape for name, shape in norm.items()}
    linears = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    linears |= {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
    for block in (f"blocks.{number}." for number in range(sizes.depth)):
        shapes |= {f"{block}{layer}.{name}": shape for layer in ("norm1", "norm2") for name, shape in norm.items()}
        for layer, shape in linears.items():
            shapes |= {f"{block}{layer}.weight": shape, f"{block}{layer}.bias": shape[:1]}
    return shapes


def decoder_shapes(sizes: Sizes) -> dict[str, Shape]:
    """Names and shapes of :class:`sslam.networks.ConvDecoder`'s state dict."""
    shapes: dict[str, Shape] = {}
    channels = sizes.width
    for number in range(sizes.decoder_depth):
        kernel = (sizes.decoder_kernel_size,) * 2
        shapes[f"blocks.{number}.0.weight"] = (sizes.decoder_width, channels // sizes.decoder_groups, *kernel)
        shapes[f"blocks.{number}.0.bias"] = (sizes.decoder_width,)
        channels = sizes.decoder_width
    return shapes | {"projection.weight": (sizes.width, channels), "projection.bias": (sizes.width,)}


def expected_shapes(sizes: Sizes, parts: Iterable[str]) -> dict[str, Shape]:
    """Our names of every tensor that a whole file of these sizes has, and their shapes."""
    networks: dict[str, dict[str, Shape]] = {
        "student.": encoder_shapes(sizes),
        "encoder.": encoder_shapes(sizes),
        "teacher.encoder.": encoder_shapes(sizes),
        "decoder.": decoder_shapes(sizes),
        "fc_norm.": {"weight": (sizes.pooled_width,), "bias": (sizes.pooled_width,)},
        "head.": {"weight": (sizes.num_classes, sizes.pooled_width), "bias": (sizes.num_classes,)},
    }
    return {part + name: shape for part in parts for name, shape in networks[part].items()}


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
