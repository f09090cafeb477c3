from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.image import imread
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks import SeparationPicture
from callbacks.separation_picture import beside_sources, first_clip
from sslam.methods import MixIT
from sslam.networks import TDCN

NUM_SAMPLES = 8000


def scenes(with_stems: bool, seed: int = 0) -> DataLoader[Any]:
    """Batches of two clips of two sources; the first clip of a batch is padded."""
    generator = torch.Generator().manual_seed(seed)
    clips: list[dict[str, Tensor | int]] = []
    for index in range(8):
        stems_ST = 0.2 * torch.randn(3, NUM_SAMPLES, generator=generator)
        stems_ST[2] = 0  # no source
        num_samples = NUM_SAMPLES - 3000 * (index % 2 == 0)
        stems_ST[:, num_samples:] = 0
        clip: dict[str, Tensor | int] = {"waveform": stems_ST.sum(dim=0), "num_samples": num_samples, "index": index}
        clips.append(clip | ({"stems": stems_ST} if with_stems else {}))
    return DataLoader(clips, batch_size=2)  # type: ignore[arg-type]


def mixit() -> MixIT:
    torch.manual_seed(0)
    return MixIT(TDCN(num_basis=8, width=8, hidden_width=8, num_blocks=2))


@pytest.mark.parametrize("with_stems", [True, False])
def test_separation_picture__is_saved_at_chosen_steps(with_stems: bool, fit: Any, tmp_path: Path) -> None:
    fit(mixit(), scenes(with_stems), [SeparationPicture(every_n_steps=2)], max_steps=5)
    folder = tmp_path / "pictures"
    assert sorted(path.name for path in folder.iterdir()) == [f"step_{step:08d}.png" for step in (2, 4, 5)]
    image = imread(folder / "step_00000004.png")
    assert image.shape[1] == (1400 if with_stems else 1000)
    assert image[..., :3].std() > 0.1


def test_separation_picture__draws_the_first_clip_of_the_validation_set(fit: Any, tmp_path: Path) -> None:
    class Kept(SeparationPicture):
        clips: list[Tensor] = []  # noqa: RUF012

        def explain(self, pl_module: Any, clips: dict[str, Tensor]) -> dict[str, Any]:
            self.clips.append(clips["waveform"])
            return super().explain(pl_module, clips)

    validation = scenes(False, seed=1)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=4, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=[Kept(every_n_steps=2)],
    )  # fmt: skip
    trainer.fit(mixit(), scenes(False), validation)
    first = next(iter(validation))["waveform"][0, :5000]
    assert len(Kept.clips) == 2
    assert all(torch.equal(clip, first) for clip in Kept.clips)


def test_separation_picture__training_is_not_changed(fit: Any) -> None:
    def run(callbacks: list[pl.Callback]) -> dict[str, Tensor]:
        module = mixit()
        fit(module, scenes(True), callbacks, max_steps=4)
        return module.state_dict()

    with_pictures, without = run([SeparationPicture(every_n_steps=1)]), run([])
    assert all(torch.equal(weight, with_pictures[name]) for name, weight in without.items())


def test_separation_picture__is_sent_to_tensorboard(fit: Any, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="", version="run")
    fit(mixit(), scenes(True), [SeparationPicture(every_n_steps=None)], max_steps=2, logger=logger)
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert [image.step for image in events.Images("separation")] == [2]


def test_separation_picture__every_n_steps_must_be_positive() -> None:
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        SeparationPicture(every_n_steps=0)


def test_first_clip__has_no_padding_and_only_sources_that_sound() -> None:
    batch = next(iter(scenes(True)))
    clip = first_clip(batch)
    assert torch.equal(clip["waveform"], batch["waveform"][0, :5000])
    assert torch.equal(clip["stems"], batch["stems"][0, :2, :5000])
    batch["stems"][0] = 0
    assert first_clip(batch)["stems"].shape == (0, 5000)


@pytest.mark.parametrize("num_estimates", [1, 2, 4])
def test_beside_sources__estimates_stand_beside_the_sources_they_fit(num_estimates: int) -> None:
    generator = torch.Generator().manual_seed(0)
    sources_ST = torch.randn(2, 1000, generator=generator)
    others = 0.1 * torch.randn(2, 1000, generator=generator)
    noisy = sources_ST + 0.1 * torch.randn(2, 1000, generator=generator)
    estimates_NT = torch.cat([others[:1], noisy.flip(0), others[1:]])
    estimates_NT = {1: noisy[1:], 2: noisy.flip(0), 4: estimates_NT}[num_estimates]
    ordered_NT, improvement_S = beside_sources(estimates_NT, sources_ST, sources_ST.sum(dim=0))
    if num_estimates == 1:
        assert torch.equal(ordered_NT, torch.stack([torch.zeros(1000), noisy[1]]))
        assert improvement_S[0] < -60
    else:
        assert torch.equal(ordered_NT[:2], noisy)
        assert ordered_NT.shape == (num_estimates, 1000)
        assert (improvement_S > 15).all()
    silent_NT, none_S = beside_sources(estimates_NT, sources_ST[:0], sources_ST.sum(dim=0))
    assert torch.equal(silent_NT, estimates_NT)
    assert none_S.shape == (0,)
