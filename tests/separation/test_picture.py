"""The picture of a separation: what is where, and in which colors."""

from typing import Any

import numpy as np
import pytest
import torch

from sslam.separation.picture import separation_picture, spectrogram
from tests.separation.conftest import RATE, noise, tone


def test_spectrogram__a_sine_is_at_its_frequency_and_level() -> None:
    for rate in (8_000, 16_000, 48_000):
        shown_FL = spectrogram(0.1 * tone(1000, 2, rate), rate)
        middle_F = shown_FL[:, shown_FL.shape[1] // 2]
        assert middle_F.argmax() / (len(middle_F) - 1) * rate / 2 == pytest.approx(1000, abs=16)
        assert middle_F.max() == pytest.approx(-20, abs=0.2)


def test_spectrogram__of_any_length() -> None:
    assert spectrogram(noise(0.001)[0], RATE).shape[1] >= 1
    long_FL = spectrogram(noise(60)[0], RATE)
    assert long_FL.shape[1] == 1500
    assert long_FL.mean() == pytest.approx(spectrogram(noise(10)[0], RATE).mean(), abs=3)
    assert (spectrogram(np.zeros(1000, np.float32), RATE) == -120).all()


def test_separation_picture__one_scale_of_colors_for_all() -> None:
    low, high = 0.5 * tone(500, 1), 0.01 * tone(3000, 1)
    figure = separation_picture(low + high, np.stack([low, high]), RATE, "a $title$ {x}")
    panels: dict[str, Any] = {axis.get_title(loc="left"): axis for axis in figure.axes if axis.images}
    assert list(panels) == ["Mixture", "Estimate 1", "Estimate 2"]
    limits = {panel.images[0].get_clim() for panel in panels.values()}
    assert len(limits) == 1
    assert limits.pop() == pytest.approx((-86, -6), abs=0.5)
    shown = panels["Estimate 2"].images[0]
    assert shown.get_extent() == [0, 1, 0, 8]
    assert shown.origin == "lower"
    assert shown.get_array()[:, 20].argmax() == round(3000 / 8000 * 256)
    figure.canvas.draw()  # the title is no formula


def test_separation_picture__sources_beside_the_estimates() -> None:
    estimates = torch.from_numpy(noise(0.5, channels=2))
    for num_sources in (0, 1, 3):
        sources = torch.from_numpy(noise(0.5, channels=3))[:num_sources]
        figure = separation_picture(estimates.sum(dim=0), estimates, RATE, sources_ST=sources)
        titles = [axis.get_title(loc="left") for axis in figure.axes if axis.images]
        assert titles.count("Mixture") == 1
        assert sum("Source" in title for title in titles) == num_sources
        figure.canvas.draw()


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_separation_picture__silent_and_diverged_estimates_can_be_drawn(value: float) -> None:
    figure = separation_picture(noise(0.5)[0], torch.full((2, RATE // 2), value), RATE)
    figure.canvas.draw()
    assert all(np.isfinite(axis.images[0].get_clim()).all() for axis in figure.axes if axis.images)
