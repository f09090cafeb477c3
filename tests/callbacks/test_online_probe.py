"""The probe during training: that it measures, that it disturbs nothing, that a checkpoint can be chosen by it."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from callbacks import LossCurves, OnlineProbe
from callbacks.probed_clips import ProbedClips
from data_modules import ESC50DataModule
from sslam.frontends import KaldiFbank
from sslam.methods import SSLAM, Objectives, Stage
from sslam.metrics.embedding_probe import probe_embeddings
from sslam.networks import AudioViT, ConvDecoder, Encoder
from sslam.networks.pooling import pool_tokens
from sslam.transforms import InverseBlockMasking, PartialMixing
from tests.callbacks.two_ranks import free_port, join_two_ranks
from tests.methods.contrastive_method import make_method as contrastive_method
from tests.methods.contrastive_method import scenes

SAMPLES = 16000 * 128 // 100 + 240


class Tones(Dataset[Any]):
    """Tones of three pitches in noise, two clips of every recording; careless with random numbers."""

    groups = np.arange(24) // 2

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Any]:
        torch.rand(1), np.random.random(), random.random()
        label = int(self.groups[index]) % 3
        seconds = torch.arange(SAMPLES) / 16000
        noise = torch.randn(SAMPLES, generator=torch.Generator().manual_seed(index))
        tone = torch.sin(6.28 * 400 * 2**label * seconds)
        waveform = 0.1 * tone + 0.05 * noise
        return {"waveform": waveform, "num_samples": SAMPLES, "index": index, "labels": torch.eye(3)[label]}


class TonesData(pl.LightningDataModule):
    class_names = ("low", "middle", "high")
    single_label = True
    training_groups = Tones.groups

    def setup(self, stage: str) -> None:
        self.train_set = Tones()


def make_sslam(drop_path: float = 0.0) -> SSLAM:
    torch.manual_seed(0)
    stages = [Stage(8, 1e-3, 1, num_clones=2, objectives=Objectives(1, 0, 0), cls_target_layers=None)]
    encoder = AudioViT(width=32, depth=2, num_heads=2, drop_path=drop_path)
    decoder = ConvDecoder(width=32, decoder_width=32, depth=1, groups=4)
    masking, mixing = InverseBlockMasking(), PartialMixing()
    return SSLAM(encoder, decoder, KaldiFbank(num_frames=128), masking, mixing, stages, ema_decay=0.5)


def probe(**changes: Any) -> OnlineProbe:
    return OnlineProbe(**({"data": TonesData(), "every_n_steps": 4, "batch_size": 7} | changes))


class Recorder(pl.Callback):
    """Keeps losses, which modules are in training mode, and the scores after each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.modes: list[list[bool]] = []
        self.scores: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self.losses.append(loss.item())
        self.modes.append([module.training for module in pl_module.modules()])
        self.scores.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("online/")})


@pytest.mark.parametrize("weights", ["student", "teacher"])
def test_online_probe__training_is_the_same_to_the_bit_with_dropped_paths(clips: Any, fit: Any, weights: Any) -> None:
    def run(callbacks: list[pl.Callback]) -> tuple[Recorder, dict[str, Tensor], list[float]]:
        module, recorder = make_sslam(drop_path=0.5), Recorder()
        module.student.blocks[0].eval()  # one that somebody has frozen
        pl.seed_everything(1, verbose=False)
        fit(module, clips, [*callbacks, recorder])
        return recorder, module.state_dict(), [torch.rand(1).item(), float(np.random.random()), random.random()]

    plain, weights_before, draws = run([])
    probed, weights_after, draws_after = run([probe(weights=weights)])
    assert len(plain.losses) == 8
    assert plain.losses == probed.losses
    assert plain.modes == probed.modes
    assert draws == draws_after
    assert all(torch.equal(value, weights_after[name]) for name, value in weights_before.items())
    assert plain.scores[-1] == {}
    assert probed.scores[-1].keys() == {
        f"online/{name}" for name in ("knn_accuracy", "probe_accuracy", "random_knn_accuracy", "random_probe_accuracy")
    }


@pytest.mark.parametrize("weights", ["student", "teacher"])
def test_online_probe__scores_are_those_of_the_weights_of_their_step(clips: Any, fit: Any, weights: Any) -> None:
    module, recorder = make_sslam(), Recorder()
    fit(module, clips, [probe(weights=weights), recorder], max_steps=4)

    def expected(encoder: Encoder) -> dict[str, float]:
        data = TonesData()
        data.setup("fit")
        clips = ProbedClips.read(data, 400, 4, 0)
        with torch.no_grad():
            features_NLF = KaldiFbank(num_frames=128)(clips.waveform_NT, clips.num_samples_N)
            embedding_NW = pool_tokens(encoder.eval()(features_NLF), "row_statistics", 8)
        return probe_embeddings(embedding_NW.numpy(), clips.labels_NC, clips.groups_N, clips.splits, True)

    encoder = module.student if weights == "student" else module.teacher.encoder
    torch.manual_seed(0)
    random_scores = expected(AudioViT(width=32, depth=2, num_heads=2))
    assert recorder.scores[-1] == pytest.approx(
        {f"online/{name}": value for name, value in expected(encoder).items()}
        | {f"online/random_{name}": value for name, value in random_scores.items()},
        abs=1e-6,
    )
    assert random_scores["probe_accuracy"] > 0.5  # tones are easy


def test_online_probe__is_a_curve_beside_a_constant_in_logs_and_picture(clips: Any, fit: Any, tmp_path: Path) -> None:
    curves, logger = LossCurves(), CSVLogger(tmp_path, name="", version="run")
    # Before and after the curves in the list; accumulated batches are one step.
    options = {"logger": logger, "accumulate_grad_batches": 2, "max_steps": 6}
    fit(make_sslam(), clips, [curves, probe()], **options)
    points = {key: points for key, points in curves.points.items() if key.startswith("online/") and points}
    assert {key: list(values) for key, values in points.items()} == {key: [0, 4, 6] for key in points}
    assert len(points) == 4
    assert len(set(points["online/random_probe_accuracy"].values())) == 1
    lines = [line.split(",") for line in (tmp_path / "run/metrics.csv").read_text().splitlines()]
    column = lines[0].index("online/probe_accuracy")
    logged = {int(row[lines[0].index("step")]): float(row[column]) for row in lines[1:] if row[column]}
    assert logged == pytest.approx(points["online/probe_accuracy"])
    assert (tmp_path / "run/loss_curves.png").exists()


def test_online_probe__chooses_the_best_checkpoint(clips: Any, fit: Any, tmp_path: Path) -> None:
    curves = LossCurves()
    best = ModelCheckpoint(tmp_path, "{step}", monitor="online/probe_accuracy", mode="max", every_n_train_steps=2)
    fit(make_sslam(), clips, [best, probe(every_n_steps=2), curves], enable_checkpointing=True)
    scores = curves.points["online/probe_accuracy"]
    assert list(scores) == [0, 2, 4, 6, 8]
    assert best.best_model_score is not None
    after_start = {step: score for step, score in scores.items() if step > 0}
    assert best.best_model_score.item() == pytest.approx(max(after_start.values()))
    step = int(Path(best.best_model_path).stem.removeprefix("step="))
    assert after_start[step] == max(after_start.values())


def test_online_probe__a_resumed_run_goes_on_with_the_curve(clips: Any, fit: Any, tmp_path: Path) -> None:
    straight, resumed = LossCurves(), LossCurves()
    same = DataLoader(list(clips.dataset)[:2] * 8, batch_size=2)  # equal batches, for a plain loader begins anew
    kept = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=5, save_top_k=-1)
    fit(make_sslam(), same, [straight, probe(), kept], enable_checkpointing=True)
    again = probe()
    recorder = Recorder()
    fit(make_sslam(), same, [resumed, again, recorder], ckpt_path=tmp_path / "step=5.ckpt")
    assert resumed.points == straight.points
    # What a checkpoint is chosen by is there before the next probe.
    assert recorder.scores[0]["online/probe_accuracy"] == pytest.approx(straight.points["online/probe_accuracy"][4])


def test_online_probe__takes_a_contrastive_encoder_and_clips_with_several_labels(fit: Any) -> None:
    """CNN14, built-in scenes: average precision, and an encoder whose batch norms must not learn from the probe."""
    labelled = scenes(num_train_scenes=24)

    def run(callbacks: list[pl.Callback]) -> tuple[Recorder, dict[str, Tensor]]:
        module, recorder = contrastive_method(), Recorder()
        data = scenes()
        data.setup("fit")
        fit(module, data.train_dataloader(), [*callbacks, recorder], max_steps=3)
        return recorder, module.state_dict()

    recorder, weights = run([probe(data=labelled, every_n_steps=2, num_folds=2)])
    plain, weights_before = run([])
    assert recorder.losses == plain.losses
    assert all(torch.equal(value, weights[name]) for name, value in weights_before.items())
    assert recorder.scores[-1].keys() == {
        f"online/{name}" for name in ("knn_map", "probe_map", "random_knn_map", "random_probe_map")
    }


class Unlabelled(pl.LightningDataModule):
    def setup(self, stage: str) -> None:
        self.train_set = Tones()


class OneClass(TonesData):
    def setup(self, stage: str) -> None:
        self.train_set = torch.utils.data.Subset(Tones(), [0, 1, 6, 7, 12, 13, 18, 19])  # type: ignore[assignment]


def test_online_probe__what_it_cannot_probe_is_refused(clips: Any, fit: Any) -> None:
    with pytest.raises(ValueError, match="needs labelled clips, and Unlabelled has no classes. Give it labelled data"):
        fit(make_sslam(), clips, [probe(data=Unlabelled())])
    with pytest.raises(ValueError, match="The data of OnlineProbe in trainer.callbacks: ESC-50 folder 'none' does not"):
        fit(make_sslam(), clips, [probe(data=ESC50DataModule("none"))])
    with pytest.raises(ValueError, match="needs two classes at least, and its 8 clips have 1"):
        fit(make_sslam(), clips, [probe(data=OneClass())])
    with pytest.raises(ValueError, match="num_folds is 9, and the 24 clips of the probe make 8 folds at most"):
        fit(make_sslam(), clips, [probe(num_folds=9)])
    with pytest.raises(ValueError, match="finds no teacher in SeparationContrastive. Give weights student"):
        fit(contrastive_method(), clips, [probe(weights="teacher")])
    module = make_sslam()
    del module.student.num_rows
    with pytest.raises(ValueError, match="AudioViT has no num_rows.* or take pooling statistics"):
        fit(module, clips, [probe()])


@pytest.mark.parametrize("is_first", [True, False])
def test_online_probe__all_processes_end_with_what_the_first_refuses(
    is_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others have read nothing, and would wait for the first."""
    said: list[str] = []

    def broadcast(own: str) -> str:
        said.append(own)
        return "the first one's reason"

    def refuse(*_: Any) -> None:
        raise ValueError("the first one's reason")

    monkeypatch.setattr(ProbedClips, "read", refuse)
    trainer: Any = SimpleNamespace(is_global_zero=is_first, strategy=SimpleNamespace(broadcast=broadcast))
    with pytest.raises(ValueError, match="the first one's reason"):
        probe().on_train_start(trainer, make_sslam())
    assert said == ["the first one's reason" if is_first else ""]


@pytest.mark.parametrize(("name", "least"), [("every_n_steps", 1), ("max_clips", 1), ("num_folds", 2), ("seed", 0)])
def test_online_probe__numbers_out_of_range_are_refused(name: str, least: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least {least}, got {least - 1}"):
        probe(**{name: least - 1})


@pytest.mark.distributed
def test_online_probe__two_ranks_agree_and_keep_the_best_checkpoint(tmp_path: Path) -> None:
    context = torch.multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    torch.multiprocessing.spawn(run_rank, args=(free_port(), str(tmp_path), results), nprocs=2)
    (_, first, path), (_, second, _) = sorted(results.get() for _ in range(2))
    assert first == second
    assert len(first) == 4
    assert Path(path).exists()


def run_rank(rank: int, port: int, folder: str, results: Any) -> None:
    join_two_ranks(rank, port)
    data = DataLoader([Tones()[index] for index in range(16)], batch_size=2)
    best = ModelCheckpoint(folder, "{step}", monitor="online/probe_accuracy", mode="max", every_n_train_steps=2)
    trainer = pl.Trainer(
        callbacks=[probe(every_n_steps=2), best],
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_steps=4,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(make_sslam(), data)
    scores = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("online/")}
    results.put((rank, scores, best.best_model_path))
