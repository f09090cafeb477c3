"""Contrastive training with channels that were separated before."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from data_modules import FolderDataModule
from sslam.commands.separate import main as separate
from sslam.methods import SeparationContrastive
from sslam.transforms import RandomSource
from tests.methods.contrastive_method import CROP, make_method, make_trainer, scenes, write_clips, write_separator


def make_cache(clips_folder: Path, separators: Path, cache: Path) -> None:
    for name in ("step=00000000", "end"):
        arguments = [str(clips_folder), "--checkpoint", str(separators / f"{name}.ckpt"), "--cache", str(cache)]
        assert separate(arguments) == 0


class Recorder(pl.Callback):
    """Keeps the snippets that the encoder was given."""

    def __init__(self, method: SeparationContrastive) -> None:
        self.snippets: list[Tensor] = []
        embed = method.embed_snippets

        def recorded(snippets_BVC: Tensor, random: RandomSource) -> Tensor:
            self.snippets.append(snippets_BVC)
            return embed(snippets_BVC, random)

        method.embed_snippets = recorded  # type: ignore[method-assign]


def test_cache__gives_the_views_of_the_way_on_the_fly(separators: Path, tmp_path: Path) -> None:
    write_clips(tmp_path / "clips", rate=22_050)
    make_cache(tmp_path / "clips", separators, tmp_path / "cache")
    recorders = []
    for cache in (None, tmp_path / "cache"):
        method = make_method(separators, cache)
        recorders.append(Recorder(method))
        data = FolderDataModule(str(tmp_path / "clips"), batch_size=3, num_workers=0, clip_seconds=1.0)
        make_trainer(tmp_path, max_steps=4, callbacks=[recorders[-1]]).fit(method, data)
    fly, cached = (torch.stack(recorder.snippets) for recorder in recorders)
    assert fly.shape == (4, 3, 4, CROP)
    assert fly.abs().amax(-1).min() > 0
    torch.testing.assert_close(cached, fly, rtol=1e-4, atol=1e-6)


def fit_cached(tmp_path: Path, separators: Path, **data: Any) -> None:
    arguments: dict[str, Any] = {"batch_size": 2, "num_workers": 0, "clip_seconds": 1.0}
    folder = FolderDataModule(str(tmp_path / "clips"), **(arguments | data))
    make_trainer(tmp_path, max_steps=2).fit(make_method(separators, tmp_path / "cache"), folder)


def test_cache__that_is_stale_is_refused(separators: Path, tmp_path: Path) -> None:
    write_clips(tmp_path / "clips")
    with pytest.raises(ValueError, match="There is no cache of separated channels in .*sslam separate FOLDER"):
        make_method(separators, tmp_path / "cache")
    make_cache(tmp_path / "clips", separators, tmp_path / "cache")
    fit_cached(tmp_path, separators)
    with pytest.raises(ValueError, match=r"cuts those longer than 0\.8 s: .*has 1 s. Raise clip_seconds to that"):
        fit_cached(tmp_path, separators, clip_seconds=0.8)
    # Another clip list.
    write_clips(tmp_path / "more")
    for path in (tmp_path / "more").iterdir():
        path.rename(tmp_path / "clips" / f"more-{path.name}")
    with pytest.raises(ValueError, match=r"6 of 12 clips are not in the cache"):
        fit_cached(tmp_path, separators)
    make_cache(tmp_path / "clips", separators, tmp_path / "cache")  # goes on with the new ones
    fit_cached(tmp_path, separators)
    # A file that is gone, and one that is broken.
    (channels,) = (tmp_path / "cache" / "end").glob("more-0.npy")
    kept = channels.read_bytes()
    channels.unlink()
    with pytest.raises(ValueError, match=r"1 of 12 clips are not in the cache .*/end, the first is .*more-0.wav"):
        fit_cached(tmp_path, separators)
    for path in (tmp_path / "cache").rglob("*.npy"):
        path.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(ValueError, match=r"The channels in .*npy cannot be read .* Remove the file"):
        fit_cached(tmp_path, separators)
    for path in (tmp_path / "cache").rglob("*.npy"):
        path.unlink()
    make_cache(tmp_path / "clips", separators, tmp_path / "cache")
    # A clip that has changed.
    for path in (tmp_path / "clips").iterdir():
        soundfile.write(path, 0.1 * np.ones(16000), 16000)
    with pytest.raises(ValueError, match=r"\d\.wav has changed since "):
        fit_cached(tmp_path, separators)
    # Another separator under the same name.
    write_separator(separators / "end.ckpt", seed=7)
    with pytest.raises(ValueError, match="were made by another checkpoint"):
        fit_cached(tmp_path, separators)


def test_cache__follows_clips_that_have_moved(
    separators: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clips(tmp_path / "old")
    (tmp_path / "old" / "broken.wav").write_bytes(b"no audio")
    monkeypatch.chdir(tmp_path / "old")
    make_cache(Path(), separators, tmp_path / "cache")  # of the working folder, which training need not share
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").rename(tmp_path / "clips")
    with pytest.raises(ValueError, match="7 of 7 clips are not in the cache"):
        fit_cached(tmp_path, separators)
    make_cache(tmp_path / "clips", separators, tmp_path / "cache")
    fit_cached(tmp_path, separators)  # the broken one is skipped here and there


def test_cache__a_damaged_list_is_refused(separators: Path, tmp_path: Path) -> None:
    write_clips(tmp_path / "clips")
    make_cache(tmp_path / "clips", separators, tmp_path / "cache")
    (tmp_path / "cache" / "end" / "separation.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="separation.jsonl is damaged"):
        make_method(separators, tmp_path / "cache")


def test_cache__options_of_files_are_refused(
    separators: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clips(tmp_path / "clips")
    arguments = [str(tmp_path / "clips"), "--checkpoint", str(separators / "end.ckpt"), "--cache", str(tmp_path / "c")]
    for option in (["--pictures"], ["--window_seconds", "3"]):
        assert separate([*arguments, *option]) == 2
        assert "go with --output" in capsys.readouterr().err


def test_cache__needs_files(separators: Path, tmp_path: Path) -> None:
    write_clips(tmp_path / "clips")
    make_cache(tmp_path / "clips", separators, tmp_path / "cache")
    with pytest.raises(ValueError, match="The clips of SoundscapesDataModule are no files"):
        make_trainer(tmp_path, max_steps=1).fit(make_method(separators, tmp_path / "cache"), scenes())
