"""What labelled data modules share: finding listed files, counts, weights, and what is said before training."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from data_modules import ESC50DataModule, listing
from data_modules.labelled import balancing_weights
from data_modules.listing import count_unreadable, find_listed, label_matrix
from data_modules.metadata import class_column
from tests.data_modules.official_layouts import write_esc50


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """ESC-50 with eight dogs and two hens in fold 1, and a dog and a hen in fold 2."""
    return write_esc50(tmp_path, [*[(1, 0)] * 8, *[(1, 6)] * 2, (2, 0), (2, 6)])


def test_label_matrix__is_multi_hot_and_counts_a_class_once() -> None:
    labels = label_matrix(iter([[2, 0, 2], [], [3]]), 4)
    assert labels.toarray().tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_find_listed__finds_paths_and_bare_names_anywhere(tmp_path: Path) -> None:
    for name in ("a.wav", "deep/a.wav", "deep/er/b.flac", "c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    paths, is_found = find_listed(tmp_path, ["b.flac", "deep/a.wav", "a.wav", "c.txt", "d.wav", "er/b.flac"])
    assert is_found.tolist() == [True, True, True, False, False, False]
    assert paths[:3] == [str(tmp_path / name) for name in ("deep/er/b.flac", "deep/a.wav", "a.wav")]
    assert paths[4] == str(tmp_path / "d.wav")


def test_find_listed__a_bare_name_in_two_folders_is_an_error_unless_one_is_at_the_root(tmp_path: Path) -> None:
    for folder in ("Train", "eval"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.wav").touch()
    with pytest.raises(ValueError, match=r"'a.wav' is below '.*' more than once: 'Train/a.wav' and 'eval/a.wav'"):
        find_listed(tmp_path, ["a.wav"])
    (tmp_path / "a.wav").touch()
    assert find_listed(tmp_path, ["a.wav"])[0] == [str(tmp_path / "a.wav")]


def test_count_unreadable__looks_at_headers_and_at_a_sample_of_many(
    tmp_path: Path,
    write_clips: Callable[..., list[Path]],
    write_bad_files: Callable[[Path], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = [str(path) for path in write_clips(tmp_path, 4)]
    bad = [str(tmp_path / name) for name in write_bad_files(tmp_path) if name in ("unreadable.mp3", "empty.flac")]
    assert count_unreadable([*good, *good, *bad]) == (6, 2)
    monkeypatch.setattr(listing, "MAX_HEADERS", 3)
    checked, unreadable = count_unreadable([*good, *bad])
    assert checked == 3
    assert 0 <= unreadable <= 2


def test_class_column__an_unknown_label_is_named_with_its_line_and_a_guess(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"'x.csv', line 7: unknown label 'dgo', none of the 2 classes. Did you mean 'dog'\? Correct"
    ):
        class_column("dgo", {"cat": 0, "dog": 1}, Path("x.csv"), 7)


def test_balancing_weights__sum_over_classes_of_one_over_their_clips() -> None:
    labels = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]])
    expected = [
        sum(1000 / (labels[:, column].sum() + 0.01) for column in range(3) if labels[row, column]) for row in range(4)
    ]
    np.testing.assert_allclose(balancing_weights(csr_array(labels.astype(np.float32))), expected, rtol=1e-12)


def test_balanced_sampling__rare_classes_come_as_often_as_common_ones(data_folder: Path) -> None:
    data = ESC50DataModule(
        str(data_folder), fold=2, batch_size=2, num_workers=0, balanced_sampling=True, draws_per_epoch=2
    )
    data.setup("fit")
    loader = data.train_dataloader()
    hens = 0.0
    for epoch in range(200):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        (batch,) = loader
        hens += float(batch["labels"][:, 6].mean())
    # Of 8 dogs and 2 hens: half at the first draw; then 1 of 3 after a hen (half a class is left), 8 of 15 after a dog.
    assert hens / 200 == pytest.approx((1 / 2 + (1 / 3 + 8 / 15) / 2) / 2, abs=0.08)


def test_balanced_sampling__with_replacement_has_as_many_clips_and_equal_classes(data_folder: Path) -> None:
    options: dict[str, Any] = {"balanced_sampling": True, "draw_with_replacement": True}
    data = ESC50DataModule(str(data_folder), fold=2, batch_size=2, num_workers=0, **options)
    data.setup("fit")
    loader = data.train_dataloader()
    hens = np.zeros(100)
    for epoch in range(100):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        labels = np.concatenate([batch["labels"].numpy() for batch in loader])
        assert len(labels) == 10
        hens[epoch] = labels[:, 6].mean()
    assert hens.mean() == pytest.approx(1 / 2, abs=4 * np.sqrt(0.25 / 1000))  # of 8 dogs and 2 hens


def test_balanced_sampling__needs_fewer_draws_than_clips(data_folder: Path) -> None:
    with pytest.raises(
        ValueError,
        match="balanced_sampling needs the number of clips .* --data.draws_per_epoch.* --data.draw_with_replacement",
    ):
        ESC50DataModule(str(data_folder), balanced_sampling=True)
    data = ESC50DataModule(
        str(data_folder), fold=2, batch_size=2, num_workers=0, balanced_sampling=True, draws_per_epoch=11
    )
    data.setup("fit")
    with pytest.raises(ValueError, match="clips to draw from, 10, .*got 11. Lower --data.draws_per_epoch"):
        data.train_dataloader()


@pytest.mark.parametrize("fraction", [0, 1.1])
def test_labelled__a_wrong_share_of_missing_clips_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"max_missing_fraction must be greater than 0 .* got {fraction}"):
        ESC50DataModule(max_missing_fraction=fraction)


class _Model(pl.LightningModule):
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        assert batch["labels"].shape[1] == 50

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> None:
        pass


def test_setup__counts_are_said_before_training_and_written_into_the_runs_folder(
    data_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (data_folder / "audio" / "clip00.wav").unlink()
    (data_folder / "audio" / "clip01.wav").write_text("no audio")
    data = ESC50DataModule(str(data_folder), fold=2, batch_size=2, num_workers=0, clip_seconds=0.1)
    run = tmp_path / "run"
    trainer = pl.Trainer(
        max_epochs=1,
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        default_root_dir=run,
        enable_progress_bar=False,
        enable_checkpointing=False,
    )
    said = (
        "ESC-50 fold 2, training: 10 clips listed, 9 found, 1 missing; 1 of 9 files checked unreadable; 2 of 50 "
        "classes have clips."
    )
    with (
        caplog.at_level(logging.INFO),
        pytest.warns(UserWarning, match="ESC-50 fold 2 is incomplete: 9 of the 10 training clips are there"),
    ):
        trainer.fit(_Model(), data)
    assert said in caplog.text
    trainer.test(_Model(), data, verbose=False)
    written = json.loads((run / "data.json").read_text())
    assert (written["title"], written["fold"]) == ("ESC-50", 2)
    assert written["class_names"][6] == "hen"
    assert set(written["splits"]) == {"training", "validation", "test"}
    assert written["splits"]["training"] == {
        "listed": 10,
        "found": 9,
        "missing": 1,
        "unreadable": 1,
        "checked": 9,
        "num_classes": 50,
        "num_classes_with_clips": 2,
    }


def test_audio_file_dataset__sparse_labels_become_dense_rows(data_folder: Path) -> None:
    data = ESC50DataModule(str(data_folder), fold=2, num_workers=0, batch_size=2)
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    assert batch["labels"].dtype == torch.float32
    assert torch.equal(batch["labels"], torch.eye(50)[[0, 6]])
