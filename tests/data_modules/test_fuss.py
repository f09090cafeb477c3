"""FUSS, made small: its layout, stems that belong to their mixture, and what may be wrong with it."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from data_modules import FUSSDataModule
from data_modules.fuss import FUSSDataset, read_example_list
from tests.data_modules.official_layouts import RATE, write_fuss

SMALL: dict[str, Any] = {"batch_size": 2, "num_workers": 0, "clip_seconds": 1.0}
ROUNDING = 5 * 0.5 / 2**15  # of a mixture and four sources with 16 bits


@pytest.fixture
def fuss(tmp_path: Path) -> Path:
    return write_fuss(tmp_path)


def files_of(dataset: object) -> list[str]:
    assert isinstance(dataset, FUSSDataset)
    return ["/".join(Path(dataset.path(index)).parts[-3:]) for index in range(len(dataset))]


def assert_stems_belong(batch: dict[str, Tensor]) -> None:
    torch.testing.assert_close(batch["stems"].sum(1), batch["waveform"], rtol=0, atol=ROUNDING)
    for index, stems in zip(batch["index"].tolist(), batch["stems"], strict=True):
        assert stems[0].any()
        assert not stems[1 + index :].any()  # example k has k foregrounds


def test_fuss__reads_the_official_layout_and_splits(fuss: Path) -> None:
    data = FUSSDataModule(str(fuss), **SMALL)
    assert (data.title, data.class_names) == ("FUSS", ())
    data.setup("fit")
    data.setup("test")
    assert files_of(data.train_set) == [f"ssdata/train/example{number:05}.wav" for number in range(4)]
    assert files_of(data.val_set) == [f"ssdata/validation/example{number:05}.wav" for number in range(2)]
    assert files_of(data.test_set) == files_of(data.predict_set)
    assert files_of(data.test_set) == [f"ssdata/eval/example{number:05}.wav" for number in range(2)]


def test_fuss__stems_sum_to_the_mixture_and_absent_sources_are_zero(fuss: Path) -> None:
    data = FUSSDataModule(str(fuss), **(SMALL | {"clip_seconds": 1.5}))
    data.setup("validate")
    (batch,) = data.val_dataloader()
    assert {key: tuple(value.shape) for key, value in batch.items()} == {
        "waveform": (2, 24_000),
        "num_samples": (2,),
        "index": (2,),
        "stems": (2, 4, 24_000),
    }
    assert batch["waveform"].dtype == batch["stems"].dtype == torch.float32
    assert batch["num_samples"].tolist() == [RATE, RATE]
    assert not batch["waveform"][:, RATE:].any()
    assert not batch["stems"][..., RATE:].any()
    assert_stems_belong(batch)
    name = fuss / "ssdata" / "validation" / "example00001_sources"
    for row, kind in enumerate(("background0", "foreground0")):
        expected, _ = soundfile.read(name / f"{kind}_sound.wav", dtype="float32")
        np.testing.assert_array_equal(batch["stems"][1, row, :RATE], expected)


def test_fuss__stems_are_cut_where_the_mixture_is(fuss: Path) -> None:
    data = FUSSDataModule(str(fuss), return_stems=True, **(SMALL | {"clip_seconds": 0.25}))
    data.setup("fit")
    train_set = data.train_set
    assert isinstance(train_set, FUSSDataset)
    silent_foregrounds = 0
    for epoch in range(10):
        samples = [train_set[index, epoch] for index in range(4)]
        batch = {
            key: torch.stack([torch.as_tensor(sample[key]) for sample in samples])
            for key in samples[0]
            if key != "skipped"
        }
        assert batch["stems"].shape == (4, 4, 4000)
        assert not any(sample["skipped"] for sample in samples)
        assert_stems_belong(batch)
        silent_foregrounds += sum(not batch["stems"][index, 1].any() for index in range(1, 4))
    assert not torch.equal(train_set[0, 0]["waveform"], train_set[0, 1]["waveform"])
    assert 0 < silent_foregrounds < 30  # a source may be silent for a while, and is none the worse


@pytest.mark.parametrize(
    ("return_stems", "in_training", "in_validation"), [(None, False, True), (True, True, True), (False, False, False)]
)
def test_fuss__stems_are_returned_where_they_are_wanted(
    fuss: Path, return_stems: bool | None, in_training: bool, in_validation: bool
) -> None:
    data = FUSSDataModule(str(fuss), return_stems=return_stems, **SMALL)
    data.setup("fit")
    (validation,) = data.val_dataloader()
    assert [("stems" in batch) for batch in data.train_dataloader()] == [in_training] * 2
    assert ("stems" in validation) is in_validation
    data.training_augmentation = False
    assert [("stems" in batch) for batch in data.train_dataloader()] == [in_training] * 2


def test_fuss__training_without_stems_opens_no_source(fuss: Path) -> None:
    shutil.rmtree(fuss / "ssdata" / "train" / "example00001_sources")
    data = FUSSDataModule(str(fuss), **SMALL)
    data.setup("fit")
    assert sorted(index for batch in data.train_dataloader() for index in batch["index"].tolist()) == [0, 1, 2, 3]


def test_fuss__root_may_be_the_folder_above_or_the_data_itself_or_a_renamed_one(fuss: Path) -> None:
    write_fuss(fuss, reverb=True)
    (fuss / "renamed").symlink_to(fuss / "ssdata_reverb", target_is_directory=True)
    for root, reverb, expected in (
        (fuss, False, "ssdata"),
        (fuss / "ssdata", False, "ssdata"),
        (fuss, True, "ssdata_reverb"),
        (fuss / "ssdata_reverb", True, "ssdata_reverb"),
        (fuss / "renamed", True, "renamed"),
    ):
        data = FUSSDataModule(str(root), reverb, **SMALL)
        data.setup("test")
        assert files_of(data.test_set)[0] == f"{expected}/eval/example00000.wav"
    assert FUSSDataModule(reverb=True).title == "FUSS reverberant"


def test_fuss__without_lists_the_folders_tell_what_belongs_together(fuss: Path) -> None:
    def batches() -> list[dict[str, Tensor]]:
        data = FUSSDataModule(str(fuss), return_stems=True, training_augmentation=False, **SMALL)
        data.setup("fit")
        return list(data.train_dataloader())

    with_lists = batches()
    for path in (fuss / "ssdata").glob("*_example_list.txt"):
        path.unlink()
    without_lists = batches()
    assert len(with_lists) == len(without_lists) == 2
    for expected, batch in zip(with_lists, without_lists, strict=True):
        assert all(torch.equal(batch[key], expected[key]) for key in expected)


def test_fuss__the_list_decides_which_mixtures_there_are(fuss: Path) -> None:
    path = fuss / "ssdata" / "train_example_list.txt"
    path.write_text("\n".join(path.read_text().splitlines()[1:3]) + "\n\n")
    data = FUSSDataModule(str(fuss), **SMALL)
    data.setup("fit")
    assert files_of(data.train_set) == ["ssdata/train/example00001.wav", "ssdata/train/example00002.wav"]


@pytest.mark.parametrize("line", ["train/a.wav", "train/a.wav" + "\tb.wav" * 5, "train/a.wav b.wav"])
def test_read_example_list__a_wrong_line_is_a_clear_error(tmp_path: Path, line: str) -> None:
    path = tmp_path / "train_example_list.txt"
    path.write_text(f"train/x.wav\ttrain/y.wav\n{line}\n")
    with pytest.raises(ValueError, match="list.txt', line 2: expected a mixture and 1 to 4 sources, separated by tabs"):
        read_example_list(path)


def test_fuss__roots_that_are_wrong_are_clear_errors(fuss: Path) -> None:
    def message(root: Path, reverb: bool = False) -> str:
        with pytest.raises(ValueError, match="FUSS folder") as caught:
            FUSSDataModule(str(root), reverb).setup("fit")
        return str(caught.value)

    assert message(fuss / "nowhere") == (
        f"FUSS folder '{fuss / 'nowhere'}' does not exist. Pass --data.root with the path of an existing folder."
    )
    remedy = "Extract FUSS_ssdata.tar.gz there, or pass --data.root with the folder that holds 'ssdata'"
    (fuss / "empty").mkdir()
    assert message(fuss / "empty") == f"FUSS folder '{fuss / 'empty'}' neither holds 'ssdata' nor is it. {remedy}."
    remedy = "Extract FUSS_ssdata_reverb.tar.gz there, or pass --data.root with the folder that holds 'ssdata_reverb'"
    for root in (fuss, fuss / "ssdata"):
        assert message(root, reverb=True) == (
            f"FUSS folder '{root}' neither holds 'ssdata_reverb' nor is it. {remedy}, or --data.reverb false to use "
            "'ssdata'."
        )
    (fuss / "ssdata").rename(fuss / "ssdata_reverb")
    assert message(fuss / "ssdata_reverb").endswith(", or --data.reverb true to use 'ssdata_reverb'.")
    shutil.rmtree(fuss / "ssdata_reverb" / "validation")
    assert message(fuss, reverb=True).startswith(f"FUSS folder '{fuss}/ssdata_reverb/validation' does not exist")


def test_fuss__missing_files_are_clear_errors(fuss: Path) -> None:
    data = FUSSDataModule(str(fuss), **SMALL)
    validation = fuss / "ssdata" / "validation"
    (validation / "example00001_sources" / "foreground0_sound.wav").unlink()
    with pytest.raises(
        ValueError, match="FUSS: 1 of the 5 files that '.*validation_example_list.txt' lists are mis"
    ) as e:
        data.setup("validate")
    assert f"first '{validation}/example00001_sources/foreground0_sound.wav'. Extract FUSS_ssdata.tar.gz" in str(
        e.value
    )
    (validation / "example00000.wav").unlink()
    with pytest.raises(ValueError, match="FUSS: 2 of the 5 files .* first '.*/example00000.wav'"):
        data.setup("validate")
    (fuss / "ssdata" / "validation_example_list.txt").unlink()
    shutil.rmtree(validation / "example00001_sources")
    with pytest.raises(
        ValueError,
        match="1 of the 1 mixtures in '.*validation' have not 1 to 4 sources, first 0 in '.*/example00001_sources'. "
        "Extract FUSS_ssdata.tar.gz again, or pass --data.return_stems false",
    ):
        data.setup("validate")
    (validation / "example00001.wav").unlink()
    with pytest.raises(ValueError, match="FUSS: '.*validation' has no mixture. Extract FUSS_ssdata.tar.gz again"):
        data.setup("validate")


def _write(path: Path, samples: np.ndarray, rate: int = RATE) -> None:
    soundfile.write(path, samples, rate, subtype="FLOAT" if np.isnan(samples).any() else "PCM_16")


@pytest.mark.parametrize(
    ("samples", "rate", "reason"),
    [
        (None, RATE, "unreadable"),
        (np.ones(RATE - 1) / 9, RATE, "this one has 1, 16000 Hz and 15999"),
        (np.ones((RATE, 2)) / 9, RATE, "this one has 2, 16000 Hz and 16000"),
        (np.ones(RATE) / 9, 8000, "this one has 1, 8000 Hz and 16000"),
        (np.full(RATE, np.nan), RATE, "it holds NaN or infinite samples"),
    ],
)
def test_fuss__a_mixture_with_a_bad_source_is_skipped_and_counted(
    fuss: Path, samples: np.ndarray | None, rate: int, reason: str
) -> None:
    source = fuss / "ssdata" / "validation" / "example00001_sources" / "foreground0_sound.wav"
    if samples is None:
        source.write_bytes(b"no audio")
    else:
        _write(source, samples, rate)
    data = FUSSDataModule(str(fuss), **SMALL)
    data.setup("validate")
    with pytest.warns(UserWarning, match="Bad audio files so far: 1 "):
        indices = [batch["index"].tolist() for batch in data.val_dataloader()]
    assert indices == [[0]]
    (problem,) = data.bad_files.problems.values()
    assert problem.path == str(source)
    assert reason in problem.reason
    assert problem.action == "skipped"


def test_fuss__a_silent_source_is_a_source(fuss: Path) -> None:
    source = fuss / "ssdata" / "validation" / "example00001_sources" / "foreground0_sound.wav"
    _write(source, np.zeros(RATE))
    data = FUSSDataModule(str(fuss), **SMALL)
    data.setup("validate")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (batch,) = data.val_dataloader()
    assert batch["index"].tolist() == [0, 1]
    assert not batch["stems"][1, 1].any()


def test_fuss__a_bad_mixture_is_replaced_in_training(fuss: Path) -> None:
    (fuss / "ssdata" / "train" / "example00002.wav").write_bytes(b"")
    data = FUSSDataModule(str(fuss), return_stems=True, **SMALL)
    data.setup("fit")
    with pytest.warns(UserWarning, match=r"example00002.wav' \(skipped: empty \(0 bytes\)\)"):
        batches = list(data.train_dataloader())
    assert [len(batch["index"]) for batch in batches] == [2, 2]
    for batch in batches:
        assert_stems_belong(batch)
