"""Linear probe: what is kept, what learns, what is evaluated, and what the data must be."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from sslam.frontends import KaldiFbank
from sslam.losses import CrossEntropy
from sslam.methods import LinearProbe
from sslam.networks import AudioViT
from sslam.probe_grid import ProbeGrid


def probe_of(encoder: AudioViT, **changes: Any) -> LinearProbe:
    arguments: dict[str, Any] = {
        "frontend": KaldiFbank(num_frames=128),
        "loss": CrossEntropy(),
        "num_classes": 4,
        "epochs": 30,
        "batch_size": 16,
        "pooling": "mean",
    }
    return LinearProbe(encoder=encoder, **(arguments | changes))


def trained(model: LinearProbe, data: Any, trainer_class: Any, **changes: Any) -> dict[str, float]:
    trainer = trainer_class(max_epochs=1, limit_val_batches=0, **changes)
    trainer.fit(model, data)
    (metrics,) = trainer.test(model, data, verbose=False)
    return dict(metrics)


def test_linear_probe__tells_tones_apart_and_leaves_the_encoder(
    tones: Any, tiny_encoder: AudioViT, quiet_trainer: Any
) -> None:
    before = copy.deepcopy(tiny_encoder.state_dict())
    model = probe_of(tiny_encoder, pooling="both")
    metrics = trained(model, tones(), quiet_trainer)
    assert metrics["test/accuracy"] > 0.9
    assert all(torch.equal(before[name], value) for name, value in model.encoder.state_dict().items())
    assert len(model.results) == 3
    assert model.learning_rate in model.grid.learning_rates
    # Every clip exactly once, those of the uneven last batch too.
    assert model.results[0].index_N.tolist() == list(range(21))
    assert [row.num_clips for row in model.results[0].by_polyphony] == [11, 10]
    # The first seed's probe is the classifier that is saved.
    assert model.head is model.probes[0].head


def test_linear_probe__metrics_are_means_over_the_seeds(tones: Any, tiny_encoder: AudioViT, quiet_trainer: Any) -> None:
    model = probe_of(tiny_encoder, epochs=1, learning_rates=[1e-3], seeds=[3, 5])
    metrics = trained(model, tones(), quiet_trainer)
    expected = np.mean([results.mean_average_precision for results in model.results])
    assert metrics["test/map"] == pytest.approx(expected, rel=1e-6)
    assert model.results[0].mean_average_precision != model.results[1].mean_average_precision


def test_linear_probe__hands_on_which_clips_are_of_one_recording(
    tones: Any, tiny_encoder: AudioViT, quiet_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the index of each clip, also where some clips could not be read."""
    found: list[Any] = []
    fit = ProbeGrid.fit

    def fit_and_note(
        self: ProbeGrid, readouts: Any, single_label: bool, group_N: Any = None, device: Any = None
    ) -> Any:
        found.append((readouts[0].index_N, group_N))
        return fit(self, readouts, single_label, group_N, device)

    monkeypatch.setattr(ProbeGrid, "fit", fit_and_note)
    groups = np.arange(40) // 2 + 100
    monkeypatch.setattr(tones, "training_groups", groups)
    trained(probe_of(tiny_encoder, epochs=1), tones(), quiet_trainer)
    ((index, group),) = found
    assert group.tolist() == groups[index].tolist()


def test_linear_probe__chooses_the_learning_rate_that_learns(
    tones: Any, tiny_encoder: AudioViT, quiet_trainer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = probe_of(tiny_encoder, learning_rates=[1e-9, 1e-2], seeds=[0], pooling="both")
    with caplog.at_level("INFO"):
        trained(model, tones(), quiet_trainer)
    assert model.learning_rate == 1e-2
    (said,) = (message for message in caplog.messages if message.startswith("LinearProbe: "))
    assert said.startswith("LinearProbe: 40 clips, 1 seeds, learning rate 0.01, chosen by accuracy on held-out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rates": [0.0]}, r"learning_rates must be one or more positive numbers, got \[0\.0\]\."),
        ({"seeds": [1, 1]}, r"seeds must be one or more different numbers, got \[1, 1\]\."),
        ({"epochs": 0}, r"epochs must be at least 1, got 0\."),
        ({"num_classes": 1}, r"num_classes must be at least 2, got 1\."),
        ({"drop_path": 1.0}, r"drop_path must be at least 0 and less than 1, got 1\.0\."),
        ({"frontend": KaldiFbank(num_mel_bins=64)}, r"num_mel_bins must be the encoder's 128, got 64\."),
    ],
)
def test_linear_probe__refuses_wrong_values(changes: dict[str, Any], message: str, tiny_encoder: AudioViT) -> None:
    with pytest.raises(ValueError, match=message):
        probe_of(tiny_encoder, **changes)


def test_linear_probe__needs_one_encoder() -> None:
    with pytest.raises(ValueError, match=r"An evaluation needs an encoder, and one only: give initial_checkpoint"):
        LinearProbe(frontend=KaldiFbank(), loss=CrossEntropy(), num_classes=4)


def test_linear_probe__says_what_the_data_must_be(tones: Any, tiny_encoder: AudioViT, quiet_trainer: Any) -> None:
    with pytest.raises(ValueError, match=r"Tones has 4 classes and the model 5\. Leave num_classes out"):
        quiet_trainer(max_epochs=1).fit(probe_of(tiny_encoder, num_classes=5), tones())
    with pytest.raises(ValueError, match=r"Set the data's training_augmentation to false, or take FineTune"):
        quiet_trainer(max_epochs=1).fit(probe_of(tiny_encoder), tones(training_augmentation=True))
    with pytest.raises(ValueError, match=r"The trainer's max_epochs must be 1, got 3: .* epochs counts the passes"):
        quiet_trainer(max_epochs=3).fit(probe_of(tiny_encoder), tones())
