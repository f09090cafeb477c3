"""What classifiers remember of their training, and that scores and the learning rate are right in any setting."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from callbacks import TrainingProgress
from sslam.frontends import KaldiFbank
from sslam.losses import CrossEntropy
from sslam.methods import FineTune, LinearProbe
from sslam.methods.classifier import Classifier
from sslam.networks import AudioViT
from sslam.transforms import Augmentation


def classifier_of(method: type[Classifier], **changes: Any) -> Any:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"frontend": KaldiFbank(num_frames=128), "loss": CrossEntropy(), "num_classes": 4}
    arguments |= {"augmentation": Augmentation()} if method is FineTune else {"epochs": 5}
    return method(encoder=AudioViT(width=32, depth=2, num_heads=2), **(arguments | changes))


def test_linear_probe__checkpoint_knows_how_it_was_trained(tones: Any, quiet_trainer: Any, tmp_path: Path) -> None:
    rates = {"learning_rates": [1e-9, 1e-2]}  # the second one is better
    model = classifier_of(LinearProbe, **rates, pooling="both", epochs=20)
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0)
    torch.manual_seed(7)
    trainer.fit(model, tones())
    trainer.save_checkpoint(tmp_path / "probe.ckpt")
    expected = {"epoch": 1, "step": 0, "seed": 7, "learning_rate": 1e-2}
    expected |= {"readout": "both", "warnings": model.warnings}  # of the higher rate of two
    assert model.training_facts() == expected
    assert len(model.warnings) == 1

    torch.manual_seed(8)
    tested = classifier_of(LinearProbe, **rates, pooling="both")
    quiet_trainer().test(tested, tones(), ckpt_path=tmp_path / "probe.ckpt", weights_only=True, verbose=False)
    assert tested.training_facts() == expected
    # A run that has ended and is gone on with says the rate that was chosen, and not the first of the grid.
    again = classifier_of(LinearProbe, **rates, pooling="both")
    quiet_trainer(max_epochs=1).fit(again, tones(), ckpt_path=tmp_path / "probe.ckpt", weights_only=True)
    assert again.learning_rate == 1e-2


def test_fine_tune__going_on_has_its_own_facts(tones: Any, quiet_trainer: Any, tmp_path: Path) -> None:
    trainer = quiet_trainer(max_steps=2, max_epochs=-1)
    trainer.fit(classifier_of(FineTune, learning_rate=1e-3), tones(training_augmentation=True))
    trainer.save_checkpoint(tmp_path / "tuned.ckpt")
    model = classifier_of(FineTune, learning_rate=1e-4)
    trainer = quiet_trainer(max_steps=3, max_epochs=-1)
    trainer.fit(model, tones(training_augmentation=True), ckpt_path=tmp_path / "tuned.ckpt", weights_only=True)
    facts = model.training_facts()
    assert (facts["step"], facts["learning_rate"]) == (3, 1e-4)
    trainer.test(model, tones(), verbose=False)
    assert model.training_facts()["step"] == 3
    trainer.test(model, tones(), ckpt_path=tmp_path / "tuned.ckpt", weights_only=True, verbose=False)
    assert (model.training_facts()["step"], model.training_facts()["learning_rate"]) == (2, 1e-3)


@pytest.mark.parametrize("method", [FineTune, LinearProbe])
def test_classifier__scores_are_not_rounded_to_bfloat16(method: Any, tones: Any, quiet_trainer: Any) -> None:
    model = classifier_of(method)
    quiet_trainer(precision="bf16-mixed").test(model, tones(num_test=40), verbose=False)
    scores = model.results[0].scores_NC
    assert len(np.unique(scores)) > 0.9 * scores.size
    # Against full precision the encoder alone is rounded.
    exact = classifier_of(method)
    quiet_trainer().test(exact, tones(num_test=40), verbose=False)
    np.testing.assert_allclose(scores, exact.results[0].scores_NC, atol=0.02)


@pytest.mark.parametrize("freeze_encoder", [False, True])
def test_fine_tune__a_training_without_end_is_refused(freeze_encoder: bool, tones: Any, quiet_trainer: Any) -> None:
    model = classifier_of(FineTune, freeze_encoder=freeze_encoder)
    with pytest.raises(ValueError, match=r"the trainer's max_steps and max_epochs are both -1\. Give one of them"):
        quiet_trainer(max_epochs=-1).fit(model, tones(training_augmentation=True))


def test_linear_probe__progress_counts_batches(
    tones: Any, quiet_trainer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = TrainingProgress(seconds_between_lines=0)
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0, callbacks=[progress], enable_progress_bar=True)
    trainer.fit(classifier_of(LinearProbe, learning_rates=[1e-3], seeds=[0]), tones())
    counts = re.findall(r"training: (\d+/\d+) ", capsys.readouterr().out)
    assert counts == ["1/5", "2/5", "3/5", "4/5", "5/5"]
