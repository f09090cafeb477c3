"""A linear probe that is given several readouts: one pass, one choice, which is told and taken up again."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from callbacks import EvaluationResults
from sslam.checkpoints import read_checkpoint
from sslam.embedding import AudioEmbedder
from sslam.frontends import KaldiFbank
from sslam.losses import CrossEntropy
from sslam.methods import LinearProbe
from sslam.networks import AudioViT, Readout
from sslam.report.results import read_record

SILENT_CLS = (Readout("cls"), Readout("cls", [1]), Readout("row_statistics"), Readout("cls", [2, 1]))


class DeafToken(AudioViT):
    """Its CLS token says nothing, so that only its patches tell clips apart."""

    calls = 0

    def forward_with_layers(self, features_BLF: Tensor, layers: Any) -> tuple[Tensor, dict[int, Tensor]]:
        self.calls += 1
        output_BPD, kept = super().forward_with_layers(features_BLF, layers)
        return deaf(output_BPD), {layer: deaf(tokens_BPD) for layer, tokens_BPD in kept.items()}

    def forward(self, features_BLF: Tensor) -> Tensor:
        return deaf(super().forward(features_BLF))


def deaf(tokens_BPD: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(tokens_BPD[:, :1]), tokens_BPD[:, 1:]], dim=1)


@pytest.fixture
def encoder() -> DeafToken:
    torch.manual_seed(0)
    return DeafToken(width=32, depth=2, num_heads=2)


def probe_of(encoder: AudioViT, **changes: Any) -> LinearProbe:
    arguments: dict[str, Any] = {
        "frontend": KaldiFbank(num_frames=128),
        "loss": CrossEntropy(),
        "readouts": SILENT_CLS,
        "epochs": 10,
        "seeds": [0, 1],
        "learning_rates": [1e-3, 1e-2],
        "normalisation": "standardise",
    }
    return LinearProbe(encoder=encoder, **(arguments | changes))


@pytest.mark.parametrize("num_classes", [None, 4])
def test_linear_probe__takes_the_readout_that_hears_something(
    num_classes: int | None,
    encoder: DeafToken,
    tones: Any,
    quiet_trainer: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = probe_of(encoder, num_classes=num_classes)
    logger = CSVLogger(tmp_path, "probe", "one")
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0, logger=logger, callbacks=[EvaluationResults()])
    with caplog.at_level("INFO"):
        trainer.fit(model, tones())
    assert encoder.calls == 5  # batches: every clip went through once
    assert model.readout == Readout("row_statistics")
    (said,) = (message for message in caplog.messages if message.startswith("LinearProbe: "))
    assert said.startswith("LinearProbe: 40 clips, 2 seeds, readout row_statistics, learning rate 0.01, chosen by acc")
    assert "(cls: 0." in said
    assert "; cls of layers 2, 1: 0." in said
    (metrics,) = trainer.test(model, tones(), verbose=False)
    assert metrics["test/accuracy"] > 0.9
    record = read_record(tmp_path / "probe/one/results-test.json")
    assert (record.readout, record.learning_rate) == ("row_statistics", 1e-2)
    # The same heads as a probe of this readout alone.
    alone = probe_of(encoder, readouts=(), pooling="row_statistics", num_classes=num_classes)
    again = quiet_trainer(max_epochs=1, limit_val_batches=0)
    again.fit(alone, tones())
    assert again.test(alone, tones(), verbose=False)[0] == pytest.approx(metrics, abs=1e-6)
    # What is saved says which one it was, and is taken up by whoever has the same choice.
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    tested = probe_of(encoder)
    trainer_of_test = quiet_trainer(logger=CSVLogger(tmp_path, "probe", "two"), callbacks=[EvaluationResults()])
    (found,) = trainer_of_test.test(tested, tones(), ckpt_path=tmp_path / "last.ckpt", verbose=False, weights_only=True)
    assert found == pytest.approx(metrics, abs=1e-6)
    assert tested.readout == Readout("row_statistics")
    assert read_record(tmp_path / "probe/two/results-test.json").readout == "row_statistics"


def test_linear_probe__the_chosen_readout_tags(tones: Any, quiet_trainer: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = probe_of(AudioViT(width=32, depth=2, num_heads=2))
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0)
    data = tones()
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert read_checkpoint(tmp_path / "last.ckpt").readout == model.readout
    waveform = torch.cat([batch["waveform"] for batch in data.test_dataloader()])
    embedder = AudioEmbedder.from_checkpoint(tmp_path / "last.ckpt", device="cpu", num_frames=128)
    with torch.no_grad():
        expected = model(model.frontend(waveform))
    torch.testing.assert_close(embedder(waveform).logits, expected, rtol=1e-4, atol=1e-4)


def test_linear_probe__warns_of_a_learning_rate_at_the_edge(
    encoder: DeafToken, tones: Any, quiet_trainer: Any, tmp_path: Path
) -> None:
    model = probe_of(encoder, readouts=(), pooling="mean", learning_rates=[1e-9, 1e-2], seeds=[0])
    logger = CSVLogger(tmp_path, "probe", "one")
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0, logger=logger, callbacks=[EvaluationResults()])
    with pytest.warns(
        UserWarning, match="LinearProbe: the best learning rate, 0.01, is the highest of the probe's grid"
    ):
        trainer.fit(model, tones())
    trainer.test(model, tones(), verbose=False)
    (warning,) = read_record(tmp_path / "probe/one/results-test.json").warnings
    assert warning.endswith("one further out may do better. Add higher ones to learning_rates.")
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    tested = probe_of(encoder, readouts=(), pooling="mean", learning_rates=[1e-9, 1e-2], seeds=[0])
    other = quiet_trainer(logger=CSVLogger(tmp_path, "probe", "two"), callbacks=[EvaluationResults()])
    other.test(tested, tones(), ckpt_path=tmp_path / "last.ckpt", verbose=False, weights_only=True)
    assert read_record(tmp_path / "probe/two/results-test.json").warnings == [warning]


def test_linear_probe__refuses_what_no_memory_can_hold(
    encoder: DeafToken, tones: Any, quiet_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = {"SC_PAGE_SIZE": 1024, "SC_PHYS_PAGES": 100}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    message = (
        r"the 0 GiB of this machine, for 40 clips \(cls 32, cls of layer 1 32, row_statistics 512, .* Leave the wid"
    )
    with pytest.raises(ValueError, match=message):
        quiet_trainer(max_epochs=1, limit_val_batches=0).fit(probe_of(encoder), tones())
    monkeypatch.setitem(pages, "SC_PHYS_PAGES", 4 * 40 * (32 + 32 + 512 + 64 + 512) // 1024 + 1)
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(probe_of(encoder, epochs=1), tones())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pooling": "mean"},
            "Give readouts, or pooling and layers, got both: readouts and mean. Leave pooling and lay",
        ),
        ({"layers": [1]}, "got both: readouts and cls of layer 1"),
        ({"readouts": [Readout(), Readout("cls")]}, "readouts must be different ones, got cls, cls"),
        ({"readouts": [Readout(), Readout("cls", [3])]}, "layers must be at most 2, the number of layers of the Deaf"),
    ],
)
def test_linear_probe__refuses_readouts(changes: dict[str, Any], message: str, encoder: DeafToken) -> None:
    with pytest.raises(ValueError, match=message):
        probe_of(encoder, **changes)
