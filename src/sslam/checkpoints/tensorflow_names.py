"""Names and layouts of the published separation checkpoints (TensorFlow) for our :class:`sslam.networks.TDCN`.

A published kernel is (in, out), ours (out, in); the taps of a convolution are in the same order.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from sslam.errors import CheckpointError, printable

_BLOCK = re.compile(r"improved_tdcn/conv_block_([0-9]{1,6})/tdcn_block/(.+)")
_DECODER = re.compile(r"conv_decoder/dense(_[0-9]+)?/kernel")
_TRAINING_STATE = re.compile(r".+/Adam(_1)?|beta[12]_power|global_step")

_OUTER_NAMES = {
    "conv_encoder/dense/kernel": "encoder.weight",
    "initial_dense/dense/kernel": "bottleneck.weight",
    "initial_dense/dense/bias": "bottleneck.bias",
    "initial_dense/dense_scale/scale_layer": "bottleneck.scale",
    "dense/kernel": "mask.weight",
    "mix_weights/dense/kernel": "shares.weight",
}
_BLOCK_NAMES = {
    "timeconv/separable_conv/depthwise_kernel": "conv.weight",
    "timeconv/separable_conv/bias": "conv.bias",
}
for _number in (1, 2):
    _BLOCK_NAMES |= {
        f"dense{_number}/dense/kernel": f"dense{_number}.weight",
        f"dense{_number}/dense_scale/scale_layer": f"dense{_number}.scale",
        f"normact{_number}/prelu/prelu": f"norm{_number}.slope",
    }
    for _norm in ("global_layer_norm", "instance_norm"):  # both names are in use, for the same norm over time
        _BLOCK_NAMES[f"normact{_number}/{_norm}/gamma"] = f"norm{_number}.weight"
        _BLOCK_NAMES[f"normact{_number}/{_norm}/beta"] = f"norm{_number}.bias"

_OUR_OUTER_NAMES = {ours: published for published, ours in _OUTER_NAMES.items()}
_OUR_OUTER_NAMES["decoder.weight"] = "conv_decoder/dense_1/kernel"
_OUR_BLOCK_NAMES = {ours: published for published, ours in _BLOCK_NAMES.items()}


def our_separator_name(published: str) -> str | None:
    """Our name of a published variable (without ":0"); None where it is no weight of the network."""
    if _DECODER.fullmatch(published):
        return "decoder.weight"
    if match := _BLOCK.fullmatch(published):
        number, name = match.groups()
        return f"blocks.{int(number)}.{_BLOCK_NAMES[name]}" if name in _BLOCK_NAMES else None
    return _OUTER_NAMES.get(published)


def published_separator_name(ours: str) -> str:
    """The published name of one of our tensors, the usual one where several are in use."""
    if not ours.startswith("blocks."):
        return _OUR_OUTER_NAMES[ours]
    _, number, name = ours.split(".", 2)
    return f"improved_tdcn/conv_block_{number}/tdcn_block/{_OUR_BLOCK_NAMES[name]}"


def separator_state(variables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published variables as the state dict of a :class:`sslam.networks.TDCN`, the optimizer's variables left out.

    Args:
        variables: Name (without ":0") and value of every variable of a checkpoint.

    Returns:
        Our names and layouts. Whether all are there and fit is for ``load_state_dict`` to check.

    Raises:
        CheckpointError: If there are unknown variables, two for the same weight, one with another number of axes, or
            one that is not floating-point.
    """
    names = {published: our_separator_name(published) for published in variables}
    unknown = [name for name, ours in names.items() if ours is None and not _TRAINING_STATE.fullmatch(name)]
    if unknown:
        raise CheckpointError(
            f"The checkpoint has {len(unknown)} variables that a TDCN++ separator does not have. Give a checkpoint of "
            "the published MixIT separation models. They are:\n  " + "\n  ".join(map(printable, unknown))
        )
    state: dict[str, Tensor] = {}
    for published, ours in names.items():
        if ours is None:
            continue
        if ours in state:
            raise CheckpointError(
                f"{printable(published)} is a second variable for {ours}; give a checkpoint of one separator."
            )
        state[ours] = _our_layout(published, variables[published])
    return state


def _our_layout(published: str, value: Tensor) -> Tensor:
    leaf = published.rsplit("/", 1)[-1]
    axes = {"kernel": 2, "depthwise_kernel": 4, "scale_layer": 0, "prelu": 0}.get(leaf, 1)
    if value.dim() != axes:
        raise CheckpointError(
            f"{published!r} has the shape {tuple(value.shape)}; it must have {axes} axes. Give a checkpoint of the "
            "published MixIT separation models."
        )
    if not value.is_floating_point():
        raise CheckpointError(
            f"{published!r} is {value.dtype}; weights must be floating-point. Give a checkpoint of the published MixIT "
            "separation models."
        )
    if leaf == "depthwise_kernel" and value.shape[1::2] != (1, 1):
        raise CheckpointError(
            f"{published!r} has the shape {tuple(value.shape)}; it must be (3, 1, channels, 1). Give a checkpoint of "
            "the published MixIT separation models."
        )
    if leaf == "kernel":
        return value.T.contiguous()
    if leaf == "depthwise_kernel":
        return value[:, 0, :, 0].T.contiguous()
    return value.reshape(1) if leaf == "prelu" else value
