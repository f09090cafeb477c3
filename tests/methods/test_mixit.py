"""The method in training and evaluation; network, loss and metrics have their own tests."""

import json
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks import StepCheckpoints
from data_modules import SoundscapesDataModule
from sslam.losses import mixit_loss
from sslam.methods import MixIT
from sslam.metrics import MixtureImprovement, SeparationMetrics
from sslam.networks import TDCN
from tests.quiet_trainer import QUIET
from tests.reference.mixit_formulas import formula_separator, training_mixtures

REFERENCE = Path(__file__).parents[1] / "reference"
SAMPLES = 800


def small_separator(num_sources: int = 3, **changes: Any) -> TDCN:
    torch.manual_seed(0)
    return TDCN(num_sources=num_sources, num_basis=12, width=8, hidden_width=10, num_blocks=3, **changes)


def make_clips(number: int, silent: int = 0) -> Tensor:
    clips = 0.1 * torch.randn(number, SAMPLES, generator=torch.Generator().manual_seed(1))
    clips[:silent] = 0
    return clips


def loader(clips: Tensor, batch_size: int, stems: Tensor | None = None) -> DataLoader[Any]:
    samples = []
    for index, waveform in enumerate(clips):
        sample = {"waveform": waveform, "num_samples": len(waveform), "index": index}
        samples.append(sample if stems is None else sample | {"stems": stems[index]})
    return DataLoader(samples, batch_size=batch_size)  # type: ignore[arg-type]


def make_trainer(**changes: Any) -> pl.Trainer:
    return pl.Trainer(**(QUIET | changes))


class Losses(pl.Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        self.values.append(float(outputs["loss"]))


def test_mixit__four_training_steps_are_the_published_ones() -> None:
    expected = json.loads((REFERENCE / "mixit_training.json").read_text())
    mixtures_GMT = training_mixtures()
    losses = Losses()
    method = MixIT(formula_separator(num_sources=4))
    clips = mixtures_GMT.flatten(0, 1)
    trainer = make_trainer(max_steps=5, callbacks=[losses])
    trainer.fit(method, loader(clips, len(clips)))
    assert losses.values == pytest.approx(expected["losses"], rel=0, abs=1e-4 * expected["losses"][0])


def test_training__epsilon_is_added_as_tensorflow_does() -> None:
    """What it changes is too small to be seen in losses."""
    found: list[float] = []

    class Epsilon(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: torch.optim.Optimizer) -> None:
            found.append(optimizer.param_groups[0]["eps"])

    make_trainer(max_steps=3, callbacks=[Epsilon()]).fit(MixIT(small_separator()), loader(make_clips(4), 2))
    assert found == pytest.approx([1e-8 / math.sqrt(1 - 0.999**step) for step in (1, 2, 3)], rel=1e-12)


def test_mixtures__are_adjacent_clips_as_they_are() -> None:
    clips_BT = make_clips(7)
    method = MixIT(small_separator(), mixtures_per_sum=3)
    mixtures_GMT = method.mixtures(clips_BT)
    assert mixtures_GMT.shape == (2, 3, SAMPLES)  # the seventh clip has no partners
    assert torch.equal(mixtures_GMT[1, 0], clips_BT[3])
    assert torch.equal(mixtures_GMT[1].sum(0), clips_BT[3:6].sum(0))


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_setup__refuses_clips_without_a_partner(command: str) -> None:
    data = SoundscapesDataModule(batch_size=3, num_workers=0, clip_seconds=1.0)
    with pytest.raises(
        ValueError, match=r"batch size must be a multiple of mixtures_per_sum 2, got 3.*the data's batch_size"
    ):
        getattr(make_trainer(max_steps=1), command)(MixIT(small_separator()), data)


def test_training__learns_silent_clips_and_all() -> None:
    clips = make_clips(8, silent=3)  # a silent pair, and a pair of a silent clip and a sounding one
    clips[-1] = clips[-1].sign()  # clipped
    losses = Losses()
    method = MixIT(small_separator(), learning_rate=3e-3)
    make_trainer(max_steps=60, callbacks=[losses]).fit(method, loader(clips, 8))
    assert all(math.isfinite(loss) for loss in losses.values)
    assert losses.values[-1] < losses.values[0] - 1
    assert all(parameter.isfinite().all() for parameter in method.parameters())


def test_training__in_bfloat16_stays_near(capsys: pytest.CaptureFixture[str]) -> None:
    values = {}
    for precision in ("32-true", "bf16-mixed"):
        losses = Losses()
        make_trainer(max_steps=5, precision=precision, callbacks=[losses]).fit(
            MixIT(small_separator()), loader(make_clips(8), 4)
        )
        values[precision] = losses.values
    assert values["bf16-mixed"] != values["32-true"]
    assert values["bf16-mixed"] == pytest.approx(values["32-true"], abs=0.1)


def test_setup__refuses_other_precisions() -> None:
    with pytest.raises(ValueError, match="precision must be 32-true or bf16-mixed, got 64-true"):
        make_trainer(precision="64-true", max_steps=1).fit(MixIT(small_separator()), loader(make_clips(2), 2))


def test_training__with_checkpointed_blocks_is_the_same() -> None:
    losses = [Losses(), Losses()]
    for checkpoint_blocks in (False, True):
        method = MixIT(small_separator(checkpoint_blocks=checkpoint_blocks))
        make_trainer(max_steps=4, callbacks=[losses[checkpoint_blocks]]).fit(method, loader(make_clips(8), 4))
    assert losses[1].values == pytest.approx(losses[0].values, rel=1e-5)


def test_training__skips_a_step_that_would_spoil_the_weights() -> None:
    clips = make_clips(4)
    clips[2, 100] = math.nan
    method = MixIT(small_separator())
    with pytest.warns(UserWarning, match=r"The gradients of step 1 are not finite"):
        make_trainer(max_steps=2).fit(method, loader(clips, 2))
    assert all(parameter.isfinite().all() for parameter in method.parameters())


def test_learning_rate__halves_smoothly() -> None:
    method = MixIT(small_separator(), halving_steps=2_000_000)
    rates = [method.learning_rate_at(step, 1e-4) for step in (0, 1_000_000, 2_000_000, 4_000_000)]
    assert rates == pytest.approx([1e-4, 1e-4 / math.sqrt(2), 5e-5, 2.5e-5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixtures_per_sum": 1}, "mixtures_per_sum must be at least 2, got 1"),
        ({"learning_rate": 0.0}, r"learning_rate must be greater than 0, got 0\.0"),
        ({"halving_steps": 0}, "halving_steps must be at least 1, got 0"),
    ],
)
def test_mixit__refuses_values_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixIT(small_separator(), **changes)


def test_mixit__needs_a_separator() -> None:
    with pytest.raises(ValueError, match=r"There is no separator. Give separator, such as sslam.networks.TDCN, or"):
        MixIT(None)


def test_mixit__refuses_a_separator_of_another_rate() -> None:
    with pytest.raises(ValueError, match=r"must be the data's 16000 Hz, got 22050.*sslam separate"):
        MixIT(small_separator(sample_rate=22_050))


def test_evaluation__is_of_all_clips_and_all_pairs() -> None:
    stems_BST = 0.1 * torch.randn(5, 2, SAMPLES, generator=torch.Generator().manual_seed(2))
    stems_BST[3, 1] = 0  # one source
    clips_BT = stems_BST.sum(1)
    method = MixIT(small_separator()).eval()
    (logged,) = make_trainer().test(method, loader(clips_BT, 2, stems_BST), verbose=False)
    mixtures_GMT = clips_BT[:4].unflatten(0, (2, 2))
    separation, improvement = SeparationMetrics(), MixtureImprovement()
    with torch.no_grad():
        estimates_GNT = method.separator(mixtures_GMT.sum(1))
        separation.update(method.separator(clips_BT), stems_BST, clips_BT)
    improvement.update(estimates_GNT, mixtures_GMT)
    expected = separation.compute()
    assert expected.num_clips == 5
    assert logged["test/loss"] == pytest.approx(mixit_loss(mixtures_GMT, estimates_GNT).mean().item(), rel=1e-5)
    assert logged["test/momi"] == pytest.approx(improvement.compute(), rel=1e-4)
    for name, value in expected.scalars().items():
        assert logged[f"test/{name}"] == pytest.approx(value, rel=1e-4), name


def test_evaluation__does_not_tell_what_cannot_be_told() -> None:
    (logged,) = make_trainer().test(MixIT(small_separator()), loader(make_clips(2, silent=1), 2), verbose=False)
    assert set(logged) == {"test/loss"}  # no sources, and no second mixture to tell from


def test_evaluation__of_diverged_weights_is_refused() -> None:
    method = MixIT(small_separator())
    with torch.no_grad():
        method.separator.decoder.weight[0, 0] = math.nan
    with pytest.raises(ValueError, match="estimates are not finite: its weights have diverged"):
        make_trainer().test(method, loader(make_clips(2), 2), verbose=False)


def test_evaluation__starts_anew_every_time() -> None:
    stems_BST = 0.1 * torch.randn(8, 2, SAMPLES, generator=torch.Generator().manual_seed(2))
    stems_BST[:4] *= torch.tensor([1.0, 0.1])[:, None]
    halves = [loader(half.sum(1), 2, half) for half in (stems_BST[:4], stems_BST[4:])]
    method, trainer = MixIT(small_separator()), make_trainer()
    first, second = (trainer.test(method, half, verbose=False)[0] for half in halves)
    (alone,) = make_trainer().test(MixIT(small_separator()), halves[1], verbose=False)
    assert first["test/momi"] != second["test/momi"]
    assert second == alone


def test_initial_checkpoint__of_a_run(tmp_path: Path) -> None:
    first = MixIT(small_separator())
    trainer = make_trainer(max_steps=2, default_root_dir=tmp_path, callbacks=[StepCheckpoints([0, 1])])
    trainer.fit(first, loader(make_clips(4), 2))
    kept = tmp_path / "checkpoints" / "kept"
    assert sorted(path.name for path in kept.iterdir()) == [
        "end.ckpt",
        "step=00000000.ckpt",
        "step=00000001.ckpt",
    ]
    torch.manual_seed(5)
    started = MixIT(TDCN(**first.separator.architecture()), initial_checkpoint=str(kept / "end.ckpt"))
    make_trainer().test(started, loader(make_clips(4), 2), verbose=False)
    for name, value in first.separator.state_dict().items():
        assert torch.equal(value, started.separator.state_dict()[name]), name
    untrained = torch.load(kept / "step=00000000.ckpt", weights_only=True)["state_dict"]
    for name, value in small_separator().state_dict().items():
        assert torch.equal(value, untrained[f"separator.{name}"]), name
    taken = MixIT(None, initial_checkpoint=str(kept / "end.ckpt"))
    assert taken.separator.architecture() == first.separator.architecture()
    assert taken.separator.training
    for name, value in first.separator.state_dict().items():
        assert torch.equal(value, taken.separator.state_dict()[name]), name
    other = MixIT(small_separator(num_sources=2), initial_checkpoint=str(kept / "step=00000001.ckpt"))
    with pytest.raises(ValueError, match=r"does not fit this model: num_sources is 3 in the file and 2 here"):
        make_trainer().test(other, loader(make_clips(4), 2), verbose=False)


def test_training__may_follow_an_evaluation() -> None:
    method, clips = MixIT(small_separator()), make_clips(4)
    make_trainer().validate(method, loader(clips, 2), verbose=False)  # in inference mode, unlike that of a fit
    trainer = make_trainer(max_steps=2)
    trainer.fit(method, loader(clips, 2), loader(clips, 2))
    assert "val/loss" in trainer.callback_metrics


def test_predict_step__gives_estimates_that_add_up() -> None:
    clips = make_clips(3)
    outputs: Any = make_trainer().predict(MixIT(small_separator()), loader(clips, 2))
    estimates = torch.cat([output["estimates"] for output in outputs])
    assert torch.cat([output["index"] for output in outputs]).tolist() == [0, 1, 2]
    np.testing.assert_allclose(estimates.sum(1), clips, atol=1e-6)
