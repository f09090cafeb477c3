"""The shallow classifier: a plain MLP on embeddings of length 1, and training clips that only choose."""

from typing import Any

import pytest
import torch
from torch import nn

from sslam.frontends import KaldiFbank, LogMel
from sslam.losses import ClassificationLoss, CrossEntropy, LabelNormalisedBCE
from sslam.methods import LinearProbe
from sslam.methods.linear_probe import FrozenClips
from sslam.methods.probes import Probe, StackedProbes
from sslam.networks import AudioViT, Encoder, MeanFeatures
from sslam.optim import warmup_cosine

SHALLOW = {"hidden_width": 24, "normalisation": "l2", "standardise": False, "selection_fraction": 0.1}


def shallow(encoder: Encoder, **changes: Any) -> LinearProbe:
    arguments: dict[str, Any] = {"frontend": KaldiFbank(num_frames=128), "loss": CrossEntropy(), "num_classes": 4}
    return LinearProbe(encoder=encoder, **(arguments | SHALLOW | changes))


def clips_of(number: int, width: int = 32) -> FrozenClips:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(number) % 4
    embedding = torch.randn(number, width, generator=random) + 2 * torch.eye(width)[labels]
    return FrozenClips(5 * embedding, torch.eye(4)[labels], torch.arange(number))


@pytest.mark.parametrize("loss", [CrossEntropy(0.1), LabelNormalisedBCE()])
def test_train_probes__is_a_plain_mlp_on_unit_embeddings(loss: ClassificationLoss, tiny_encoder: AudioViT) -> None:
    clips, seed, rate = clips_of(30), 5, 1e-2
    model = shallow(tiny_encoder, loss=loss, epochs=3, batch_size=8, warmup_fraction=0.2)
    (stack,) = model.train_probes(clips, torch.arange(30)[None], [rate], [seed])
    start = Probe(32, 4, seed, hidden_width=24, normalisation="l2")
    first, second = nn.Linear(32, 24), nn.Linear(24, 4)
    assert start.hidden is not None
    first.load_state_dict(start.hidden.state_dict())
    second.load_state_dict(start.head.state_dict())
    mlp = nn.Sequential(first, nn.ReLU(), second)
    weights, biases = [first.weight, second.weight], [first.bias, second.bias]
    groups = [{"params": weights, "weight_decay": 0.05}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95))
    inputs = clips.embedding / clips.embedding.norm(dim=1, keepdim=True)
    order, step = torch.Generator().manual_seed(seed), 0
    for _ in range(3):
        for ids in torch.split(torch.randperm(30, generator=order), 8):
            for group in optimizer.param_groups:
                group["lr"] = warmup_cosine(step, rate, 2, 12, 1e-6)
            optimizer.zero_grad()
            loss(mlp(inputs[ids]), clips.labels[ids]).backward()
            optimizer.step()
            step += 1
    torch.testing.assert_close(stack(clips.embedding[None])[0], mlp(inputs), rtol=1e-4, atol=1e-5)
    single = Probe(32, 4, 0, hidden_width=24, normalisation="l2")
    stack.copy_to([single])
    torch.testing.assert_close(single(clips.embedding), mlp(inputs), rtol=1e-4, atol=1e-5)
    assert (first.weight - start.hidden.weight).abs().max() > 1e-3  # the hidden layer has learnt


def test_train_probes__together_learn_what_each_learns_alone(tiny_encoder: AudioViT) -> None:
    clips = clips_of(20)
    model = shallow(tiny_encoder, epochs=4, batch_size=5)
    ids, rates, seeds = torch.stack([torch.arange(18), torch.arange(2, 20)]), [1e-2, 1e-3], [4, 7]
    for stack, rate in zip(model.train_probes(clips, ids, rates, seeds), rates, strict=True):
        for replica, seed in enumerate(seeds):
            (alone,) = model.train_probes(clips, ids[replica : replica + 1], [rate], [seed])
            for name, value in alone.named_parameters():
                torch.testing.assert_close(value[0], stack.get_parameter(name)[replica], rtol=1e-4, atol=1e-6)


def test_probe__length_of_the_embedding_does_not_matter() -> None:
    embedding = clips_of(6).embedding
    for probe in (Probe(32, 4, 0, 16, "l2"), Probe(32, 4, 0, None, "l2")):
        torch.testing.assert_close(probe(embedding), probe(0.01 * embedding))
        assert probe(torch.zeros(1, 32)).isfinite().all()
        stack = StackedProbes([probe, probe])
        torch.testing.assert_close(stack(embedding.expand(2, -1, -1))[1], probe(embedding))
    with_norm = Probe(32, 4, 0, 16)
    torch.testing.assert_close(StackedProbes([with_norm])(embedding[None])[0], with_norm(embedding))


def test_shallow_classifier__what_is_held_out_is_never_learnt_and_chooses(
    tones: Any, quiet_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt: list[tuple[set[int], list[float], list[int]]] = []
    original = LinearProbe.train_probes

    def spy(self: LinearProbe, clips: FrozenClips, ids_RN: torch.Tensor, rates: Any, seeds: Any) -> Any:
        learnt.append((set(ids_RN.flatten().tolist()), list(rates), list(seeds)))
        return original(self, clips, ids_RN, rates, seeds)

    monkeypatch.setattr(LinearProbe, "train_probes", spy)
    # A rate that learns nothing, and one that does: the choice is no accident.
    changes = {"learning_rates": [1e-9, 1e-2], "seeds": [0, 1], "epochs": 80, "batch_size": 16}
    model = shallow(MeanFeatures(64), frontend=LogMel(num_frames=128), **changes)
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0)
    trainer.fit(model, tones())
    assert model.learning_rate == 1e-2
    ((ids, rates, seeds),) = learnt  # one training, of all rates and seeds
    assert (len(ids), rates, seeds) == (36, [1e-9, 1e-2], [0, 1])
    (metrics,) = trainer.test(model, tones(), verbose=False)
    assert metrics["test/accuracy"] > 0.8
    assert (model.name, len(model.results)) == ("ShallowClassifier", 2)
    # The probes that were kept are those of the chosen rate.
    fresh = model.new_probe(0)
    assert fresh.hidden is not None
    assert not torch.allclose(fresh.hidden.weight, model.probes[0].hidden.weight, atol=1e-4)  # type: ignore[union-attr,arg-type]


def test_shallow_classifier__its_checkpoint_is_read_as_an_encoder_and_goes_on(
    tones: Any, tiny_encoder: AudioViT, quiet_trainer: Any, tmp_path: Any
) -> None:
    from sslam.checkpoints import read_checkpoint

    model = shallow(tiny_encoder, learning_rates=[1e-2], epochs=5, batch_size=16)
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0)
    trainer.fit(model, tones())
    trainer.save_checkpoint(tmp_path / "shallow.ckpt")
    (expected,) = trainer.test(model, tones(), verbose=False)
    checkpoint = read_checkpoint(tmp_path / "shallow.ckpt")
    assert checkpoint.kind == "contrastive"  # an encoder alone
    assert checkpoint.class_names == []
    state = checkpoint.build_encoder().state_dict()
    assert all(torch.equal(state[name], value) for name, value in tiny_encoder.state_dict().items())
    again = shallow(AudioViT(width=32, depth=2, num_heads=2))
    (metrics,) = quiet_trainer().test(
        again, tones(), ckpt_path=tmp_path / "shallow.ckpt", weights_only=True, verbose=False
    )
    assert metrics == expected
    data = tones()
    data.setup("test")
    data.predict_set = data.test_set
    predictions = quiet_trainer().predict(again, data)
    assert predictions[0]["probabilities"].sum(dim=1).allclose(torch.ones(8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_width": 0}, "hidden_width must be at least 1, or null for a linear head, got 0."),
        ({"selection_fraction": 1.0}, "selection_fraction must be between 0 and 1, both excluded, got 1.0."),
        ({"standardise": True}, "standardise needs LayerNorm, .* Pass --model.standardise false, or"),
    ],
)
def test_shallow_classifier__refuses_wrong_values(
    changes: dict[str, Any], message: str, tiny_encoder: AudioViT
) -> None:
    with pytest.raises(ValueError, match=message):
        shallow(tiny_encoder, **changes)


def test_shallow_classifier__too_few_clips_to_hold_some_out(
    tones: Any, tiny_encoder: AudioViT, quiet_trainer: Any
) -> None:
    model = shallow(tiny_encoder, selection_fraction=0.9)
    with pytest.raises(ValueError, match="selection_fraction 0.9 holds out all of 2 training clips. Give more clips"):
        quiet_trainer(max_epochs=1, limit_val_batches=0).fit(model, tones(num_train=2))
