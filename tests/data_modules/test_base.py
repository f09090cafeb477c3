"""Clips, bad files and resuming in real runs of the Trainer."""

import csv
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from data_modules import ESC50DataModule, FolderDataModule, FUSSDataModule
from data_modules.audio_file_dataset import AudioFileDataset
from data_modules.bad_files import BadFileLog
from data_modules.base import AudioDataModule
from sslam.audio import FileProblem
from tests.data_modules import official_layouts

RATE = 16_000


class Recorder(pl.LightningModule):
    """Learns one number and notes which clips it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.trained: list[tuple[list[int], float]] = []
        self.validated: list[int] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        assert "skipped" not in batch
        assert bool(torch.isfinite(batch["waveform"]).all())
        self.trained.append((batch["index"].tolist(), float(batch["waveform"].double().sum())))
        return (self.weight * batch["waveform"]).square().mean()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.validated += batch["index"].tolist()

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> list[int]:
        return batch["index"].tolist()

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def make_trainer(folder: Path, **kwargs: Any) -> pl.Trainer:
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": folder,
    }
    return pl.Trainer(**(options | kwargs))


def read_bad_files(folder: Path) -> list[dict[str, str]]:
    with (folder / "bad_files.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_audio_file_dataset__pads_a_short_file_and_takes_the_beginning_of_a_long_one(
    tmp_path: Path, write_clips: Callable[..., list[Path]]
) -> None:
    path = str(write_clips(tmp_path, 1, seconds=1.0)[0])
    short = AudioFileDataset([path], 1.5, training=False)[0]
    assert short["waveform"].shape == (24_000,)
    assert short["num_samples"] == RATE
    assert not short["waveform"][RATE:].any()
    long = AudioFileDataset([path], 0.25, training=False)[0]
    torch.testing.assert_close(long["waveform"], short["waveform"][:4000])


def test_audio_file_dataset__training_parts_follow_seed_epoch_and_index(
    tmp_path: Path, write_clips: Callable[..., list[Path]]
) -> None:
    paths = [str(path) for path in write_clips(tmp_path, 2)]
    dataset = AudioFileDataset(paths, 0.25, training=True, seed=1)
    first = dataset[0, 0]["waveform"]
    assert torch.equal(first, dataset[0, 0]["waveform"])
    assert not torch.equal(first, dataset[0, 1]["waveform"])
    assert not torch.equal(first, AudioFileDataset(paths, 0.25, training=True, seed=2)[0, 0]["waveform"])
    whole = AudioFileDataset(paths, 1.0, training=False)[0]["waveform"]
    starts = [
        int((whole.unfold(0, 4000, 1) - dataset[0, epoch]["waveform"]).abs().sum(1).argmin()) for epoch in range(9)
    ]
    assert len(set(starts)) > 6
    assert max(starts) - min(starts) > 4000


def test_audio_file_dataset__without_random_crop_training_hears_the_beginnings(
    tmp_path: Path, write_clips: Callable[..., list[Path]]
) -> None:
    """Also of the file that replaces a bad one."""
    paths = [str(path) for path in write_clips(tmp_path, 2)]
    (tmp_path / "bad.wav").touch()
    dataset = AudioFileDataset([*paths, str(tmp_path / "bad.wav")], 0.25, training=True, random_crop=False)
    beginnings = [sample["waveform"] for sample in (AudioFileDataset(paths, 0.25, training=False)[i] for i in (0, 1))]
    for epoch in range(3):
        assert torch.equal(dataset[0, epoch]["waveform"], beginnings[0])
        replaced = dataset[2, epoch]
        assert torch.equal(replaced["waveform"], beginnings[replaced["index"]])


@pytest.mark.parametrize("random_crop", [False, True])
def test_random_crop__reaches_the_sets_of_recordings(random_crop: bool, tmp_path: Path) -> None:
    esc50 = official_layouts.write_esc50(tmp_path / "esc50", [(1, 0), (2, 10)], 0.1)
    fuss = official_layouts.write_fuss(tmp_path / "fuss")
    more: dict[str, Any] = {"random_crop": random_crop, "num_workers": 0, "batch_size": 1}
    for data in (
        ESC50DataModule(str(esc50), **more),
        FolderDataModule(str(esc50), **more),
        FUSSDataModule(str(fuss), **more),
    ):
        data.setup("fit")
        assert isinstance(data.train_set, AudioFileDataset)
        assert data.train_set.random_crop == random_crop


def test_audio_file_dataset__a_bad_file_is_replaced_in_training_and_dropped_in_evaluation(
    tmp_path: Path, write_clips: Callable[..., list[Path]]
) -> None:
    good = [str(path) for path in write_clips(tmp_path, 3)]
    (tmp_path / "bad.wav").touch()
    paths = [*good, str(tmp_path / "bad.wav")]
    problem = FileProblem(paths[3], "empty (0 bytes)", "skipped")
    sample = AudioFileDataset(paths, 0.25, training=True)[3, 0]
    assert sample["index"] < 3
    assert set(sample["skipped"]) == {problem}
    assert AudioFileDataset(paths, 0.25, training=False)[3] == {"skipped": [problem]}


@pytest.mark.parametrize("training", [True, False])
def test_require_readable__nothing_readable_is_a_clear_error(tmp_path: Path, training: bool) -> None:
    for number in range(3):
        (tmp_path / f"{number}.wav").touch()
    dataset = AudioFileDataset([str(path) for path in tmp_path.iterdir()], 1.0, training)
    with pytest.raises(ValueError, match=r"None of the 3 audio files that were tried can be used.*empty \(0 bytes\)"):
        dataset.require_readable()


def test_setup__a_folder_with_nothing_readable_stops_before_training(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("no audio")
    data = FolderDataModule(str(tmp_path), num_workers=0)
    with pytest.raises(
        ValueError, match=r"None of the 1 audio files.*a.wav' \(unreadable.*Point --data at readable wav"
    ):
        make_trainer(tmp_path, max_steps=1).fit(Recorder(), data)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_fit__bad_files_are_named_and_listed_and_never_fatal(
    tmp_path: Path,
    num_workers: int,
    write_clips: Callable[..., list[Path]],
    write_bad_files: Callable[[Path], dict[str, str]],
) -> None:
    write_clips(tmp_path / "audio", 6)
    expected = write_bad_files(tmp_path / "audio")
    data = FolderDataModule(
        str(tmp_path / "audio"), val_fraction=0.4, batch_size=2, num_workers=num_workers, clip_seconds=0.5
    )
    model = Recorder()
    with pytest.warns(UserWarning, match="Bad audio files so far") as caught:
        make_trainer(tmp_path / "run", max_epochs=3).fit(model, data)
    listed = {Path(row["path"]).name: row["action"] for row in read_bad_files(tmp_path / "run")}
    assert listed == expected
    assert len(read_bad_files(tmp_path / "run")) == len(expected)  # each once, though read in every epoch
    messages = [str(warning.message) for warning in caught if "Bad audio" in str(warning.message)]
    assert len(messages) <= 2
    assert "Bad audio files so far: 8 (6 skipped, 2 repaired)" in messages[-1]
    assert str(tmp_path / "run" / "bad_files.csv") in messages[-1]
    assert all(len(indices) == 2 for indices, _ in model.trained)


def test_fit__clips_are_the_same_for_any_number_of_workers(
    tmp_path: Path, write_clips: Callable[..., list[Path]]
) -> None:
    write_clips(tmp_path / "audio", 7)
    (tmp_path / "audio" / "bad.wav").touch()
    runs = []
    for num_workers in (0, 1, 2):
        data = FolderDataModule(str(tmp_path / "audio"), batch_size=2, num_workers=num_workers, clip_seconds=0.25)
        model = Recorder()
        with pytest.warns(UserWarning, match=r"bad.wav' \(skipped: empty"):
            make_trainer(tmp_path / f"run{num_workers}", max_epochs=2).fit(model, data)
        runs.append(model.trained)
    assert len(runs[0]) == 8
    assert runs[0] == runs[1] == runs[2]


# Stopped in the first epoch, at its end, in the second one; `max_steps` and `max_epochs` resume differently.
@pytest.mark.parametrize("limit", [{"max_steps": 11}, {"max_epochs": 3}, {"max_steps": 8, "limit_train_batches": 3}])
@pytest.mark.parametrize(("num_workers", "stop"), [(0, 3), (2, 3), (0, 4), (0, 6), (2, 6)])
def test_fit__a_resumed_run_sees_what_the_straight_run_sees(
    tmp_path: Path, write_clips: Callable[..., list[Path]], limit: dict[str, int], num_workers: int, stop: int
) -> None:
    write_clips(tmp_path / "audio", 9)

    def fit(model: Recorder, checkpoint: Path | None = None, **kwargs: Any) -> None:
        data = FolderDataModule(str(tmp_path / "audio"), batch_size=2, num_workers=num_workers, clip_seconds=0.25)
        trainer = make_trainer(tmp_path / "run", **(limit | kwargs))
        trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)

    straight = Recorder()
    saver = ModelCheckpoint(tmp_path / "ckpt", "{step}", every_n_train_steps=stop, save_top_k=-1)
    fit(straight, enable_checkpointing=True, callbacks=[saver])
    resumed = Recorder()
    fit(resumed, tmp_path / "ckpt" / f"step={stop}.ckpt")
    assert resumed.trained == straight.trained[stop:]
    assert torch.equal(resumed.weight, straight.weight)


def test_fit__overfit_batches_and_sanity_check_work(tmp_path: Path, write_clips: Callable[..., list[Path]]) -> None:
    write_clips(tmp_path / "audio", 12)
    data = FolderDataModule(str(tmp_path / "audio"), 0.4, batch_size=2, num_workers=0, clip_seconds=0.25)
    model = Recorder()
    make_trainer(tmp_path, max_epochs=2, overfit_batches=2).fit(model, data)
    assert [indices for indices, _ in model.trained] == [[0, 1], [2, 3]] * 2


def test_fit__without_augmentation_every_training_clip_comes_once_in_order_from_its_beginning(
    tmp_path: Path, write_clips: Callable[..., list[Path]]
) -> None:
    paths = write_clips(tmp_path / "audio", 7)
    (tmp_path / "audio" / "bad.wav").touch()
    data = FolderDataModule(
        str(tmp_path / "audio"), batch_size=3, num_workers=0, clip_seconds=0.25, training_augmentation=False
    )
    model = Recorder()
    with pytest.warns(UserWarning, match="1 skipped"):
        make_trainer(tmp_path, max_epochs=2).fit(model, data)
    assert [indices for indices, _ in model.trained] == [[1, 2], [3, 4, 5], [6, 7]] * 2  # "bad.wav" comes first
    beginnings = [AudioFileDataset([str(path)], 0.25, training=False)[0]["waveform"] for path in paths[:2]]
    assert model.trained[0][1] == float(torch.stack(beginnings).double().sum())


def test_audio_file_dataset__a_clip_with_a_start_is_read_from_there_also_in_training(
    tmp_path: Path, write_clips: Callable[..., list[Path]]
) -> None:
    path = str(write_clips(tmp_path, 1, seconds=1.0)[0])
    whole = AudioFileDataset([path], 1.0, training=False)[0]["waveform"]
    starts = np.array([0.5, np.nan], np.float32)
    for training in (True, False):
        dataset = AudioFileDataset([path, path], 0.25, training, start_seconds=starts)
        torch.testing.assert_close(dataset[0, 3]["waveform"], whole[8000:12_000])
    torch.testing.assert_close(dataset[1]["waveform"], whole[:4000])


def test_validate_and_predict__every_clip_once(tmp_path: Path, write_clips: Callable[..., list[Path]]) -> None:
    write_clips(tmp_path / "audio", 11)
    (tmp_path / "audio" / "bad.wav").touch()
    data = FolderDataModule(str(tmp_path / "audio"), 0.5, batch_size=2, num_workers=0, clip_seconds=0.25)
    with pytest.warns(UserWarning, match="1 skipped"):
        predicted = make_trainer(tmp_path).predict(Recorder(), data)
    assert predicted is not None
    assert [index for batch in predicted for index in batch] == list(range(1, 12))  # "bad.wav" comes first
    model = Recorder()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make_trainer(tmp_path).validate(model, data, verbose=False)
    assert len(set(model.validated)) == len(model.validated) > 0


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"clip_seconds": 0.01}, "clip_seconds must lie between 0.025 .*, got 0.01"),
        ({"clip_seconds": 121}, "clip_seconds must lie between .* 120 s .*, got 121"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_audio_data_module__wrong_numbers_are_refused(argument: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FolderDataModule("audio", **argument)


def test_audio_data_module__a_set_that_is_not_there_is_a_clear_error(
    tmp_path: Path, write_clips: Callable[..., list[Path]]
) -> None:
    write_clips(tmp_path, 2)
    data = FolderDataModule(str(tmp_path), num_workers=0)
    with pytest.raises(ValueError, match="FolderDataModule has no test data"):
        make_trainer(tmp_path).test(Recorder(), data)


def test_bad_file_log__thousands_of_files_give_few_warnings_and_a_resumed_run_repeats_no_line(tmp_path: Path) -> None:
    problems = [FileProblem(f"{number}.wav", "empty (0 bytes)", "skipped") for number in range(2000)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        log = BadFileLog(tmp_path / "bad_files.csv")
        for problem in problems:
            log.add([problem])
        log.add(problems[:5])
        log.summarise()
        BadFileLog(tmp_path / "bad_files.csv").add(problems[:7])
    assert [str(warning.message).split(" (")[0] for warning in caught] == [
        f"Bad audio files so far: {count}" for count in (1, 10, 100, 1000, 2000, 7)
    ]
    assert "'0.wav' (skipped: empty (0 bytes)); " in str(caught[4].message)
    assert "and 1997 more" in str(caught[4].message)
    assert len(read_bad_files(tmp_path)) == 2000


def test_bad_file_log__a_name_of_any_bytes_is_listed_once_also_by_a_resumed_run(tmp_path: Path) -> None:
    problem = FileProblem(os.fsdecode(b"caf\xe9.wav"), "silent", "skipped")
    for _ in range(2):
        with pytest.warns(UserWarning, match="Bad audio files so far: 1"):
            BadFileLog(tmp_path / "bad_files.csv").add([problem])
    (listed,) = read_bad_files(tmp_path)
    assert listed["path"] == r"caf\udce9.wav"


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("cuda", True)])
def test_loaders__pin_memory_only_where_the_run_is_on_cuda(
    tmp_path: Path,
    write_clips: Callable[..., list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    pinned: bool,
) -> None:
    write_clips(tmp_path, 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    data = FolderDataModule(str(tmp_path), batch_size=2, num_workers=0)
    data.setup("fit")
    assert not data.train_dataloader().pin_memory
    strategy = SimpleNamespace(root_device=torch.device(device))
    trainer = SimpleNamespace(world_size=1, global_rank=0, num_devices=1, strategy=strategy)
    monkeypatch.setattr(data, "trainer", trainer)
    assert data.train_dataloader().pin_memory is pinned


class _Rank1Note(pl.Callback):
    """Writes what each rank was given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Recorder)
        torch.save([indices for indices, _ in pl_module.trained], self.folder / f"rank{trainer.global_rank}.pt")


@pytest.mark.distributed
@pytest.mark.parametrize("use_distributed_sampler", [True, False])
def test_fit__two_processes_share_the_clips_and_resume_exactly(
    tmp_path: Path, write_clips: Callable[..., list[Path]], use_distributed_sampler: bool
) -> None:
    write_clips(tmp_path / "audio", 21)
    (tmp_path / "audio" / "bad.wav").touch()

    def fit(name: str, steps: int, checkpoint: Path | None = None) -> list[list[list[int]]]:
        folder = tmp_path / name
        folder.mkdir()
        data = FolderDataModule(str(tmp_path / "audio"), batch_size=2, num_workers=1, clip_seconds=0.25)
        trainer = make_trainer(
            folder,
            max_steps=steps,
            devices=2,
            strategy="ddp_fork",
            use_distributed_sampler=use_distributed_sampler,
            enable_checkpointing=True,
            callbacks=[ModelCheckpoint(folder, "{step}", every_n_train_steps=3, save_top_k=-1), _Rank1Note(folder)],
        )
        trainer.fit(Recorder(), data, ckpt_path=checkpoint, weights_only=True)
        return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]

    straight = fit("straight", 8)
    resumed = fit("resumed", 8, tmp_path / "straight" / "step=3.ckpt")
    assert resumed == [rank[3:] for rank in straight]
    first_epoch = [index for rank in straight for batch in rank[:5] for index in batch]
    assert len(first_epoch) == 20
    assert len(set(first_epoch)) >= 19  # the bad file was replaced by one that may occur a second time
    assert list((tmp_path / "straight").glob("bad_files-rank?.csv"))


class _SumsAtTheEnd(Recorder):
    """Counts the validation clips of all ranks, with one collective call per validation."""

    def on_validation_epoch_end(self) -> None:
        total = self.trainer.strategy.reduce(torch.tensor(len(self.validated)), reduce_op="sum")
        (Path(self.trainer.default_root_dir) / f"total{self.global_rank}").write_text(str(int(total)))


@pytest.mark.distributed
@pytest.mark.parametrize(("num_clips", "bad"), [(1, None), (4, (1, 3))], ids=["no clips", "only bad files"])
def test_validate__a_rank_without_a_clip_takes_part_in_the_end_of_the_epoch(
    tmp_path: Path, write_clips: Callable[..., list[Path]], num_clips: int, bad: tuple[int, ...] | None
) -> None:
    paths = write_clips(tmp_path / "audio", num_clips)
    for number in bad or ():  # rank 1 has every second clip
        paths[number].write_bytes(b"")
    data = _Held(paths, batch_size=1, num_workers=0, clip_seconds=0.25)
    trainer = make_trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0, devices=2, strategy="ddp_fork")
    trainer.fit(_SumsAtTheEnd(), data)
    expected = str(num_clips - len(bad or ()))
    assert [(tmp_path / f"total{rank}").read_text() for rank in range(2)] == [expected, expected]


class _Held(AudioDataModule):
    """Validates on given files and trains on the first of them, over and over."""

    def __init__(self, paths: list[Path], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.paths = [str(path) for path in paths]

    def make_sets(self, stage: str) -> None:
        self.train_set = AudioFileDataset(self.paths[:1] * 4, self.clip_seconds, training=True)
        self.val_set = AudioFileDataset(self.paths, self.clip_seconds, training=False)
