"""Linear probe: what is kept, what learns, what is chosen, and that random weights and mistakes are told apart."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from sslam.frontends import KaldiFbank
from sslam.losses import ClassificationLoss, CrossEntropy, LabelNormalisedBCE
from sslam.methods import LinearProbe
from sslam.methods.linear_probe import FrozenClips
from sslam.methods.probes import Probe, StackedProbes
from sslam.networks import AudioViT
from sslam.transforms import Augmentation


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
    assert model.learning_rate in model.learning_rates
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


@pytest.mark.parametrize("loss", [CrossEntropy(0.1), LabelNormalisedBCE()])
def test_train_probes__together_learn_what_each_learns_alone(loss: ClassificationLoss, tiny_encoder: AudioViT) -> None:
    random = torch.Generator().manual_seed(0)
    clips = FrozenClips(torch.randn(20, 32, generator=random), torch.eye(4)[torch.arange(20) % 4], torch.arange(20))
    ids = torch.stack([torch.arange(18), torch.arange(2, 20)])
    rates, seeds = [1e-2, 1e-3], [4, 7]
    model = probe_of(tiny_encoder, epochs=4, batch_size=5, loss=loss)
    together = model.train_probes(clips, ids, rates, seeds)
    for stack, rate in zip(together, rates, strict=True):
        for replica, seed in enumerate(seeds):
            (alone,) = model.train_probes(clips, ids[replica : replica + 1], [rate], [seed])
            torch.testing.assert_close(alone.weight_RCW[0], stack.weight_RCW[replica], rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(alone.gain_R1W[0], stack.gain_R1W[replica], rtol=1e-4, atol=1e-6)


def test_train_probes__one_step_is_adam_on_the_plain_probe(tiny_encoder: AudioViT) -> None:
    random = torch.Generator().manual_seed(0)
    clips = FrozenClips(torch.randn(8, 32, generator=random), torch.eye(4)[torch.arange(8) % 4], torch.arange(8))
    model = probe_of(tiny_encoder, epochs=1, batch_size=8, standardise=False)
    (stack,) = model.train_probes(clips, torch.arange(8)[None], [1e-2], [5])
    probe = Probe(32, 4, 5)
    optimizer = torch.optim.AdamW(
        [
            {"params": [probe.head.weight], "weight_decay": 0.05},
            {"params": [probe.head.bias, *probe.fc_norm.parameters()], "weight_decay": 0.0},
        ],
        lr=1e-2,
        betas=(0.9, 0.95),
    )
    torch.nn.functional.cross_entropy(probe(clips.embedding), clips.labels).backward()
    optimizer.step()
    torch.testing.assert_close(stack.weight_RCW[0], probe.head.weight)
    torch.testing.assert_close(stack.gain_R1W[0, 0], probe.fc_norm.weight)
    single = Probe(32, 4, 0)
    stack.copy_to([single])
    torch.testing.assert_close(single(clips.embedding), stack(clips.embedding[None])[0])


def test_standardise__outputs_of_the_norm_have_mean_0_and_deviation_1() -> None:
    embedding = torch.randn(50, 32, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 3, 32) + 2
    embedding[:, 3] = embedding.mean()  # hardly varies after the norm
    stack = StackedProbes([Probe(32, 4, 0)])
    stack.standardise(0, embedding)
    probe = Probe(32, 4, 0)
    stack.copy_to([probe])
    output = probe.fc_norm(embedding)
    torch.testing.assert_close(output.mean(dim=0), torch.zeros(32), atol=1e-4, rtol=0)
    torch.testing.assert_close(output.std(dim=0, correction=0), torch.ones(32), atol=1e-3, rtol=0)


def test_choose_learning_rate__takes_the_best_on_clips_that_were_not_learnt(
    tones: Any, tiny_encoder: AudioViT, quiet_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt: list[set[int]] = []
    original = LinearProbe.train_probes

    def spy(self: LinearProbe, clips: FrozenClips, ids_RN: torch.Tensor, *args: Any) -> Any:
        learnt.extend(set(ids.tolist()) for ids in ids_RN)
        return original(self, clips, ids_RN, *args)

    monkeypatch.setattr(LinearProbe, "train_probes", spy)
    # A rate that learns nothing, and one that does: the choice is no accident.
    model = probe_of(tiny_encoder, learning_rates=[1e-9, 1e-2], seeds=[0], pooling="both")
    trained(model, tones(), quiet_trainer)
    assert model.learning_rate == 1e-2
    *folds, final = learnt
    assert len(folds) == 5
    assert final == set(range(40))
    held_out = [set(range(40)) - fold for fold in folds]
    assert set().union(*held_out) == set(range(40))
    assert all(len(part) == 8 for part in held_out)


def test_linear_probe__with_augmentation_sees_clips_anew(
    tones: Any, tiny_encoder: AudioViT, quiet_trainer: Any
) -> None:
    model = probe_of(
        tiny_encoder, augmentation=Augmentation(mixup_alpha=0), learning_rates=[1e-1], seeds=[0, 1], pooling="both"
    )
    before = copy.deepcopy(model.probes.state_dict())
    encoder = copy.deepcopy(model.encoder.state_dict())
    trainer = quiet_trainer(max_epochs=20, limit_val_batches=0)
    trainer.fit(model, tones(training_augmentation=True))
    assert trainer.global_step == 20 * 5
    assert all(not torch.equal(before[name], value) for name, value in model.probes.state_dict().items())
    assert all(torch.equal(encoder[name], value) for name, value in model.encoder.state_dict().items())
    (metrics,) = trainer.test(model, tones(), verbose=False)
    assert metrics["test/accuracy"] > 0.5  # chance is 0.25


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rates": [0.0]}, r"learning_rates must be one or more positive numbers, got \[0\.0\]\."),
        ({"augmentation": Augmentation()}, r"With augmentation there is one learning rate, got \[0\.0003, "),
        ({"seeds": [1, 1]}, r"seeds must be one or more different numbers, got \[1, 1\]\."),
        ({"epochs": 0}, r"epochs must be at least 1, got 0\."),
        ({"selection_folds": 1}, r"selection_folds must be at least 2, got 1\."),
        ({"num_classes": 1}, r"num_classes must be at least 2, got 1\."),
        ({"drop_path": 1.0}, r"drop_path must be at least 0 and less than 1, got 1\.0\."),
        ({"frontend": KaldiFbank(num_mel_bins=64)}, r"num_mel_bins must be the encoder's 128, got 64\."),
    ],
)
def test_linear_probe__refuses_wrong_values(changes: dict[str, Any], message: str, tiny_encoder: AudioViT) -> None:
    with pytest.raises(ValueError, match=message):
        probe_of(tiny_encoder, **changes)


def test_linear_probe__needs_one_encoder() -> None:
    with pytest.raises(ValueError, match=r"An evaluation needs an encoder, and one only: give --model\.initial"):
        LinearProbe(frontend=KaldiFbank(), loss=CrossEntropy(), num_classes=4)


def test_linear_probe__says_what_the_data_must_be(tones: Any, tiny_encoder: AudioViT, quiet_trainer: Any) -> None:
    with pytest.raises(ValueError, match=r"Tones has 4 classes and the model 5\. Pass --model\.num_classes 4\."):
        quiet_trainer(max_epochs=1).fit(probe_of(tiny_encoder, num_classes=5), tones())
    with pytest.raises(ValueError, match=r"Pass --data\.training_augmentation false\."):
        quiet_trainer(max_epochs=1).fit(probe_of(tiny_encoder), tones(training_augmentation=True))
    with pytest.raises(ValueError, match=r"trainer\.max_epochs must be 1, got 3: .*--model\.epochs counts"):
        quiet_trainer(max_epochs=3).fit(probe_of(tiny_encoder), tones())
