"""The method in training; views, losses, heads and metrics have their own tests."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks import RetrievalEvaluation, StepCheckpoints
from data_modules import FolderDataModule
from sslam.frontends import LogMel
from sslam.losses import NTXent, coincidence_loss, nt_xent_loss
from sslam.separation import Processors
from sslam.transforms import ChannelAgainstChannel, MixtureAgainstAny, MixtureAgainstMixture, RandomSource
from tests.methods.contrastive_method import (
    CROP,
    SAMPLES,
    clips,
    make_method,
    make_trainer,
    random_source,
    scenes,
    write_clips,
    write_separator,
)

# ---- views ----------------------------------------------------------------------------------------------------------


def test_views__are_what_a_loop_over_clips_makes(separators: Path) -> None:
    waveform_BT, num_samples_B = clips(6), torch.tensor([8000, 8000, 7000, 8000, 6000, 7000])
    waveform_BT[torch.arange(SAMPLES) >= num_samples_B.unsqueeze(1)] = 0
    method = make_method(separators, comparison=MixtureAgainstAny())
    snippets_BVC = method.views(waveform_BT, num_samples_B, None, random_source())
    draws = method.draw_views(num_samples_B, random_source())
    networks = [write_separator(separators / "unused.ckpt", seed) for seed in (0, 2)]
    for clip, (processor, sources, starts) in enumerate(zip(*draws, strict=True)):
        # Each clip alone and at its true length, which the norm over time is sensitive to.
        waveform_T = waveform_BT[clip, : num_samples_B[clip]]
        with torch.no_grad():
            channels_NT = networks[processor](waveform_T[None])[0]
        every_ST = torch.cat([waveform_T[None], channels_NT])
        for view, (source, start) in enumerate(zip(sources, starts, strict=True)):
            expected_C = every_ST[source, start : start + CROP]
            torch.testing.assert_close(snippets_BVC[clip, view], expected_C, rtol=1e-4, atol=1e-6)


def test_views__of_the_mixture_alone_need_no_separator() -> None:
    method = make_method()
    waveform_BT = clips()
    snippets_BVC = method.views(waveform_BT, torch.full((4,), SAMPLES), None, random_source())
    draws = method.draw_views(torch.full((4,), SAMPLES), random_source())
    start = int(draws.start_BV[2, 1])
    assert torch.equal(snippets_BVC[2, 1], waveform_BT[2, start : start + CROP])


def test_views__snippets_must_be_shorter_than_clips() -> None:
    method = make_method(frontend=LogMel(num_frames=96))
    with pytest.raises(
        ValueError, match=r"96 frames have 15600 samples and clips 8000.*Give the front end a num_frames of 96"
    ):
        method.views(clips(), torch.full((4,), SAMPLES), None, random_source())


def test_processors__are_not_part_of_the_method(separators: Path) -> None:
    method = make_method(separators)
    without = make_method()
    assert method.state_dict().keys() == without.state_dict().keys()
    assert method.processors is not None
    assert not any(parameter.requires_grad for one in method.processors.separators for parameter in one.parameters())
    # Where nothing is separated, separators are not used although they are given.
    assert make_method(separators, comparison=MixtureAgainstMixture()).processors is None


# ---- losses ---------------------------------------------------------------------------------------------------------


def test_losses__are_those_of_each_tasks_own_pair() -> None:
    method = make_method(spec_augment=None)
    waveform_BT, num_samples_B = clips(), torch.full((4,), SAMPLES)
    terms = method.losses(waveform_BT, num_samples_B, None, random_source())
    snippets_BVC = method.views(waveform_BT, num_samples_B, None, random_source())
    embeddings = [method.encoder(method.frontend(snippets_BVC[:, view]))[:, 0] for view in range(4)]
    assert method.similarity_head is not None
    assert method.coincidence_head is not None
    similarity = nt_xent_loss(method.similarity_head(embeddings[0]), method.similarity_head(embeddings[1]), 0.3)
    coincidence = coincidence_loss(method.coincidence_head(embeddings[2], embeddings[3]))
    torch.testing.assert_close(terms["similarity"], similarity)
    torch.testing.assert_close(terms["coincidence"], coincidence)


@pytest.mark.parametrize("task", ["similarity", "coincidence"])
def test_losses__of_one_task(task: str) -> None:
    other = {"similarity": "coincidence", "coincidence": "similarity"}[task]
    method = make_method(**{other: None})
    terms = method.losses(clips(), torch.full((4,), SAMPLES), None, random_source())
    assert set(terms) == {task}
    assert method.num_pairs == 1
    assert not any(name.startswith(other) for name, _ in method.named_parameters())


def test_losses__spec_augment_is_drawn_for_every_snippet() -> None:
    method = make_method()
    silence = torch.zeros(2, 4, CROP)
    silence[:] = clips(1)[0, :CROP]  # the same eight times
    embedding_BVD = method.embed_snippets(silence, random_source()).flatten(0, 1)
    assert len(embedding_BVD.unique(dim=0)) == 8
    torch.testing.assert_close(method.embed_snippets(silence, random_source()).flatten(0, 1), embedding_BVD)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"similarity": None, "coincidence": None}, "There is no task: similarity and coincidence are both null"),
        (
            {"comparison": ChannelAgainstChannel()},
            "ChannelAgainstChannel needs separated channels. Give processors",
        ),
        ({"frontend": LogMel(sample_rate=22_050)}, "sample_rate must be the clips' 16000 Hz, got 22050"),
        ({"learning_rate": 0.0}, r"learning_rate must be greater than 0, got 0\.0"),
        ({"frontend": LogMel(num_mel_bins=32)}, "num_mel_bins must be the encoder's 64, got 32"),
    ],
)
def test_separation_contrastive__refuses_what_does_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_method(**changes)


def test_processors__refuse_what_does_not_fit(separators: Path) -> None:
    write_separator(separators / "step=00000000.ckpt", 0, num_sources=1)
    write_separator(separators / "end.ckpt", 0, num_sources=1)
    with pytest.raises(ValueError, match="ChannelAgainstChannel needs separators with at least 2 channels, got 1"):
        make_method(separators, comparison=ChannelAgainstChannel())
    write_separator(separators / "end.ckpt", 0, num_sources=2)
    write_separator(separators / "three.ckpt", 0, num_sources=3)
    with pytest.raises(ValueError, match="same number of channels, got 2, 3. Take checkpoints of one run"):
        Processors(["end.ckpt", "three.ckpt"], str(separators))
    with pytest.raises(ValueError, match="files is empty"):
        Processors([])
    with pytest.raises(ValueError, match="no_such"):
        Processors(["no_such.ckpt"], str(separators))


# ---- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training__lowers_the_loss_and_evaluates_retrieval(separators: Path, tmp_path: Path, precision: Any) -> None:
    method = make_method(separators, learning_rate=3e-3)
    trainer = make_trainer(
        tmp_path, max_steps=40, precision=precision, callbacks=[RetrievalEvaluation()], check_val_every_n_epoch=5
    )
    data = scenes(fresh_each_epoch=False)
    before = make_trainer(tmp_path).validate(method, data, verbose=False)[0]["val/loss"]
    trainer.fit(method, data)
    assert trainer.callback_metrics["val/loss"] < before
    assert 0 < trainer.callback_metrics["val/qbe_map"] < 1
    assert all(parameter.isfinite().all() for parameter in method.parameters())


def test_training__draws_anew_at_every_step(tmp_path: Path) -> None:
    method, starts = make_method(), []
    draw = method.draw_views

    def recorded(num_samples_B: Tensor, random: RandomSource) -> Any:
        draws = draw(num_samples_B, random)
        starts.append(draws.start_BV)
        return draws

    method.draw_views = recorded  # type: ignore[method-assign]
    data = scenes(num_train_scenes=8, num_val_scenes=0)  # an epoch is one batch, whose number is always 0
    make_trainer(tmp_path, max_steps=3).fit(method, data)
    assert len(torch.stack(starts).unique(dim=0)) == 3


def test_training__goes_on_exactly(separators: Path, tmp_path: Path) -> None:
    straight = make_method(separators)
    make_trainer(tmp_path, max_steps=4).fit(straight, scenes())
    make_trainer(tmp_path, max_steps=2, callbacks=[StepCheckpoints([1])]).fit(make_method(separators), scenes())
    half = tmp_path / "checkpoints" / "kept" / "step=00000001.ckpt"
    resumed = make_method(separators)
    make_trainer(tmp_path, max_steps=4).fit(resumed, scenes(), ckpt_path=half, weights_only=True)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def validate_on_two_processes(folder: str, num_clips: int, gather_negatives: bool, rank_count: int = 2) -> float:
    data = scenes(batch_size=4, num_val_scenes=num_clips, num_train_scenes=16)
    method = make_method(similarity=NTXent(gather_negatives=gather_negatives))
    trainer = make_trainer(Path(folder), devices=rank_count, strategy="ddp_spawn" if rank_count > 1 else "auto")
    return float(trainer.validate(method, data, verbose=False)[0]["val/loss"])


@pytest.mark.distributed
@pytest.mark.parametrize(("num_clips", "gather_negatives"), [(11, True), (3, False)])
def test_validation__with_few_and_odd_clips_ends_on_two_processes(
    num_clips: int, gather_negatives: bool, tmp_path: Path
) -> None:
    # One process has another number of batches, or none that can be compared.
    assert 0 < validate_on_two_processes(str(tmp_path), num_clips, gather_negatives) < 20


def test_retrieval_evaluation__needs_labels_to_validate(tmp_path: Path) -> None:
    write_clips(tmp_path / "clips")
    data = FolderDataModule(str(tmp_path / "clips"), batch_size=2, num_workers=0, clip_seconds=1.0, val_fraction=0.4)
    with pytest.raises(ValueError, match="FolderDataModule has no classes. Take labelled data"):
        make_trainer(tmp_path, callbacks=[RetrievalEvaluation()]).validate(make_method(), data)


def test_retrieval_evaluation__needs_labels(tmp_path: Path) -> None:
    write_clips(tmp_path / "clips")
    data = FolderDataModule(str(tmp_path / "clips"), batch_size=2, num_workers=0, clip_seconds=1.0)
    with pytest.raises(ValueError, match="FolderDataModule has no classes. Take labelled data"):
        make_trainer(tmp_path, max_steps=1, callbacks=[RetrievalEvaluation()]).fit(make_method(), data)


def test_embed__is_of_the_whole_clip(tmp_path: Path) -> None:
    method = make_method().eval()
    waveform_BT = clips(2)
    embedding_BD = method.embed(waveform_BT, torch.tensor([SAMPLES, SAMPLES]))
    frontend = LogMel(num_frames=math.ceil(SAMPLES / 160))
    expected_BD = method.encoder(frontend(waveform_BT))[:, 0]
    torch.testing.assert_close(embedding_BD, expected_BD)
