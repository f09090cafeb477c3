"""One clip through the states of a separator."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sslam.__main__ import main
from sslam.commands.processors import STATES
from sslam.separation.picture import processors_picture
from tests.data_modules.official_layouts import write_noise
from tests.separation.conftest import save_separator, tiny_separator


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    for seed, state in enumerate(STATES):
        save_separator(tmp_path / state.partition("=")[2], tiny_separator(seed=seed))
    write_noise(tmp_path / "clip.wav", 0.5)
    return tmp_path


def test_processors__draws_all_states(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = kept / "figures" / "2.png"
    assert main(["processors", str(kept / "clip.wav"), "--folder", str(kept), "--output", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"4 states: {picture}\n"


def test_processors_picture__has_a_row_for_each_state_in_one_scale() -> None:
    random = np.random.default_rng(0)
    channels = {
        name: torch.from_numpy(random.standard_normal((2, 8000)) * level) for name, level in (("N", 1), ("S$2", 0.1))
    }
    figure = processors_picture(torch.zeros(8000), channels, 16000)
    titles = [axis.get_title(loc="left") for axis in figure.axes if axis.images]
    assert titles == ["Mixture", "N, channel 1", "N, channel 2", r"S\$2, channel 1", r"S\$2, channel 2"]
    assert len({axis.images[0].get_clim() for axis in figure.axes if axis.images}) == 1
    figure.canvas.draw()


def test_processors__mistakes_are_said(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*options: str, clip: str = "clip.wav") -> str:
        assert main(["processors", str(kept / clip), "--folder", str(kept), *options]) == 2
        return capsys.readouterr().err

    output = ["--output", str(kept / "a.png")]
    assert "State 'N=nothing.ckpt': there is no file" in refused(*output, "--states", "N=nothing.ckpt")
    assert "State 'N': there is no file" in refused(*output, "--states", "N")
    assert "The clip cannot be used" in refused(*output, clip="nothing.wav")
    assert "must end with .png, .pdf or .svg" in refused("--output", str(kept / "a.txt"))
