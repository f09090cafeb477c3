"""Retrieval as a method: any encoder, whole clips, what it leaves for the report."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from callbacks import EvaluationResults
from sslam.frontends import KaldiFbank, LogMel
from sslam.losses import NTXent
from sslam.methods import QueryByExample, SeparationContrastive
from sslam.metrics import query_by_example_map
from sslam.networks import CNN14, AudioViT, MeanFeatures
from sslam.networks.pooling import pool_tokens
from sslam.report.results import read_record
from sslam.transforms import MixtureAgainstMixture


def saved(path: Path, model: SeparationContrastive) -> str:
    checkpoint: dict[str, Any] = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return str(path)


def small_cnn14() -> CNN14:
    torch.manual_seed(0)
    return CNN14(width=12, channels=(4, 6, 8))


@pytest.fixture
def contrastive(tmp_path: Path) -> tuple[SeparationContrastive, str]:
    model = SeparationContrastive(small_cnn14(), LogMel(num_frames=32), MixtureAgainstMixture(), None, NTXent())
    return model, saved(tmp_path / "last.ckpt", model)


@pytest.mark.parametrize(
    ("frontend", "message"),
    [
        (KaldiFbank(num_mel_bins=64), r"trained on LogMel features \(.*log_offset 0.001\).* makes KaldiFbank features"),
        (KaldiFbank(), "makes KaldiFbank features .*num_mel_bins 128"),
        (LogMel(log_offset=0.01), r"log_offset 0.01\). Give no frontend, which takes the checkpoint's"),
    ],
)
def test_query_by_example__refuses_features_that_the_encoder_does_not_know(
    contrastive: tuple[SeparationContrastive, str], frontend: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        QueryByExample(frontend=frontend, initial_checkpoint=contrastive[1])


def test_query_by_example__takes_other_statistics_and_lengths(contrastive: tuple[SeparationContrastive, str]) -> None:
    model = QueryByExample(frontend=LogMel(num_frames=200, mean=-2.0, std=3.0), initial_checkpoint=contrastive[1])
    assert (model.frontend.num_frames, model.frontend.architecture()["mean"]) == (200, -2.0)


def test_query_by_example__of_a_contrastive_run_is_the_metric_of_its_embeddings(
    contrastive: tuple[SeparationContrastive, str], tones: Any, quiet_trainer: Any
) -> None:
    trained, path = contrastive
    model = QueryByExample(initial_checkpoint=path, examples_per_class=100)
    data = tones()
    data.clip_seconds = 20720 / 16000  # what these clips are
    trainer = quiet_trainer()
    (metrics,) = trainer.test(model, data, verbose=False)
    batches = list(data.test_dataloader())
    # Whole clips, as the callback embeds them during pre-training.
    embeddings = torch.cat([trained.embed(batch["waveform"], batch["num_samples"]) for batch in batches])
    labels = torch.cat([batch["labels"] for batch in batches])
    expected = query_by_example_map(embeddings, labels).mean_average_precision
    assert metrics["test/qbe_map"] == pytest.approx(expected, abs=1e-6)
    assert model.frontend.num_frames == 130  # not the 32 of pre-training
    (metrics,) = trainer.validate(model, data, verbose=False)
    assert metrics["val/qbe_map"] == pytest.approx(expected, abs=1e-6)  # the same clips
    data.predict_set = data.test_set
    predictions = trainer.predict(model, data)
    torch.testing.assert_close(torch.cat([batch["embedding"] for batch in predictions]), embeddings)


def test_query_by_example__of_log_mels_tells_tones_apart(tones: Any, quiet_trainer: Any) -> None:
    model = QueryByExample(encoder=MeanFeatures(64), frontend=LogMel(num_frames=96), whole_clips=True)
    (metrics,) = quiet_trainer().test(model, tones(), verbose=False)
    assert metrics["test/qbe_map"] > 0.95  # mean spectra of tones of four pitches
    assert model.results is not None
    assert model.results.chance < 0.4
    assert model.provenance["label"] == "MeanFeatures"
    assert model.provenance["weights"] == "none"


@pytest.mark.parametrize("pooling", ["cls", "mean", "both"])
def test_query_by_example__of_a_transformer_with_any_pooling(
    pooling: Any, tones: Any, tiny_encoder: AudioViT, quiet_trainer: Any
) -> None:
    frontend = KaldiFbank(num_frames=128)
    model = QueryByExample(encoder=tiny_encoder, frontend=frontend, pooling=pooling, examples_per_class=4)
    data = tones()
    (metrics,) = quiet_trainer().test(model, data, verbose=False)
    assert model.results is not None
    assert model.results.num_examples_C.tolist() == [4, 4, 4, 4]
    assert model.results.num_compared_clips == 16
    assert 0 < metrics["test/qbe_map"] <= 1
    batch = next(iter(data.test_dataloader()))
    with torch.no_grad():
        expected = pool_tokens(tiny_encoder.eval()(frontend(batch["waveform"])), pooling)
        torch.testing.assert_close(model.embed(frontend(batch["waveform"])), expected)


def test_query_by_example__leaves_a_record(
    contrastive: tuple[SeparationContrastive, str], tones: Any, quiet_trainer: Any, tmp_path: Path
) -> None:
    from lightning.pytorch.loggers import CSVLogger

    model = QueryByExample(initial_checkpoint=contrastive[1], label="F, joint")
    trainer = quiet_trainer(logger=CSVLogger(tmp_path, "retrieval", "one"), callbacks=[EvaluationResults()])
    (metrics,) = trainer.test(model, tones(), verbose=False)
    record = read_record(tmp_path / "retrieval/one/results-test.json")
    assert (record.method, record.stage, record.data.title) == ("QueryByExample", "test", "Tones")
    assert record.metrics["qbe_map"] == pytest.approx(metrics["test/qbe_map"], abs=1e-6)
    assert record.metrics["qbe_chance"] == pytest.approx(0.2, abs=0.1)
    assert [(score.name, score.support) for score in record.per_class] == [
        ("low", 6),
        ("middle", 5),
        ("high", 5),
        ("highest", 5),
    ]
    precisions = [score.average_precision for score in record.per_class]
    assert np.mean(precisions) == pytest.approx(record.metrics["qbe_map"])
    assert (record.checkpoint.label, record.checkpoint.weights) == ("F, joint", "student")
    assert record.checkpoint.sha256
    assert (record.data.num_clips, record.data.num_classes_with_support, record.confusion) == (21, 4, None)
    with np.load(tmp_path / "retrieval/one/scores-test.npz") as arrays:
        assert set(arrays) == {"average_precision", "num_examples", "num_targets", "num_non_targets", "class_names"}
        np.testing.assert_allclose(arrays["average_precision"], precisions)
        assert arrays["num_targets"].tolist() == [15, 10, 10, 10]


def test_query_by_example__random_weights_differ(
    contrastive: tuple[SeparationContrastive, str], tones: Any, quiet_trainer: Any
) -> None:
    torch.manual_seed(3)
    model = QueryByExample(initial_checkpoint=contrastive[1], weights="random")
    assert (model.provenance["label"], model.provenance["weights"]) == ("random weights", "random")
    parameters = zip(model.encoder.parameters(), contrastive[0].encoder.parameters(), strict=True)
    assert any(not torch.equal(first, second) for first, second in parameters)


def test_query_by_example__trains_nothing(tones: Any, quiet_trainer: Any) -> None:
    model = QueryByExample(encoder=small_cnn14(), frontend=LogMel(num_frames=128))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match=r"retrieval trains nothing. Use sslam test \(or sslam validate\) instead of"):
        quiet_trainer(max_epochs=1).fit(model, tones())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"examples_per_class": 1}, "examples_per_class must be at least 2, got 1."),
        ({"frontend": None}, "An encoder that is given needs a frontend too, such as sslam.frontends.LogMel."),
        ({"encoder": None}, "An evaluation needs an encoder, and one only"),
        ({"frontend": KaldiFbank()}, "num_mel_bins must be the encoder's 64, got 128."),
    ],
)
def test_query_by_example__refuses_wrong_values(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QueryByExample(**{"encoder": small_cnn14(), "frontend": LogMel(), **changes})


def test_query_by_example__needs_labels_and_the_length_of_clips(tones: Any, quiet_trainer: Any) -> None:
    class NoLabels(tones):  # type: ignore[misc]
        class_names = ()

    class NoLength(tones):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            del self.clip_seconds

    model = QueryByExample(encoder=small_cnn14(), frontend=LogMel(), whole_clips=True)
    with pytest.raises(ValueError, match="NoLabels has no classes; an evaluation needs labelled data, such as"):
        quiet_trainer().test(model, NoLabels(), verbose=False)
    with pytest.raises(ValueError, match="NoLength does not say how long its clips are"):
        quiet_trainer().test(model, NoLength(), verbose=False)
