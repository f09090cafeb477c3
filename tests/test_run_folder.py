"""Where a run writes, and that nothing is written where no place was chosen."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger

from callbacks import EvaluationResults, LossCurves, SeparationPicture, StepCheckpoints
from data_modules import FolderDataModule, SoundscapesDataModule
from sslam.run_folder import run_folder

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "max_steps": 1,
}


class Model(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        return (self.weight * batch["waveform"]).square().mean()

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With nothing in it."""
    folder = tmp_path / "working directory"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def scenes() -> SoundscapesDataModule:
    return SoundscapesDataModule(
        num_train_scenes=2, num_val_scenes=0, num_test_scenes=2, batch_size=2, clip_seconds=4.0, num_workers=0
    )


def test_run_folder__of_the_logger_or_the_trainer_but_not_the_working_directory(
    tmp_path: Path, working_directory: Path
) -> None:
    assert run_folder(pl.Trainer(logger=False, **QUIET)) is None
    assert run_folder(pl.Trainer(logger=DummyLogger(), **QUIET)) is None
    assert run_folder(pl.Trainer(logger=False, default_root_dir=tmp_path / "run", **QUIET)) == tmp_path / "run"
    logger = CSVLogger(tmp_path, name="a", version="b")
    assert run_folder(pl.Trainer(logger=logger, **QUIET)) == tmp_path / "a/b"


def test_data_modules__write_nothing_where_no_place_was_chosen(tmp_path: Path, working_directory: Path) -> None:
    pl.Trainer(logger=False, **QUIET).test(Model(), scenes(), verbose=False)
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "good.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 16_000), 16_000)
    (tmp_path / "audio" / "bad.wav").touch()
    data = FolderDataModule(str(tmp_path / "audio"), batch_size=2, clip_seconds=0.5, num_workers=0)
    with pytest.warns(UserWarning, match="Bad audio files so far: 1"):
        pl.Trainer(logger=False, **QUIET).fit(Model(), data)
    assert list(working_directory.iterdir()) == []
    place = tmp_path / "run"
    with pytest.warns(UserWarning, match="Bad audio files so far: 1"):
        pl.Trainer(logger=False, default_root_dir=place, **QUIET).fit(Model(), data)
    pl.Trainer(logger=False, default_root_dir=place, **QUIET).test(Model(), scenes(), verbose=False)
    assert {path.name for path in place.iterdir()} == {"bad_files.csv", "data.json"}


@pytest.mark.parametrize("callback", [EvaluationResults, LossCurves, SeparationPicture, StepCheckpoints])
def test_callbacks__ask_for_a_place(callback: type[pl.Callback], working_directory: Path) -> None:
    trainer = pl.Trainer(logger=False, callbacks=[callback()], **QUIET)
    use = trainer.test if callback is EvaluationResults else trainer.fit
    with pytest.raises(ValueError, match=f"{callback.__name__} writes into the run's folder, and the trainer has none"):
        use(Model(), datamodule=scenes())
    assert list(working_directory.iterdir()) == []
