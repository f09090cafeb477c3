"""Heads: the classifier, and the coincidence head against the network on concatenated pairs, whole and in chunks."""

import pytest
import torch
from torch import Tensor

from sslam.networks import ClassifierHead, CoincidenceHead, ProjectionHead, heads


def shapes(module: torch.nn.Module) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in module.parameters()]


def test_heads__have_the_published_layers() -> None:
    assert shapes(ProjectionHead(128)) == [(256, 128), (256,), (128, 256), (128,)]
    assert shapes(CoincidenceHead(128)) == [(512, 256), (512,), (512, 512), (512,), (1, 512), (1,)]


def test_classifier_head__has_the_names_of_published_files_and_their_start() -> None:
    head = ClassifierHead(64, 500, seed=3)
    assert [*head.state_dict()] == ["fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"]
    assert head.head.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not head.head.bias.any()
    assert torch.equal(head.head.weight, ClassifierHead(64, 500, seed=3).head.weight)
    assert not torch.equal(head.head.weight, ClassifierHead(64, 500).head.weight)
    hidden = ClassifierHead(64, 5, 0, hidden_width=16, normalisation="l2")
    assert [*hidden.state_dict()] == ["hidden.weight", "hidden.bias", "head.weight", "head.bias"]


def test_classifier_head__is_norm_linear_relu_linear() -> None:
    head, embeddings = ClassifierHead(32, 4, 0, hidden_width=16), torch.randn(6, 32)
    normed = torch.nn.functional.layer_norm(embeddings, (32,), eps=1e-6)
    hidden = (normed @ head.hidden.weight.T + head.hidden.bias).clamp(min=0)  # type: ignore[union-attr,operator]
    torch.testing.assert_close(head(embeddings), hidden @ head.head.weight.T + head.head.bias)


@pytest.mark.parametrize("hidden_width", [None, 16])
def test_classifier_head__the_length_of_the_embedding_does_not_matter(hidden_width: int | None) -> None:
    head, embeddings = ClassifierHead(32, 4, 0, hidden_width, "l2"), torch.randn(6, 32)
    torch.testing.assert_close(head(embeddings), head(0.01 * embeddings))
    assert head(torch.zeros(1, 32)).isfinite().all()


def test_classifier_head__is_left_alone_by_autocast() -> None:
    head, embeddings = ClassifierHead(32, 4, 0, hidden_width=16), torch.randn(6, 32)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(embeddings)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, head(embeddings))


def test_projection_head__is_linear_relu_linear() -> None:
    head, embeddings = ProjectionHead(6, hidden=5, out=3), torch.randn(4, 6)
    first, second = head[0], head[2]
    expected = (embeddings @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T + second.bias
    torch.testing.assert_close(head(embeddings), expected)


def concatenated(head: CoincidenceHead, first: Tensor, second: Tensor) -> Tensor:
    """The head on every pair ``[first, second]``, one by one."""
    rows = [torch.stack([head.pair(head.input(torch.cat([one, other])))[0] for other in second]) for one in first]
    return torch.stack(rows)


@pytest.mark.parametrize("pairs_at_once", [heads.PAIRS_AT_ONCE, 13, 1], ids=["whole", "two rows", "one row"])
def test_coincidence_head__is_the_network_on_concatenated_pairs(
    pairs_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "PAIRS_AT_ONCE", pairs_at_once)
    head = CoincidenceHead(8, hidden=16)
    first, second = torch.randn(5, 8, requires_grad=True), torch.randn(6, 8, requires_grad=True)
    weights = torch.randn(5, 6)  # so that transposed logits have other gradients
    inputs = [first, second, *head.parameters()]
    logits, expected = head(first, second), concatenated(head, first, second)
    torch.testing.assert_close(logits, expected)
    gradients = torch.autograd.grad((logits * weights).sum(), inputs)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), inputs)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gradients", [True, False])
def test_coincidence_head__chunks_change_nothing_under_autocast(
    gradients: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, (first, second) = CoincidenceHead(8, hidden=16), torch.randn(2, 6, 8)
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(gradients):
        whole = head(first, second)
        monkeypatch.setattr(heads, "PAIRS_AT_ONCE", 12)
        chunks = head(first, second)
    assert whole.dtype == chunks.dtype == torch.bfloat16
    torch.testing.assert_close(chunks, whole)


def test_coincidence_head__knows_first_from_second() -> None:
    head, (first, second) = CoincidenceHead(8, hidden=16), torch.randn(2, 6, 8)
    assert not torch.allclose(head(first, second), head(second, first).T)


def test_coincidence_head__other_widths_are_refused() -> None:
    head = CoincidenceHead(8, hidden=16)
    with pytest.raises(ValueError, match=r"must have shape \(clips, 8\), got \(3, 4\). Give the head the width of"):
        head(torch.zeros(2, 8), torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"must have shape \(clips, 8\), got \(8,\)"):
        head(torch.zeros(8), torch.zeros(3, 8))
