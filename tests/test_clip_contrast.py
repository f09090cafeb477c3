"""Telling clips apart: views against the formula, and stages that have it beside those that do not."""

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks import CollapseMonitor
from sslam.clip_contrast import ClipContrast
from sslam.losses import nt_xent_loss
from sslam.losses.nt_xent import multi_view_nt_xent_loss
from sslam.methods import Objectives
from sslam.transforms import RandomSource
from tests.methods.sslam_method import SAMPLES, clips, fit, make_method, make_stage

APART = Objectives(unmixed=0, mixed=0, source_retention=0, clip_contrast=1)


def source(seed: int = 0) -> RandomSource:
    return RandomSource.seeded(torch.device("cpu"), seed)


def features(num_clips: int = 3, num_frames: int = 64) -> Tensor:
    return torch.randn(num_clips, num_frames, 8, generator=torch.Generator().manual_seed(1))


def naive_loss(views: Tensor, clip: list[int], temperature: float) -> Tensor:
    """Pair by pair, from the formula."""
    unit = [view / view.norm() for view in views]
    terms = []
    for i, own in enumerate(clip):
        others = sum(torch.exp(unit[i] @ unit[k] / temperature) for k, other in enumerate(clip) if other != own)
        for j in range(len(clip)):
            if j != i and clip[j] == own:
                found = torch.exp(unit[i] @ unit[j] / temperature)
                terms.append(-torch.log(found / (found + others)))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("clip", [[0, 1, 0, 1], [0, 0, 0, 1, 1], [2, 0, 1, 1, 0, 2, 2, 5]])
def test_multi_view_nt_xent_loss__is_the_formula(clip: list[int]) -> None:
    views = torch.randn(len(clip), 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, naive = views.clone().requires_grad_(), views.clone().requires_grad_()
    loss, expected = multi_view_nt_xent_loss(ours, torch.tensor(clip), 0.2), naive_loss(naive, clip, 0.2)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, naive.grad, rtol=1e-6, atol=1e-12)


def test_multi_view_nt_xent_loss__of_two_views_is_that_of_pairs() -> None:
    first, second = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    loss = multi_view_nt_xent_loss(torch.cat([first, second]), torch.arange(5).repeat(2), 0.3)
    torch.testing.assert_close(loss, nt_xent_loss(first, second, 0.3))


@pytest.mark.parametrize("clip", [[0, 0, 0], [0, 1, 2]])
def test_multi_view_nt_xent_loss__needs_a_pair_and_another_clip(clip: list[int]) -> None:
    with pytest.raises(ValueError, match="Give every process at least 2 clips"):
        multi_view_nt_xent_loss(torch.randn(3, 4), torch.tensor(clip))


def test_hear__without_background_and_level_is_the_clip_begun_elsewhere() -> None:
    features_BLF = features()
    heard_BLF = ClipContrast(max_background=0, level_deviation=0).hear(features_BLF, 9.0, source())
    starts = set()
    for clip, heard in zip(features_BLF, heard_BLF, strict=True):
        start = next(s for s in range(64) if torch.allclose(clip.roll(-s, dims=0), heard, atol=1e-5))
        starts.add(start)
    assert len(starts) > 1


def test_hear__hears_parts_of_the_length_that_is_given() -> None:
    contrast = ClipContrast(max_background=0, level_deviation=0, view_frames=16)
    heard_BLF = contrast.hear(features(), 9.0, source())
    assert heard_BLF.shape == (3, 16, 8)
    assert any(torch.allclose(features()[0].roll(-s, dims=0)[:16], heard_BLF[0], atol=1e-5) for s in range(64))


def test_hear__adds_powers_whatever_the_features_are_divided_by() -> None:
    """A clip in its own background is itself; of a loud and a silent one the loud one is left, less its share."""
    contrast = ClipContrast(max_background=0.5, level_deviation=0)
    same_BLF = features(1).expand(3, -1, -1)
    heard_BLF = contrast.hear(same_BLF[:, :1].expand(-1, 64, -1), 9.0, source())
    torch.testing.assert_close(heard_BLF, same_BLF[:, :1].expand(-1, 64, -1), rtol=0, atol=1e-5)
    log_power_BLF = 20 * features()
    one, nine = (contrast.hear(log_power_BLF / scale, scale, source()) * scale for scale in (1.0, 9.0))
    torch.testing.assert_close(one, nine, rtol=1e-4, atol=1e-4)
    assert (one <= torch.logaddexp(log_power_BLF.amax((0, 1)), torch.tensor(0.0)).amax() + 1e-4).all()


def test_hear__level_moves_a_whole_view_by_decibels() -> None:
    contrast = ClipContrast(max_background=0, level_deviation=10)
    heard_BLF = contrast.hear(torch.zeros(4000, 1, 8), 2.0, source())
    level_B = heard_BLF[:, 0, 0]
    assert torch.equal(heard_BLF, level_B[:, None, None].expand_as(heard_BLF))
    # Ten decibels are a factor of ten in power.
    assert level_B.std().item() == pytest.approx(math.log(10) / 2, rel=0.05)


def tones() -> DataLoader:
    """Four clips of a tone each, which can be told apart."""
    time_T = torch.arange(SAMPLES) / 16_000
    tones_BT = [0.1 * torch.sin(2 * math.pi * 300 * 2**octave * time_T) for octave in range(4)]
    return DataLoader([{"waveform": tone_T, "num_samples": SAMPLES, "index": 0} for tone_T in tones_BT], batch_size=4)


def losses_of(module: Any, loader: DataLoader) -> list[float]:
    class Losses(pl.Callback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.seen.append(outputs["loss"].item())

    callback = Losses()
    pl.seed_everything(3, verbose=False)
    fit(module, loader, callbacks=[callback, CollapseMonitor(every_n_steps=1)])
    return callback.seen


def test_training__a_stage_without_it_is_the_same_to_the_bit_with_its_head_there() -> None:
    # The head is drawn after all else, so the other weights are the same.
    assert losses_of(make_method(), clips(8)) == losses_of(make_method(clip_contrast=ClipContrast()), clips(8))


def test_training__weight_adds_to_the_other_losses() -> None:
    module = make_method([make_stage(objectives=Objectives(clip_contrast=2))], clip_contrast=ClipContrast())
    batch = next(iter(clips(4, batch_size=4)))
    features_BLF = module.frontend(batch["waveform"])
    losses = module.losses(features_BLF, module.stages[0], source())
    parts = losses.patch + losses.cls + losses.source_retention + losses.clip_contrast
    torch.testing.assert_close(losses.total, parts)
    assert losses.by_name(module.stages[0].objectives)["clip_contrast_loss"] is losses.clip_contrast
    plain = module.losses(features_BLF, make_stage(), source())
    assert torch.equal(plain.patch, losses.patch)
    assert plain.clip_contrast == 0


def test_training__clips_are_told_apart() -> None:
    """Alone, it lowers its loss below that of views that are all alike, and leaves the decoder alone."""
    stage = make_stage(steps=80, objectives=APART)
    module = make_method([stage], clip_contrast=ClipContrast(num_clones=1, max_background=0.1, level_deviation=0))
    decoder = {name: value.clone() for name, value in module.decoder.state_dict().items()}
    losses = losses_of(module, tones())
    assert sum(losses[-10:]) / 10 < 0.7 * min(losses[:4])
    assert all(torch.allclose(value, decoder[name], rtol=0.01) for name, value in module.decoder.state_dict().items())


def test_init__the_objective_needs_its_part_and_views_whole_patches() -> None:
    with pytest.raises(ValueError, match=r"Give sslam.clip_contrast.ClipContrast\."):
        make_method([make_stage(objectives=APART)])
    with pytest.raises(ValueError, match="must be a multiple of the encoder's patch_size 16, got 24"):
        make_method(clip_contrast=ClipContrast(view_frames=24))


def test_hear__what_is_padding_is_not_heard() -> None:
    features_BLF = features()
    features_BLF[:, 40:] = 1000.0
    heard_BLF = ClipContrast().hear(features_BLF, 9.0, source(), torch.tensor([40, 30, 1]))
    assert heard_BLF.shape == features_BLF.shape
    assert heard_BLF.max() < 100


def test_checkpoint__goes_on_to_the_bit_and_starts_published_stages(tmp_path: Path) -> None:
    def module() -> Any:
        torch.manual_seed(0)
        stages = [make_stage(objectives=APART), make_stage()]
        return make_method(stages, clip_contrast=ClipContrast())

    # Equal batches, for a plain loader begins anew.
    same_clips = DataLoader(list(clips(2).dataset) * 8, batch_size=2)
    straight, first, second = module(), module(), module()
    keep = ModelCheckpoint(tmp_path, filename="two", every_n_train_steps=2, save_top_k=1)
    fit(first, same_clips, callbacks=[keep], enable_checkpointing=True, max_steps=2)
    fit(straight, same_clips)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=-1)
    trainer.fit(second, same_clips, ckpt_path=tmp_path / "two.ckpt", weights_only=True)
    different = [
        name for name, value in second.state_dict().items() if not torch.equal(value, straight.state_dict()[name])
    ]
    assert different == []
    plain, with_head = make_method(), module()
    for other in (plain, with_head):
        other.load_initial_weights(tmp_path / "two.ckpt")
        student = other.student.state_dict()
        assert all(torch.equal(value, student[name]) for name, value in first.student.state_dict().items())


def test_evaluation__a_last_batch_of_one_clip_is_left_out() -> None:
    module = make_method([make_stage(objectives=APART)], clip_contrast=ClipContrast())
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    (results,) = trainer.validate(module, clips(5), verbose=False)
    assert results.keys() == {"val/loss", "val/clip_contrast_loss"}
    assert results["val/loss"] == results["val/clip_contrast_loss"] > 0
