"""What is read of the encoder, by probes, fine-tuning and retrieval, and by those who take up their checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sslam.checkpoints import read_checkpoint
from sslam.commands.convert import main as convert
from sslam.embedding import AudioEmbedder
from sslam.frontends import KaldiFbank
from sslam.losses import CrossEntropy
from sslam.methods import FineTune, LinearProbe, QueryByExample
from sslam.networks import AudioViT, Readout
from sslam.transforms import Augmentation

ROWS_OF_LAYERS: dict[str, Any] = {"pooling": "row_statistics", "layers": [2, 1]}


def probe_of(encoder: AudioViT, **changes: Any) -> LinearProbe:
    arguments: dict[str, Any] = {"frontend": KaldiFbank(num_frames=128), "loss": CrossEntropy(), "num_classes": 4}
    few = {"epochs": 3, "learning_rates": [1e-2], "seeds": [0]}
    return LinearProbe(encoder=encoder, **(arguments | few | changes))


def fine_tune_of(encoder: AudioViT, **changes: Any) -> FineTune:
    arguments: dict[str, Any] = {"frontend": KaldiFbank(num_frames=128), "loss": CrossEntropy(), "num_classes": 4}
    return FineTune(Augmentation(), encoder=encoder, **(arguments | changes))


def waveforms(data: Any) -> torch.Tensor:
    data.setup("test")
    return torch.cat([batch["waveform"] for batch in data.test_dataloader()])


def standardised_probe_of(encoder: AudioViT, **changes: Any) -> LinearProbe:
    return probe_of(encoder, normalisation="standardise", **changes)


@pytest.mark.parametrize("readout", [{"pooling": "statistics"}, ROWS_OF_LAYERS], ids=["statistics", "rows of layers"])
@pytest.mark.parametrize("make", [probe_of, standardised_probe_of, fine_tune_of])
def test_classifier__tags_with_the_readout_that_it_learnt_on(
    make: Any, readout: dict[str, Any], tones: Any, tiny_encoder: AudioViT, quiet_trainer: Any, tmp_path: Path
) -> None:
    model = make(tiny_encoder, **readout)
    length = {"max_steps": 2, "max_epochs": -1} if make is fine_tune_of else {"max_epochs": 1}
    trainer = quiet_trainer(limit_val_batches=0, **length)
    data = tones(training_augmentation=make is fine_tune_of)
    trainer.fit(model, data)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert convert([str(tmp_path / "last.ckpt"), str(tmp_path / "ours.safetensors")]) == 0
    assert convert([str(tmp_path / "last.ckpt"), str(tmp_path / "published.pt"), "--to", "published"]) == 0
    waveform = waveforms(data)
    with torch.no_grad():
        expected = model.eval()(model.frontend(waveform))
    for file in ("last.ckpt", "ours.safetensors", "published.pt"):
        assert read_checkpoint(tmp_path / file).readout == Readout(**readout)
        embedder = AudioEmbedder.from_checkpoint(tmp_path / file, device="cpu", num_frames=128)
        torch.testing.assert_close(embedder(waveform).logits, expected, rtol=1e-4, atol=1e-4)


def test_embedder__reads_layers_and_rows(tones: Any, tiny_encoder: AudioViT, tmp_path: Path) -> None:
    """Other ones than the classifier's, which is not disturbed."""
    model = fine_tune_of(tiny_encoder, **ROWS_OF_LAYERS)
    model.class_names = list(tones.class_names)
    checkpoint: dict[str, Any] = {"state_dict": model.state_dict()}
    model.training_facts = dict  # type: ignore[method-assign]
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "last.ckpt")
    waveform = waveforms(tones())[:3]
    for readout in (Readout("statistics", [1]), Readout("row_statistics")):
        embedder = AudioEmbedder.from_checkpoint(
            tmp_path / "last.ckpt", device="cpu", pooling=readout.pooling, num_frames=128, layers=readout.layers
        )
        embeddings = embedder(waveform)
        with torch.no_grad():
            features = model.frontend(waveform)
            torch.testing.assert_close(embeddings.clip, readout(model.eval().encoder, features), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(embeddings.logits, model(features), rtol=1e-4, atol=1e-4)


def test_query_by_example__compares_the_readout(tones: Any, tiny_encoder: AudioViT, quiet_trainer: Any) -> None:
    model = QueryByExample(encoder=tiny_encoder, frontend=KaldiFbank(num_frames=128), **ROWS_OF_LAYERS)
    data = tones()
    quiet_trainer().test(model, data, verbose=False)
    data.predict_set = data.test_set
    predicted = torch.cat([batch["embedding"] for batch in quiet_trainer().predict(model, data)])
    assert predicted.shape == (21, 2 * 8 * 2 * 32)
    with torch.no_grad():
        expected = Readout(**ROWS_OF_LAYERS)(tiny_encoder.eval(), model.frontend(waveforms(data)))
    torch.testing.assert_close(predicted, expected, rtol=1e-4, atol=1e-5)


def test_linear_probe__refuses_layers_that_are_not_there(tiny_encoder: AudioViT) -> None:
    with pytest.raises(ValueError, match=r"layers must be at most 2, the number of layers of the AudioViT, got \[4\]"):
        probe_of(tiny_encoder, layers=[4])
