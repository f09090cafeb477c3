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
from sslam.methods import Objectives
from sslam.transforms import Hearing, RandomSource
from tests.methods.sslam_method import SAMPLES, clips, fit, make_method, make_stage

APART = Objectives(unmixed=0, mixed=0, source_retention=0, clip_contrast=1)


def source(seed: int = 0) -> RandomSource:
    return RandomSource.seeded(torch.device("cpu"), seed)


def features(num_clips: int = 3, num_frames: int = 64) -> Tensor:
    return torch.randn(num_clips, num_frames, 8, generator=torch.Generator().manual_seed(1))


def plain(**arguments: Any) -> ClipContrast:
    """Views that differ by where they begin alone, but for what ``arguments`` say."""
    hearing = Hearing(stretch=0, response_deviation=0)
    return ClipContrast(**{"mixed_share": 0, "level_deviation": 0, "hearing": hearing} | arguments)


def test_hear__a_clip_alone_is_the_clip_begun_elsewhere() -> None:
    features_BLF = features()
    heard_BLF, content_BB = plain().hear(features_BLF, 9.0, source())
    starts = {
        next(s for s in range(64) if torch.allclose(clip.roll(-s, dims=0), heard, atol=1e-5))
        for clip, heard in zip(features_BLF, heard_BLF, strict=True)
    }
    assert len(starts) > 1
    assert torch.equal(content_BB, torch.eye(3))


def test_hear__mixtures_have_powers_and_shares_of_their_two_clips() -> None:
    """Of two steady tones in a band each: the powers in the bands give the ratio, and its root the shares."""
    log_power_BLF = torch.full((2, 64, 2), -200.0)
    log_power_BLF[0, :, 0], log_power_BLF[1, :, 1] = 3.0, -2.0
    contrast = plain(mixed_share=1, largest_snr=10)
    ratios = []
    for seed in range(50):
        heard_BLF, content_BB = contrast.hear(log_power_BLF / 9, 9.0, source(seed))
        power_BF = (heard_BLF[:, 0] * 9).exp()
        amplitude_BF = power_BF.sqrt()
        torch.testing.assert_close(content_BB, amplitude_BF / amplitude_BF.sum(1, keepdim=True), rtol=1e-4, atol=1e-5)
        assert power_BF[0, 0].log().item() == pytest.approx(3, abs=1e-4)  # its own clip keeps its level
        ratios.append(10 * math.log10(power_BF[0, 0] / power_BF[0, 1]))
    assert -10 <= min(ratios) < -7
    assert 7 < max(ratios) <= 10


def test_hear__share_of_mixtures_is_as_given() -> None:
    content_BB = plain(mixed_share=0.3).hear(features(2000, 2), 9.0, source())[1]
    assert (content_BB.diagonal() < 1).float().mean().item() == pytest.approx(0.3, abs=0.04)
    torch.testing.assert_close(content_BB.sum(dim=1), torch.ones(2000))
    assert ((content_BB > 0).sum(dim=1) <= 2).all()


def test_hear__silence_is_not_made_a_sound() -> None:
    """A silent clip stays 30 dB below what it could be raised to, and has no share worth the name."""
    log_power_BLF = torch.zeros(2, 64, 4)
    log_power_BLF[1] = -20.0
    heard_BLF, content_BB = plain(mixed_share=1).hear(log_power_BLF / 9, 9.0, source())
    torch.testing.assert_close(heard_BLF[0], torch.zeros(64, 4), atol=1e-3, rtol=0)
    assert content_BB[0, 0] > 0.99
    assert content_BB[1, 0] > 0.01  # the sound is not softened by more, and so is heard in the silence


def test_hear__is_the_same_whatever_the_features_are_divided_by() -> None:
    log_power_BLF = 20 * features()
    contrast = plain(mixed_share=0.8)
    one, nine = (contrast.hear(log_power_BLF / scale, scale, source())[0] * scale for scale in (1.0, 9.0))
    torch.testing.assert_close(one, nine, rtol=1e-4, atol=1e-4)


def test_hear__level_moves_a_whole_view_by_decibels() -> None:
    level_BLF = plain(level_deviation=10).hear(torch.zeros(4000, 1, 8), 2.0, source())[0]
    level_B = level_BLF[:, 0, 0]
    assert torch.equal(level_BLF, level_B[:, None, None].expand_as(level_BLF))
    # Ten decibels are a factor of ten in power.
    assert level_B.std().item() == pytest.approx(math.log(10) / 2, rel=0.05)


def test_forward__is_the_loss_of_the_views_by_what_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clones of a view have its content: two views of two clips with two clones, as the head gave them."""
    seen: list[Tensor] = []
    monkeypatch.setattr(
        "sslam.clip_contrast.shared_content_loss",
        lambda views_RD, content_RB, temperature: seen.extend([views_RD, content_RB]) or views_RD.sum(),
    )
    module = make_method([make_stage(objectives=APART)], clip_contrast=ClipContrast(num_clones=2))
    batch = next(iter(clips(3, batch_size=3)))
    module.losses(module.frontend(batch["waveform"]), module.stages[0], source())
    views_RD, content_RB = seen
    assert len(views_RD) == len(content_RB) == 12
    assert torch.equal(content_RB[::2], content_RB[1::2])
    assert (content_RB.unflatten(0, (2, 3, 2)).argmax(dim=-1) >= 0).all()
    assert (content_RB[torch.arange(12), torch.arange(3).repeat_interleave(2).repeat(2)] > 0).all()


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
    without = module.losses(features_BLF, make_stage(), source())
    assert torch.equal(without.patch, losses.patch)
    assert without.clip_contrast == 0


def test_training__clips_are_told_apart() -> None:
    """Alone, it lowers its loss below that of views that are all alike, and leaves the decoder alone."""
    stage = make_stage(steps=80, objectives=APART)
    module = make_method([stage], clip_contrast=plain(num_clones=1, mixed_share=0.2))
    decoder = {name: value.clone() for name, value in module.decoder.state_dict().items()}
    losses = losses_of(module, tones())
    assert sum(losses[-10:]) / 10 < 0.7 * min(losses[:4])
    assert all(torch.allclose(value, decoder[name], rtol=0.01) for name, value in module.decoder.state_dict().items())


def test_init__the_objective_needs_its_part_and_views_whole_patches() -> None:
    with pytest.raises(ValueError, match=r"Give sslam.clip_contrast.ClipContrast\."):
        make_method([make_stage(objectives=APART)])
    with pytest.raises(ValueError, match="must be a multiple of the encoder's patch_size 16, got 24"):
        make_method(clip_contrast=ClipContrast(hearing=Hearing(view_frames=24)))


def test_hear__what_is_padding_is_not_heard() -> None:
    features_BLF = features()
    features_BLF[:, 40:] = 1000.0
    heard_BLF, _ = ClipContrast().hear(features_BLF, 9.0, source(), torch.tensor([40, 30, 1]))
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
    without_head, with_head = make_method(), module()
    for other in (without_head, with_head):
        other.load_initial_weights(tmp_path / "two.ckpt")
        student = other.student.state_dict()
        assert all(torch.equal(value, student[name]) for name, value in first.student.state_dict().items())


def test_evaluation__a_last_batch_of_one_clip_is_left_out() -> None:
    module = make_method([make_stage(objectives=APART)], clip_contrast=ClipContrast())
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    (results,) = trainer.validate(module, clips(5), verbose=False)
    assert results.keys() == {"val/loss", "val/clip_contrast_loss"}
    assert results["val/loss"] == results["val/clip_contrast_loss"] > 0
