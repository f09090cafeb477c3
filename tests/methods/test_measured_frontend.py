"""`statistics: auto` of a front end: measured once on the training clips, kept in checkpoint and run folder."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml

from sslam.frontends import KaldiFbank
from sslam.frontends.statistics import FeatureStatistics, recording_statistics
from sslam.losses import CrossEntropy
from sslam.methods import FineTune, measured_frontend
from sslam.networks import AudioViT
from sslam.transforms import Augmentation
from tests.methods.conftest import Tones

NUM_CLIPS = 12


def method(frontend: KaldiFbank) -> FineTune:
    torch.manual_seed(0)
    encoder = AudioViT(width=32, depth=2, num_heads=2)
    return FineTune(Augmentation(), encoder=encoder, frontend=frontend, loss=CrossEntropy(), whole_clips=True)


def auto() -> FineTune:
    return method(KaldiFbank(128, statistics="auto"))


def data() -> Tones:
    return Tones(num_train=NUM_CLIPS, training_augmentation=True)


def expected(step: int = 1) -> FeatureStatistics:
    tones = data()
    tones.setup("fit")
    waveforms = [tones.train_set[index]["waveform"] for index in range(0, NUM_CLIPS, step)]  # type: ignore[index]
    return sum((recording_statistics(KaldiFbank(), waveform) for waveform in waveforms), FeatureStatistics())


def fitted(module: FineTune, trainer: type[pl.Trainer], steps: int = 2, **more: Any) -> pl.Trainer:
    fitter = trainer(max_steps=steps, max_epochs=-1)
    torch.manual_seed(1)
    fitter.fit(module, datamodule=data(), **more)
    return fitter


def weights(module: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def test_auto__trains_as_with_the_numbers_of_all_training_clips(quiet_trainer: type[pl.Trainer]) -> None:
    """Bit for bit: measuring draws nothing from the run's generators."""
    measured, given = auto(), method(KaldiFbank(128, mean=expected().mean, std=expected().std))
    for module in (measured, given):
        fitted(module, quiet_trainer)
    assert measured.frontend.architecture() == given.frontend.architecture()
    assert all(map(torch.equal, weights(measured), weights(given)))


def test_auto__of_many_clips_takes_some_evenly_spread(
    quiet_trainer: type[pl.Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured_frontend, "MOST_CLIPS", 5)
    module = auto()
    fitted(module, quiet_trainer)
    assert (module.frontend.mean, module.frontend.std) == (expected(3).mean, expected(3).std)


def test_auto__a_run_that_goes_on_takes_the_checkpoints(
    quiet_trainer: type[pl.Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "half.ckpt"
    fitted(auto(), quiet_trainer, 2).save_checkpoint(file)
    monkeypatch.setattr("sslam.methods.method.measured", lambda *_: pytest.fail("measured again"))
    resumed, tested = auto(), auto()
    fitted(resumed, quiet_trainer, 4, ckpt_path=str(file))
    quiet_trainer().test(tested, datamodule=data(), ckpt_path=str(file), verbose=False)
    for module in (resumed, tested):
        assert (module.frontend.mean, module.frontend.std) == (expected().mean, expected().std)
        assert "statistics" not in module.frontend.architecture()


def test_auto__stands_in_the_run_folder_as_yaml(quiet_trainer: type[pl.Trainer], tmp_path: Path) -> None:
    trainer = quiet_trainer(max_steps=1, max_epochs=-1, default_root_dir=str(tmp_path))
    trainer.fit(auto(), datamodule=data())
    written = yaml.safe_load((tmp_path / "frontend.yaml").read_text())["model"]["init_args"]["frontend"]["init_args"]
    assert written == {"mean": expected().mean, "std": expected().std, "statistics": None}


def test_auto__without_clips_or_training_is_refused(quiet_trainer: type[pl.Trainer]) -> None:
    class NoClips(Tones):
        def make_sets(self, stage: str) -> None:
            super().make_sets(stage)
            self.train_set = None

    with pytest.raises(ValueError, match="statistics auto are measured on the training clips .*NoClips has none. Give"):
        quiet_trainer(max_steps=1).fit(auto(), datamodule=NoClips())
    with pytest.raises(ValueError, match="model.frontend: statistics auto are measured in training. Give"):
        quiet_trainer().test(auto(), datamodule=data(), verbose=False)
