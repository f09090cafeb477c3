"""The method in training: teacher, stages, accumulation, ablations."""

import copy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from sslam.ema import EMATeacher
from sslam.frontends import KaldiFbank
from sslam.methods import SSLAM, Objectives, Stage
from sslam.networks import AudioViT, ConvDecoder
from sslam.transforms import InverseBlockMasking, PartialMixing, RandomSource
from tests.methods.sslam_method import BOOTSTRAPPING, clips, fit, make_method, make_stage


class Recorder(pl.Callback):
    """Keeps what each batch and optimizer step left behind."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.states: list[int] = []
        self.losses: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: torch.optim.Optimizer) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])
        self.states.append(len(optimizer.state))

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]))


# ---- teacher --------------------------------------------------------------------------------------------------------


def test_teacher__shares_no_storage_and_gets_no_gradient() -> None:
    module = make_method()
    student = {parameter.data_ptr() for parameter in module.student.parameters()}
    assert not student & {parameter.data_ptr() for parameter in module.teacher.parameters()}
    features = torch.randn(2, 128, 128)
    module.losses(features, module.stages[0], RandomSource.seeded(torch.device("cpu"), 0)).total.backward()
    assert all(parameter.grad is None for parameter in module.teacher.parameters())
    assert all(parameter.grad is not None for parameter in module.student.parameters())
    assert not module.teach(features, module.stages[0]).patch_BPD.requires_grad


def test_teacher__moves_by_exactly_one_minus_decay() -> None:
    student = AudioViT(width=32, depth=1, num_heads=2)
    teacher = EMATeacher(student)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    before = copy.deepcopy(teacher.encoder.state_dict())
    teacher.update(student, 0.9)
    for name, value in teacher.encoder.state_dict().items():
        torch.testing.assert_close(value, before[name] + 0.1, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_teacher__moves_once_per_optimizer_step(accumulate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    decays: list[float] = []
    before_update = EMATeacher.update

    def recorded(self: EMATeacher, student: torch.nn.Module, decay: float) -> None:
        decays.append(decay)
        before_update(self, student, decay)

    monkeypatch.setattr(EMATeacher, "update", recorded)
    stages = [make_stage(steps=2), make_stage(steps=2)]
    module = make_method(stages, ema_decay=0.5, ema_end_decay=0.9, ema_anneal_steps=4)
    fit(module, clips(8), accumulate_grad_batches=accumulate)
    # Annealed from the first step of a stage on, and again in the second stage.
    assert decays == pytest.approx([0.6, 0.7, 0.6, 0.7])


def test_teacher__stays_in_evaluation_mode() -> None:
    module = make_method()
    module.train()
    assert module.student.training
    assert not module.teacher.training
    assert not any(child.training for child in module.teacher.modules())


# ---- initial weights ------------------------------------------------------------------------------------------------


def test_initial_checkpoint__student_decoder_and_teacher_are_taken_over(tmp_path: Path) -> None:
    first = make_method([make_stage(steps=2)], ema_decay=0.5)
    fit(first, clips(4)).save_checkpoint(tmp_path / "first.ckpt")
    # A rate of zero: the second run ends with the weights that it started with.
    second = make_method([make_stage(steps=1)], initial_checkpoint=str(tmp_path / "first.ckpt"), ema_decay=1.0)
    second.ema_end_decay = 1.0
    fit(second, clips(4))
    before = first.state_dict()
    assert any(
        not torch.equal(before[f"student.{n}"], before[f"teacher.encoder.{n}"]) for n in first.student.state_dict()
    )
    assert all(torch.equal(value, before[name]) for name, value in second.state_dict().items())


def test_initial_checkpoint__a_test_after_a_fit_is_of_what_was_learnt(tmp_path: Path) -> None:
    fit(make_method(), clips(4)).save_checkpoint(tmp_path / "first.ckpt")
    second = make_method(initial_checkpoint=str(tmp_path / "first.ckpt"))
    trainer = fit(second, clips(4))
    learnt = copy.deepcopy(second.state_dict())
    trainer.test(second, clips(4), verbose=False)
    assert all(torch.equal(value, learnt[name]) for name, value in second.state_dict().items())


def test_initial_checkpoint__other_shapes_are_refused(tmp_path: Path) -> None:
    fit(make_method([make_stage(steps=1)]), clips(4)).save_checkpoint(tmp_path / "first.ckpt")
    torch.manual_seed(0)
    other = SSLAM(
        AudioViT(width=64, depth=2, num_heads=2),
        ConvDecoder(width=64, decoder_width=32, depth=1),
        KaldiFbank(num_frames=128),
        InverseBlockMasking(),
        PartialMixing(),
        [make_stage()],
    )
    with pytest.raises(ValueError, match=r"do not fit this model: \d+ tensors differ, such as .* Give the encoder"):
        other.load_initial_weights(tmp_path / "first.ckpt")


# ---- stages ---------------------------------------------------------------------------------------------------------


def test_stages__restart_the_schedule_and_the_optimizer_and_end_the_run() -> None:
    stages = [make_stage(steps=4, objectives=BOOTSTRAPPING), make_stage(steps=3, learning_rate=1e-4)]
    recorder = Recorder()
    trainer = fit(make_method(stages), clips(6), callbacks=[recorder])
    assert trainer.global_step == 7
    assert recorder.rates == pytest.approx([0, 1e-3, 7.5e-4, 2.5e-4, 0, 1e-4, 5e-5])
    assert [count == 0 for count in recorder.states] == [True, False, False, False, True, False, False]


def test_stages__a_longer_run_than_the_stages_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_steps is 9, but the stages end after 4 steps. Leave trainer.max_steps"):
        fit(make_method(), clips(2), max_steps=9)


def test_stages__bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="warmup_steps must be between 0 and the stage's steps, got warmup_steps=9"):
        make_stage(warmup_steps=9)
    with pytest.raises(ValueError, match="source_combination must be one of mean, max, sum, got 'median'"):
        make_stage(source_combination="median")
    with pytest.raises(ValueError, match="num_clones must be at least 1, got 0"):
        make_stage(num_clones=0)
    with pytest.raises(ValueError, match="at least one of them > 0"):
        Objectives(0, 0, 0)
    with pytest.raises(ValueError, match="cls_target_layers must be between 1 and the encoder's depth 2, got 5"):
        make_method([make_stage(cls_target_layers=5)])
    with pytest.raises(ValueError, match="stages is empty"):
        SSLAM(AudioViT(32, 1, 2), ConvDecoder(32), KaldiFbank(), InverseBlockMasking(), PartialMixing(), [])


@pytest.mark.parametrize("name", ["cls_loss_weight", "mask_noise_std", "weight_decay", "ema_anneal_steps"])
def test_method__negative_values_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 0, got -1"):
        make_method(**{name: -1})


def test_method__decays_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="ema_decay must be between 0 and 1, got 2"):
        make_method(ema_decay=2)
    with pytest.raises(ValueError, match="learning_rate must be at least 0, got -1"):
        make_stage(learning_rate=-1)


def test_method__parts_that_do_not_fit_are_refused() -> None:
    parts = (InverseBlockMasking(), PartialMixing(), [make_stage()])
    with pytest.raises(ValueError, match="The decoder's width must be the encoder's 32, got 768"):
        SSLAM(AudioViT(32, 2, 2), ConvDecoder(), KaldiFbank(), *parts)
    with pytest.raises(ValueError, match="num_mel_bins must be the encoder's 128, got 64"):
        SSLAM(AudioViT(32, 2, 2), ConvDecoder(32), KaldiFbank(num_mel_bins=64), *parts)


# ---- training -------------------------------------------------------------------------------------------------------


def test_training__a_tiny_batch_is_overfitted() -> None:
    stage = make_stage(steps=150, learning_rate=3e-3, warmup_steps=10)
    recorder = Recorder()
    fit(make_method([stage], cls_loss_weight=1.0), clips(2), callbacks=[recorder])
    assert sum(recorder.losses[-10:]) < 0.6 * sum(recorder.losses[5:15])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training__gradients_are_clipped_in_either_precision(precision: str) -> None:
    norms = []

    class Norms(pl.Callback):
        def on_before_zero_grad(self, trainer: Any, module: Any, optimizer: Any) -> None:
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            norms.extend([torch.nn.utils.get_total_norm(gradients).item()] if gradients else [])

    fit(make_method(), clips(8), precision=precision, gradient_clip_val=0.5, callbacks=[Norms()])
    assert norms
    assert norms == pytest.approx([0.5] * len(norms), rel=1e-3)


def spoiler(*steps: int) -> pl.Callback:
    """Spoils the gradients of some steps."""

    class Spoiler(pl.Callback):
        def on_after_backward(self, trainer: Any, module: Any) -> None:
            if trainer.global_step in steps:
                next(module.student.parameters()).grad.fill_(float("nan"))

    return Spoiler()


def test_training__a_step_whose_gradients_are_not_finite_is_skipped() -> None:
    module = make_method()
    states: list[dict[str, torch.Tensor]] = []

    class States(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            states.append({name: value.clone() for name, value in module.student.state_dict().items()})

    with pytest.warns(UserWarning, match=r"The gradients of step 2 are not finite, so it changes no weight \(1 such"):
        fit(module, clips(8), callbacks=[spoiler(2), States()])
    assert all(torch.equal(states[1][name], value) for name, value in states[2].items())
    assert not all(torch.equal(states[2][name], value) for name, value in states[3].items())
    assert all(value.isfinite().all() for value in states[-1].values())
    assert module.skipped_steps.count == 1


@pytest.mark.filterwarnings("ignore:The gradients of step")
def test_training__several_such_steps_in_a_row_end_the_run_and_name_the_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SSLAM, "non_finite_steps_to_stop", 2)
    module = make_method()
    with pytest.raises(ValueError, match="of 2 steps in a row, the last of them step 3, are not finite.* clip "):
        fit(module, clips(8), callbacks=[spoiler(0, 2, 3)])
    assert all(parameter.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_training__other_precisions_are_refused(precision: str) -> None:
    with pytest.raises(ValueError, match=f"trainer.precision must be 32-true or bf16-mixed, got {precision}"):
        fit(make_method(), clips(2), precision=precision)


def test_training__draws_differ_from_step_to_step_and_rank_to_rank_but_not_from_run_to_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = make_method()

    def draws() -> list[int]:
        seeds = []
        for step, batch_idx in ((0, 0), (0, 1), (1, 0)):
            monkeypatch.setattr(SSLAM, "global_step", step)
            seeds.append(module.random_source(batch_idx).device.initial_seed())
        return seeds

    drawn = draws()
    assert len(set(drawn)) == 3
    assert drawn == draws()
    monkeypatch.setattr(SSLAM, "global_rank", 1)
    assert not set(drawn) & set(draws())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_training__parameters_follow_the_adam_of_fairseq(accumulate: int) -> None:
    """Five updates in two stages, from gradients down to where epsilon counts."""
    stages = [make_stage(steps=3, warmup_steps=0), make_stage(steps=2, warmup_steps=0, learning_rate=5e-4)]
    method = make_method(stages, weight_decay_exempt_1d=False)
    with torch.no_grad():  # gradients of about epsilon
        method.decoder.projection.weight.mul_(1e-7)
    followed = FairseqAdam(method, stages)
    fit(method, clips(4), callbacks=[followed], accumulate_grad_batches=accumulate, limit_train_batches=2)
    assert followed.num_updates == 5
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.detach().double(), followed.parameters[name], rtol=1e-6, atol=3e-7)


class FairseqAdam(pl.Callback):
    """Adam with decoupled weight decay as in fairseq 0.12.2, `optim/adam.py`, in float64, on a method's gradients."""

    def __init__(self, method: SSLAM, stages: list[Stage]) -> None:
        trained = {name: value for name, value in method.named_parameters() if value.requires_grad}
        self.parameters = {name: value.detach().double() for name, value in trained.items()}
        self.schedule = [(stage.learning_rate_at(step), step) for stage in stages for step in range(stage.steps)]
        self.num_updates = 0

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: torch.optim.Optimizer) -> None:
        rate, step = self.schedule[self.num_updates]
        self.num_updates += 1
        if step == 0:
            self.means = {name: torch.zeros_like(value) for name, value in self.parameters.items()}
            self.squares = {name: torch.zeros_like(value) for name, value in self.parameters.items()}
        gradients = {name: value.grad.double() for name, value in module.named_parameters() if value.grad is not None}
        for name, parameter in self.parameters.items():
            self.means[name] = 0.9 * self.means[name] + 0.1 * gradients[name]
            self.squares[name] = 0.95 * self.squares[name] + 0.05 * gradients[name] ** 2
            denominator = self.squares[name].sqrt() + 1e-8
            size = rate * (1 - 0.95 ** (step + 1)) ** 0.5 / (1 - 0.9 ** (step + 1))
            parameter.mul_(1 - 0.05 * rate).sub_(size * self.means[name] / denominator)


def test_training__weight_decay_exemption() -> None:
    everything = make_method(weight_decay_exempt_1d=False).configure_optimizers()
    assert [group["weight_decay"] for group in everything.param_groups] == [0.05]
    matrices, vectors = make_method().configure_optimizers().param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.05, 0.0)
    assert {parameter.ndim for parameter in vectors["params"]} == {1}
    assert min(parameter.ndim for parameter in matrices["params"]) == 2
