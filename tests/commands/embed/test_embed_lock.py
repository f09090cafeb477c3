"""Two embeds with one output, and weights that are of no use."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.commands.embed.conftest import embed


def test_embed__a_second_one_into_the_same_output_is_refused(
    recordings: Path, pre_trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "all.npz"
    parts = tmp_path / "all.npz.parts"
    parts.mkdir()
    held = "from sslam.folder_lock import lock_folder; from pathlib import Path; import sys; "
    held += f"lock = lock_folder(Path({str(parts)!r}), ''); print('locked', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    assert embed(recordings, pre_trained, output) == 2
    assert f"{parts} is in use by another process." in capsys.readouterr().err
    other.communicate()
    assert embed(recordings, pre_trained, output) == 0


def test_embed__nan_weights_are_refused(
    recordings: Path, pre_trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = torch.load(pre_trained, weights_only=True)
    next(value for value in values["state_dict"].values() if value.is_floating_point()).fill_(float("nan"))
    torch.save(values, tmp_path / "nan.ckpt")
    assert embed(recordings, tmp_path / "nan.ckpt", tmp_path / "all.npz") == 2
    assert "are NaN or infinite, so the file is of no use" in capsys.readouterr().err
