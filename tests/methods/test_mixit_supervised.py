"""Supervised and semi-supervised training: which clips are learnt how, and how much each counts."""

from typing import Any

import pytest
import torch

from sslam.losses import mixit_loss, supervised_separation_loss
from sslam.methods import MixIT
from tests.methods.test_mixit import Losses, loader, make_clips, make_trainer, small_separator

CLIPS = 8


def known(num_stems: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    stems = 0.1 * torch.randn(CLIPS, num_stems, 800, generator=torch.Generator().manual_seed(2))
    return stems.sum(dim=1), stems


def first_loss(method: MixIT, clips: torch.Tensor, stems: torch.Tensor | None) -> float:
    losses = Losses()
    make_trainer(max_steps=1, callbacks=[losses]).fit(method, loader(clips, CLIPS, stems))
    return losses.values[0]


@pytest.mark.parametrize(("share", "num_supervised"), [(0.0, 0), (0.25, 1), (0.5, 2), (1.0, 4)])
def test_training__a_share_of_the_examples_is_learnt_from_sources(share: float, num_supervised: int) -> None:
    clips, stems = known()
    method, separator = MixIT(small_separator(), supervised_share=share), small_separator()
    split = 2 * num_supervised
    terms = []
    with torch.no_grad():
        if num_supervised:
            known_loss = supervised_separation_loss(stems[:split], separator(clips[:split]), clips[:split]).mean()
            terms.append(num_supervised / 4 * known_loss)
        if num_supervised < 4:
            mixtures = clips[split:].unflatten(0, (-1, 2))
            terms.append((4 - num_supervised) / 4 * mixit_loss(mixtures, separator(mixtures.sum(1))).mean())
    assert first_loss(method, clips, stems) == pytest.approx(float(sum(terms)), rel=1e-5)


def test_training__without_a_share_it_is_mixit_bit_for_bit() -> None:
    clips = make_clips(CLIPS)
    separator = small_separator()
    mixtures = clips.unflatten(0, (-1, 2))
    with torch.no_grad():
        expected = mixit_loss(mixtures, separator(mixtures.sum(1))).mean()
    assert first_loss(MixIT(small_separator()), clips, None) == expected.item()


def test_draw_supervised__holds_on_average_where_the_share_is_no_whole_number() -> None:
    method = MixIT(small_separator(), supervised_share=0.3)
    random = torch.Generator().manual_seed(0)

    def source(batch_idx: int) -> Any:
        return type("Source", (), {"cpu": random})

    method.random_source = source  # type: ignore[method-assign]
    drawn = [method.draw_supervised(4, number) for number in range(4000)]
    assert set(drawn) == {1, 2}
    assert sum(drawn) / 4000 == pytest.approx(1.2, abs=0.03)


def test_training__clips_with_partners_are_added_up_with_them() -> None:
    clips, partners = make_clips(CLIPS), make_clips(CLIPS).flip(0) * 0.5
    method = MixIT(small_separator(), allowed_assignments=[[0, 0, 1], [0, 1, 0]])
    mixtures = method.mixtures(clips, partners)
    assert mixtures.shape == (CLIPS, 2, 800)
    assert torch.equal(mixtures[:, 1], partners)
    batch = {"waveform": clips, "partner": partners}
    separator = small_separator()
    with torch.no_grad():
        expected = mixit_loss(mixtures, separator(mixtures.sum(1)), assignments=method.assignments).mean()
        method.log_training_loss = lambda *_, **__: None  # type: ignore[method-assign]
        assert method.training_step(batch, 0).item() == pytest.approx(expected.item())


def test_training__known_sources_are_overfitted() -> None:
    clips, stems = known(2)
    losses = Losses()
    method = MixIT(small_separator(), supervised_share=1.0, learning_rate=1e-2)
    make_trainer(max_steps=80, callbacks=[losses]).fit(method, loader(clips[:2], 2, stems[:2]))
    assert losses.values[-1] < losses.values[0] - 1


def test_mixit__refuses_what_cannot_be_learnt() -> None:
    with pytest.raises(ValueError, match="supervised_share is more than 0, and the clips come without sources"):
        first_loss(MixIT(small_separator(), supervised_share=1.0), make_clips(CLIPS), None)
    with pytest.raises(ValueError, match="supervised_share must be between 0 and 1, got 1.5"):
        MixIT(small_separator(), supervised_share=1.5)
    with pytest.raises(ValueError, match=r"for each of 3 estimates, got \[0, 1\]. Correct allowed_assignments"):
        MixIT(small_separator(), allowed_assignments=[[0, 1]])


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_validation__the_supervised_loss_is_of_all_clips_and_only_where_it_is_learnt(share: float) -> None:
    clips, stems = known()
    method, separator = MixIT(small_separator(), supervised_share=share), small_separator()
    (found,) = make_trainer().validate(method, loader(clips[:6], 4, stems[:6]), verbose=False)  # 4 clips, then 2
    with torch.no_grad():
        expected = supervised_separation_loss(stems[:6], separator(clips[:6]), clips[:6]).mean()
        mixtures = clips[:6].unflatten(0, (-1, 2))
        unsupervised = mixit_loss(mixtures, separator(mixtures.sum(1))).mean()
    assert found["val/loss"] == pytest.approx(unsupervised.item(), rel=1e-5)
    assert ("val/supervised_loss" in found) == (share > 0)
    if share:
        assert found["val/supervised_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_validation__momi_keeps_to_the_assignments_of_the_method() -> None:
    """One that gives everything to the first clip leaves the second with silence."""
    clips, _ = known()
    free, bound = MixIT(small_separator()), MixIT(small_separator(), allowed_assignments=[[0, 0, 0]])
    momi = [make_trainer().validate(each, loader(clips, 4), verbose=False)[0]["val/momi"] for each in (free, bound)]
    assert momi[1] < momi[0] - 20
