"""Published separation variables to our state dict. That the weights then compute the same is tested with TDCN++."""

import pytest
import torch
from torch import Tensor

from sslam.checkpoints import CheckpointError
from sslam.checkpoints.tensorflow_names import our_separator_name, published_separator_name, separator_state
from sslam.networks import TDCN
from tests.reference.mixit_formulas import VARIABLES, formula_variables

DEPTHWISE = "improved_tdcn/conv_block_0/tdcn_block/timeconv/separable_conv/depthwise_kernel"


@pytest.fixture(scope="module")
def variables() -> dict[str, Tensor]:
    return formula_variables()


def test_separator_state__has_every_name_and_shape_of_the_network(variables: dict[str, Tensor]) -> None:
    state, expected = separator_state(variables), TDCN().state_dict()
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }


def test_our_separator_name__no_two_variables_share_a_name() -> None:
    names = [our_separator_name(name) for name in VARIABLES]
    assert None not in names
    assert len(set(names)) == len(VARIABLES)


def test_separator_state__taps_are_in_order_and_kernels_transposed(variables: dict[str, Tensor]) -> None:
    state = separator_state(variables)
    block = "improved_tdcn/conv_block_9/tdcn_block"
    taps = variables[f"{block}/timeconv/separable_conv/depthwise_kernel"]
    assert state["blocks.9.conv.weight"][5].tolist() == taps[:, 0, 5, 0].tolist()
    assert torch.equal(state["blocks.9.dense2.weight"], variables[f"{block}/dense2/dense/kernel"].T)


def test_separator_state__optimizer_variables_and_other_names_of_the_same(variables: dict[str, Tensor]) -> None:
    renamed = {name.replace("instance_norm", "global_layer_norm"): value for name, value in variables.items()}
    renamed["conv_decoder/dense_7/kernel"] = renamed.pop("conv_decoder/dense_1/kernel")
    slots = {f"{name}/{slot}": value for name, value in renamed.items() for slot in ("Adam", "Adam_1")}
    others = {"beta1_power": torch.tensor(0.9), "beta2_power": torch.tensor(0.9), "global_step": torch.tensor(3)}
    state = separator_state(renamed | slots | others)
    expected = separator_state(variables)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "layer_norm_on_mag/gamma",
            (1,),
            "1 variables that a TDCN++ separator does not have. Give a checkpoint of the published MixIT separation "
            "models. They are:\n  layer_norm_on_mag/gamma",
        ),
        ("improved_tdcn/conv_block_0/tdcn_block/skip/dense/kernel", (256, 256), "They are:\n  improved_tdcn"),
        ("conv_decoder/dense/kernel", (256, 40), "is a second variable for decoder.weight"),
        ("mix_weights/dense/kernel", (256,), "'mix_weights/dense/kernel' has the shape (256,); it must have 2 axes."),
        ("mix_weights/dense_1/kernel", (256, 2), "They are:\n  mix_weights/dense_1/kernel"),
        (DEPTHWISE, (3, 2, 512, 1), "has the shape (3, 2, 512, 1); it must be (3, 1, channels, 1)."),
        (DEPTHWISE, (3, 0, 512, 1), "it must be (3, 1, channels, 1)."),
        ("improved_tdcn/conv_block_007/tdcn_block/dense1/dense/kernel", (1, 1), "is a second variable for blocks.7"),
        ("improved_tdcn/conv_block_" + "9" * 5000 + "/tdcn_block/dense1/dense/kernel", (1, 1), "They are:\n"),
        ("dense/kernel\x1b[31m", (1, 1), "'dense/kernel\\x1b[31m'"),
    ],
)
def test_separator_state__refuses(
    variables: dict[str, Tensor], name: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(CheckpointError) as error:
        separator_state(variables | {name: torch.zeros(shape)})
    assert message in str(error.value)


def test_separator_state__refuses_whole_numbers_as_weights(variables: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match="'dense/kernel' is torch.int64; weights must be floating-point."):
        separator_state(variables | {"dense/kernel": torch.zeros(256, 512, dtype=torch.int64)})


def test_published_separator_name__leads_back() -> None:
    for name in VARIABLES:
        ours = our_separator_name(name)
        assert ours is not None
        assert published_separator_name(ours) == name
