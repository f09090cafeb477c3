"""What TDCN++ does at any size, beside the published numbers."""

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sslam.networks import TDCN
from sslam.networks.separator import mixture_consistency, power_shares


def small(num_sources: int = 2, **arguments: object) -> TDCN:
    torch.manual_seed(0)
    sizes = {"num_basis": 24, "width": 16, "hidden_width": 20, "num_blocks": 5, "dilation_cycle": 3}
    return TDCN(num_sources, **(sizes | arguments))  # type: ignore[arg-type]


def noise(clips: int = 2, num_samples: int = 1003) -> Tensor:
    return torch.randn(clips, num_samples, generator=torch.Generator().manual_seed(1)) * 0.1


def by_loops(separator: TDCN, mixture: np.ndarray) -> np.ndarray:
    """The published system for one clip (T,), written out in NumPy."""
    state = {name: tensor.double().numpy() for name, tensor in separator.state_dict().items()}
    window, hop, num_samples = separator.window_length, separator.hop_length, len(mixture)
    frames = int(np.ceil((num_samples - window) / hop)) + 1
    padded = np.concatenate([mixture, np.zeros(window)])
    code = np.stack([padded[hop * frame : hop * frame + window] for frame in range(frames)])
    code = np.maximum(code @ state["encoder.weight"].T, 0)
    core = (code @ state["bottleneck.weight"].T + state["bottleneck.bias"]) * state["bottleneck.scale"]

    def activate(x: np.ndarray, norm: str) -> np.ndarray:
        x = np.where(x > 0, x, state[f"{norm}.slope"] * x)
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3)
        return state[f"{norm}.weight"] * x + state[f"{norm}.bias"]

    for number in range(len(separator.blocks)):
        block, dilation = f"blocks.{number}", 2 ** (number % separator.dilation_cycle)
        hidden = activate(core @ state[f"{block}.dense1.weight"].T * state[f"{block}.dense1.scale"], f"{block}.norm1")
        convolved = np.tile(state[f"{block}.conv.bias"], (frames, 1))
        for frame, tap in product(range(frames), range(3)):
            source = frame + (tap - 1) * dilation
            if 0 <= source < frames:
                convolved[frame] += state[f"{block}.conv.weight"][:, tap] * hidden[source]
        hidden = activate(convolved, f"{block}.norm2")
        core = core + hidden @ state[f"{block}.dense2.weight"].T * state[f"{block}.dense2.scale"]
    masks = 1 / (1 + np.exp(-core @ state["mask.weight"].T))
    estimates = np.zeros((separator.num_sources, num_samples + window))
    for source, frame in product(range(separator.num_sources), range(frames)):
        mask = masks[frame, source * separator.num_basis : (source + 1) * separator.num_basis]
        estimates[source, hop * frame : hop * frame + window] += (mask * code[frame]) @ state["decoder.weight"].T
    estimates = estimates[:, :num_samples]
    shares = np.full(separator.num_sources, 1 / separator.num_sources)
    if separator.consistency == "pred_source":
        logits = np.exp(core.mean(0) @ state["shares.weight"].T)
        shares = logits / logits.sum()
    elif separator.consistency == "magsq":
        power = 1e-8 + (estimates**2).mean(1)
        shares = power / power.sum()
    elif separator.consistency == "none":
        return estimates
    return np.asarray(estimates + shares[:, None] * (mixture - estimates.sum(0)))


@pytest.mark.parametrize("consistency", ["pred_source", "magsq", "uniform", "none"])
@pytest.mark.parametrize(("num_sources", "sample_rate"), [(2, 16_000), (4, 22_050), (8, 16_000)])
def test_tdcn__matches_loops_in_numpy(num_sources: int, sample_rate: int, consistency: str) -> None:
    separator = small(num_sources, sample_rate=sample_rate, consistency=consistency).double()
    mixture = noise().double()
    with torch.no_grad():
        for parameter in separator.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        estimates = separator(mixture)
    for clip in range(len(mixture)):
        np.testing.assert_allclose(estimates[clip], by_loops(separator, mixture[clip].numpy()), atol=1e-11)


@pytest.mark.parametrize("consistency", ["pred_source", "magsq", "uniform"])
def test_tdcn__estimates_add_up_to_the_mixture(consistency: str) -> None:
    mixture = noise()
    mixture[1] = 0
    with torch.no_grad():
        estimates = small(4, consistency=consistency)(mixture)
    torch.testing.assert_close(estimates.sum(1), mixture, rtol=0, atol=1e-6)


def test_tdcn__a_clip_does_not_depend_on_its_batch() -> None:
    separator = small().double()
    mixture = noise(3).double()
    with torch.no_grad():
        together, alone = separator(mixture), separator(mixture[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sample_rate", [16_000, 22_050])
def test_tdcn__shortest_clip(sample_rate: int) -> None:
    separator = small(sample_rate=sample_rate)
    assert separator.min_samples == {16_000: 21, 22_050: 28}[sample_rate]
    with torch.no_grad():
        assert separator(noise(1, separator.min_samples)).isfinite().all()
    with pytest.raises(ValueError, match=f"at least {separator.min_samples} samples to be separated, got 20"):
        separator(noise(1, 20))


@pytest.mark.parametrize("num_samples", [39, 40, 41, 60, 61, 999])
def test_tdcn__number_of_frames(num_samples: int) -> None:
    separator = small()
    assert separator.encode(noise(1, num_samples)).shape[-1] == max(1, -(-(num_samples - 40) // 20) + 1)
    assert separator(noise(1, num_samples)).shape == (1, 2, num_samples)


def test_tdcn__activation_checkpoints_change_neither_results_nor_gradients() -> None:
    plain, checkpointed = small(), small(checkpoint_blocks=True)
    mixture = noise()
    for separator in (plain, checkpointed):
        separator(mixture).square().sum(-1).log().sum().backward()
    for (name, expected), parameter in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=0, atol=0, msg=name)


def test_tdcn__keeps_few_activations_for_the_backward_pass() -> None:
    # Per frame and block: the input of both dense layers and of the norms, each once.
    sizes: list[int] = []
    separator = small(num_blocks=4, checkpoint_blocks=False)
    code = separator.encode(noise(1, 20_000)).detach()
    parameters = {parameter.data_ptr() for parameter in separator.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in parameters and tensor.numel() > 1000:
            sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        separator.core(code)
    assert sum(sizes) / code.shape[-1] <= 24 + 4 * (16 + 20 + 20) + 1


def test_tdcn__autocast_keeps_the_sum_and_comes_close() -> None:
    separator, mixture = small(), noise()
    with torch.no_grad():
        expected = separator(mixture)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            estimates = separator(mixture)
    assert estimates.dtype == torch.float32
    torch.testing.assert_close(estimates.sum(1), mixture, rtol=0, atol=1e-6)
    error = (estimates - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert 1e-5 < error < 0.02  # not 0: the blocks did run in bfloat16


def test_tdcn__gradients_under_autocast_come_close() -> None:
    separator, mixture = small(), noise()
    gradients = []
    for enabled in (False, True):
        separator.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = F.mse_loss(separator(mixture)[:, 0], mixture.roll(1, 0))
        loss.backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in separator.parameters()]))
    assert F.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.99


def test_tdcn__architecture_builds_the_same_shapes() -> None:
    separator = small(4, sample_rate=22_050, consistency="magsq")
    rebuilt = TDCN(**separator.architecture())  # type: ignore[arg-type]
    rebuilt.load_state_dict(separator.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt(noise()), separator(noise()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_sources": 0}, "num_sources must be at least 1, got 0."),
        ({"num_blocks": 0}, "num_blocks must be at least 1, got 0."),
        ({"sample_rate": 800}, "sample_rate must be at least 1600, got 800."),
        (
            {"consistency": "magnitude"},
            "consistency must be one of pred_source, magsq, uniform, none, got 'magnitude'.",
        ),
    ],
)
def test_tdcn__refuses_what_cannot_be_built(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TDCN(**arguments)  # type: ignore[arg-type]


def test_mixture_consistency__hands_out_what_is_missing() -> None:
    estimates = torch.tensor([[[1.0, 2.0], [0.0, 1.0]]])
    made = mixture_consistency(estimates, torch.tensor([[5.0, 3.0]]), torch.tensor([[0.25, 0.75]]))
    assert made.tolist() == [[[2.0, 2.0], [3.0, 1.0]]]


def test_power_shares__silent_estimates_share_equally() -> None:
    shares = power_shares(torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [3.0, -3.0]]]))
    torch.testing.assert_close(shares, torch.tensor([[0.5, 0.5], [0.1, 0.9]]))
