"""Mixtures with their sources as folders and as a CSV file, made small, and what may be wrong with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from data_modules import MixturesDataModule
from tests.data_modules.official_layouts import write_mixtures

SMALL: dict[str, Any] = {"batch_size": 2, "num_workers": 0, "clip_seconds": 0.5}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_mixtures(tmp_path)


def batches(**arguments: Any) -> list[dict[str, torch.Tensor]]:
    data = MixturesDataModule(**(SMALL | {"test": None} | arguments))
    data.setup("fit")
    return list(data.val_dataloader())


def test_mixtures__folders_and_csv_files_give_the_same(folder: Path) -> None:
    by_folder = batches(train="tr", val="cv", root=str(folder))
    by_list = batches(train="tr.csv", val="cv.csv", root=str(folder))
    assert len(by_folder) == len(by_list) == 2
    for one, other in zip(by_folder, by_list, strict=True):
        assert one["stems"].shape == (len(one["waveform"]), 2, 8000)
        torch.testing.assert_close(one["stems"].sum(dim=1), one["waveform"], rtol=0, atol=2e-4)
        for key in ("waveform", "stems", "index"):
            assert torch.equal(one[key], other[key])
    assert "partner" not in by_folder[0]


def test_mixtures__are_cut_where_their_sources_are(folder: Path) -> None:
    data = MixturesDataModule("tr", root=str(folder), **(SMALL | {"clip_seconds": 0.2}))
    data.setup("fit")
    for batch in data.train_dataloader():
        torch.testing.assert_close(batch["stems"].sum(dim=1), batch["waveform"], rtol=0, atol=2e-4)


def test_mixtures__partners_come_from_a_column(folder: Path) -> None:
    (batch, _) = batches(train="tr.csv", val="noisy.csv", root=str(folder))
    noise, _ = soundfile.read(folder / "noise.wav", dtype="float32")
    np.testing.assert_array_equal(batch["partner"][0, : len(noise)], noise[:8000])
    assert not batch["partner"][0, len(noise) :].any()


def test_mixtures__the_test_is_the_validation_where_there_is_no_other(folder: Path) -> None:
    data = MixturesDataModule("tr", "cv", root=str(folder), **SMALL)
    data.setup("test")
    assert [len(batch["waveform"]) for batch in data.test_dataloader()] == [2, 1]


def test_mixtures__what_is_wrong_is_said(folder: Path) -> None:
    def refused(train: str, **arguments: Any) -> str:
        with pytest.raises(ValueError) as caught:
            MixturesDataModule(train, root=str(folder), **(SMALL | arguments)).setup("fit")
        return str(caught.value)

    assert "must hold 'mix_clean' and 's1'" in refused("tr", mixtures="mix_clean")
    assert "Mixtures not found" in refused("nothing.csv")
    (folder / "wrong.csv").write_text("mixture_path,other\na,b\n")
    assert "lacks the column(s) source_1_path" in refused("wrong.csv")
    (folder / "empty.csv").write_text("mixture_path,source_1_path\na,\n")
    assert "line 2: names no mixture or no source" in refused("empty.csv")
    (folder / "half.csv").write_text("mixture_path,source_1_path,partner_path\na,b,c\na,b,\n")
    assert "1 of 2 lines have no partner_path" in refused("half.csv")
    (folder / "tr" / "s2" / "0.wav").unlink()
    assert "1 sources of" in refused("tr")


def test_mixtures__a_source_of_another_rate_is_a_bad_file(folder: Path) -> None:
    soundfile.write(folder / "cv" / "s1" / "0.wav", np.zeros(4000, np.float32), 8000)
    with pytest.warns(UserWarning, match="a source has one channel, 16000 Hz"):
        found = batches(train="tr", val="cv", root=str(folder))
    assert sum(len(batch["waveform"]) for batch in found) == 2
