import copy
import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.image import imread

from callbacks import PretrainingPicture
from callbacks.pretraining_picture import (
    centred_similarity,
    describe_hidden,
    draw_pretraining,
    principal_colors,
)
from sslam.methods import Objectives, Stage
from sslam.transforms import RandomSource


class Losses(pl.Callback):
    """Keeps every loss."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values.append(outputs["loss"].item())


def test_pretraining_picture__is_saved_in_both_stages(tiny_sslam: Any, clips: Any, fit: Any, tmp_path: Path) -> None:
    fit(tiny_sslam(), clips, [PretrainingPicture(every_n_steps=4)])
    folder = tmp_path / "pictures"
    assert sorted(path.name for path in folder.iterdir()) == [f"step_{step:08d}.png" for step in (4, 8)]
    image = imread(folder / "step_00000008.png")
    assert image.shape[0] > 500
    assert image.shape[1] > 1000
    assert image[..., :3].std() > 0.1  # not an empty page


def test_pretraining_picture__a_picture_at_the_last_step_is_drawn_once(
    tiny_sslam: Any, clips: Any, fit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = PretrainingPicture(every_n_steps=8)
    calls: list[Any] = []
    explain = picture.explain
    monkeypatch.setattr(picture, "explain", lambda module, batch: (calls.append(batch), explain(module, batch))[1])
    fit(tiny_sslam(), clips, [picture])
    assert len(calls) == 1


def test_pretraining_picture__none_asked_for_gives_none(tiny_sslam: Any, clips: Any, fit: Any, tmp_path: Path) -> None:
    fit(tiny_sslam(), clips, [PretrainingPicture(every_n_steps=None, at_end=False)])
    assert not (tmp_path / "pictures").exists()


def test_pretraining_picture__training_is_not_changed(tiny_sslam: Any, clips: Any, fit: Any) -> None:
    def run(callbacks: list[pl.Callback]) -> tuple[list[float], dict[str, torch.Tensor], tuple[float, float, float]]:
        module, losses = tiny_sslam(), Losses()
        pl.seed_everything(1, verbose=False)
        fit(module, clips, [*callbacks, losses])
        draws = (torch.rand(1).item(), float(np.random.random()), random.random())
        return losses.values, module.state_dict(), draws

    class Draws(PretrainingPicture):
        """Draws numbers where ``explain`` would if it were careless."""

        def explain(self, pl_module: Any, clips: Any) -> Any:
            torch.rand(1), np.random.random(), random.random()
            return super().explain(pl_module, clips)

    losses, weights, draws = run([])
    losses_with, weights_with, draws_with = run([Draws(every_n_steps=4)])
    assert len(losses) == 8
    assert losses == losses_with
    assert draws == draws_with
    for name, weight in weights.items():
        assert torch.equal(weight, weights_with[name]), name


def test_explain__changes_nothing_and_shows_the_masked_mixture(tiny_sslam: Any, clips: Any) -> None:
    module = tiny_sslam()
    module.stages = module.stages[1:]  # mixtures
    picture, batch = PretrainingPicture(), next(iter(clips))
    state, random_state = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    with torch.no_grad():
        shown = picture.explain(module, picture.keep(batch))
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert shown["kept"].sum() == 12
    alone = ~shown["mixed_frames"]
    assert alone.sum() == 2 * 16
    assert torch.equal(shown["mixture"][alone], shown["clip"][alone])
    assert shown["target"].shape == shown["prediction"].shape == (64, 32)


@pytest.mark.parametrize("objectives", [Objectives(1, 1, 0), Objectives(1, 0, 0)])
def test_explain__without_source_retention_the_target_is_of_what_the_student_sees(
    tiny_sslam: Any, clips: Any, objectives: Objectives
) -> None:
    module, picture = tiny_sslam(), PretrainingPicture()
    module.stages = [Stage(4, 1e-3, 1, num_clones=2, objectives=objectives)]
    with torch.no_grad():
        shown = picture.explain(module, picture.keep(next(iter(clips))))
        seen_LF = shown["mixture" if objectives.mixed else "clip"]
        target_BPD = module.teach(seen_LF.unsqueeze(0), module.stages[0]).patch_BPD
    torch.testing.assert_close(shown["target"], target_BPD[0])


@pytest.mark.parametrize(
    ("kind", "objectives"),
    [("clip", Objectives(1, 0, 0)), ("mixture", Objectives(1, 1, 0)), ("sources", Objectives(1, 1, 2))],
)
def test_explain__the_mean_of_each_place_is_of_the_same_kind_of_target(
    tiny_sslam: Any, clips: Any, kind: str, objectives: Objectives
) -> None:
    module, picture = tiny_sslam(), PretrainingPicture()
    module.stages = [Stage(4, 1e-3, 1, num_clones=2, objectives=objectives)]
    kept = picture.keep(next(iter(clips)))
    with torch.no_grad():
        assert picture.explain(module, kept)["position_mean"] is None
        features = module.frontend(kept["waveform"], kept["num_samples"])
        losses = module.losses(features, module.stages[0], RandomSource.seeded(module.device, 0))
        module.position_means.compare(losses.patch, losses.targets)
        mean_PD = picture.explain(module, kept)["position_mean"]
    torch.testing.assert_close(mean_PD, losses.targets[kind][0].mean(dim=0))


def test_pretraining_picture__is_sent_to_tensorboard(tiny_sslam: Any, clips: Any, fit: Any, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="", version="run")
    fit(tiny_sslam(), clips, [PretrainingPicture(every_n_steps=None)], logger=logger)
    assert (tmp_path / "run/pictures/step_00000008.png").exists()
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert [image.step for image in events.Images("pretraining")] == [8]


def test_pretraining_picture__every_n_steps_must_be_positive() -> None:
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        PretrainingPicture(every_n_steps=0)


def test_centred_similarity__the_mean_everywhere_is_no_prediction() -> None:
    generator = torch.Generator().manual_seed(0)
    target_PD = 5 + torch.randn(64, 16, generator=generator)
    mean_PD = target_PD.mean(dim=0).expand_as(target_PD)
    assert centred_similarity(target_PD, target_PD).min() == pytest.approx(1, abs=1e-5)
    assert centred_similarity(target_PD, mean_PD + 1e-3 * torch.randn(64, 16, generator=generator)).mean().abs() < 0.2
    assert torch.cosine_similarity(target_PD, mean_PD, dim=-1).mean() > 0.9  # what it would be without


def test_describe_hidden__a_prediction_of_the_place_alone_is_nothing_after_its_mean_is_taken_off() -> None:
    generator = torch.Generator().manual_seed(0)
    position_PD = 3 * torch.randn(64, 16, generator=generator)
    target_PD = position_PD + torch.randn(64, 16, generator=generator)
    kept_P = torch.arange(64) < 32
    known = {"target": target_PD, "kept": kept_P, "position_mean": position_PD}
    nearly_position_PD = position_PD + 0.1 * torch.randn(64, 16, generator=generator)
    similarity_P, error_P, title, error_title = describe_hidden(known | {"prediction": nearly_position_PD})
    assert similarity_P[32:].mean().abs() < 0.1
    with_place, place = (centred_similarity(target_PD, p)[32:].mean().item() for p in (nearly_position_PD, position_PD))
    assert min(with_place, place) > 0.9  # which is all that would be seen
    assert title == (
        f"Cosine similarity less each place's mean {similarity_P[32:].mean():.2f} "
        f"(with it: student {with_place:.2f}, the mean {place:.2f})"
    )
    of_place = ((position_PD - target_PD) ** 2)[32:].mean().item()
    assert error_title == f"Mean squared error {error_P[32:].mean():.2f} (of the mean of each place {of_place:.2f})"

    half_PD = position_PD + 0.5 * (target_PD - position_PD)  # content, too weak, in the right direction
    assert describe_hidden(known | {"prediction": half_PD})[0].min() == pytest.approx(1, abs=1e-4)


def test_principal_colors__equal_vectors_have_equal_colors() -> None:
    generator = torch.Generator().manual_seed(0)
    target_PD = torch.randn(64, 16, generator=generator)
    other_PD = torch.randn(64, 16, generator=generator)
    other_PD[:10] = target_PD[:10]
    target_P3, other_P3 = principal_colors(target_PD, other_PD)
    assert target_P3.shape == (64, 3)
    assert torch.allclose(target_P3[:10], other_P3[:10])
    assert not torch.allclose(target_P3[10:], other_P3[10:], atol=0.1)
    assert target_P3.std(dim=0).min() > 0.2


def test_draw_pretraining__marks_unmixed_windows_and_masks_in_place() -> None:
    num_frames, num_mel_bins, grid = 80, 32, (5, 2)
    mixed_frames = torch.ones(num_frames, dtype=torch.bool)
    mixed_frames[16:48] = False
    kept = torch.zeros(grid, dtype=torch.bool)
    kept[1, 0] = True
    features_LF = torch.rand(num_frames, num_mel_bins)
    latents_PD = torch.randn(10, 8)
    explained = {
        "clip": features_LF,
        "partner": features_LF,
        "mixture": features_LF,
        "mixed_frames": mixed_frames,
        "kept": kept,
        "target": latents_PD,
        "prediction": latents_PD + 0.1,
        "position_mean": None,
        "grid": grid,
    }
    figure = draw_pretraining(explained, "title", "clip", seconds_per_frame=0.01, sample_rate=16000)
    axes: dict[str, Any] = {
        axis.get_title(loc="left").split(":")[0].rstrip("-0123456789. "): axis for axis in figure.axes
    }
    lines = [line.get_xdata()[0] for line in axes["Mixture"].lines]
    assert lines == pytest.approx([0.16, 0.48])
    seen = axes["What the student sees"].images[0].get_array()
    # Columns are frames, rows are mel bins from low to high.
    assert seen.shape == (num_mel_bins, num_frames)
    assert not np.ma.getmaskarray(np.ma.masked_invalid(seen))[:16, 16:32].any()
    assert np.isfinite(np.ma.filled(seen, np.nan)).sum() == 16 * 16
    similarity = axes["Cosine similarity of target and prediction"].images[0].get_array()
    assert np.isfinite(np.ma.filled(similarity, np.nan)).sum() == 9
    assert np.isnan(np.ma.filled(similarity, np.nan)[0, 1])
