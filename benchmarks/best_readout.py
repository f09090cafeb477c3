"""What encoders know of a folder of recordings, each read out in its best way, beside random weights and MFCCs.

    python benchmarks/best_readout.py --root ESC50.csv --checkpoint seed0.ckpt seed1.ckpt seed2.ckpt

Readouts are mean and standard deviation over time for each frequency row, of each layer and of all of them. Readout and
penalty of a ridge regression are chosen by cross-validation inside the training clips, for each system and each fold by
itself. Recordings of one group and of identical audio are never on two sides.

    single sounds   accuracy of the recordings, in several divisions into five folds
    scenes          mAP of polyphonic scenes rendered from the recordings of three folds in turn, the probe's training
                    scenes from those of the other two

Differences of the checkpoints' mean to random weights of as many seeds, and to the statistics, have 95 % intervals by a
paired bootstrap over recordings (of scenes: over scenes) and seeds; the table's last column is the difference over its
standard error.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.utils.data import DataLoader
from torchaudio.functional import compute_deltas

from data_modules import ClassFolderDataModule, RecordedSoundscapesDataModule
from data_modules.clips import AudioFileDataset
from sslam.checkpoints import read_checkpoint
from sslam.folds import divide
from sslam.frontends import MFCC, Frontend, KaldiFbank
from sslam.metrics.embedding_probe import Split, grouped_folds
from sslam.networks import Encoder, Readout
from sslam.networks.readout import read_out
from sslam.report.intervals import FoldSamples, interval_of, weights_of_resamples
from sslam.report.weighted_metrics import mean_of_weighted, metrics_of_weighted_clips

# Shape letters: B clips of a batch, N clips, T samples, L frames, F mel bins or coefficients, W width, C classes.
PENALTIES = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # times the largest eigenvalue
INNER_FOLDS = 4
SCENE_FOLDS = 3
Array = NDArray[np.float64]
System = Callable[[Tensor], list[Tensor]]
"""Waveforms (B, T) to the vectors (B, W) of each readout."""
Numbers = dict[str, list[FoldSamples]]
"""Samples by kind of data: one for single sounds, one for each fold of the scenes."""


class Clips(NamedTuple):
    """Vectors (N, W) of each readout, labels (N, C), and the number of each clip's recording or scene."""

    vectors: list[NDArray[np.float32]]
    labels_NC: NDArray[np.float32]
    groups_N: NDArray[np.int64]


def encoder_system(frontend: Frontend, encoder: Encoder) -> System:
    layers = range(1, encoder.depth + 1)
    readouts = [*(Readout("row_statistics", [layer]) for layer in layers), Readout("row_statistics", list(layers))]
    return lambda waveform_BT: read_out(encoder, frontend(waveform_BT), readouts)


def random_system(path: str, num_samples: int, seed: int) -> System:
    """Random weights of a checkpoint's architecture."""
    checkpoint = read_checkpoint(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return encoder_system(checkpoint.build_frontend().of_length(num_samples), checkpoint.new_encoder().eval())


def trained_system(path: str, num_samples: int) -> System:
    checkpoint = read_checkpoint(path)
    return encoder_system(checkpoint.build_frontend().of_length(num_samples), checkpoint.build_encoder().eval())


def mean_and_deviation(features_BLF: Tensor) -> Tensor:
    deviation_BF, mean_BF = torch.std_mean(features_BLF, dim=1, correction=0)
    return torch.cat([mean_BF, deviation_BF], dim=1)


def mfcc_system(num_samples: int) -> System:
    """Of 20 and of 40 coefficients, each with and without their differences over time."""
    frontends = [MFCC(num_coefficients=number).of_length(num_samples) for number in (20, 40)]

    def read(waveform_BT: Tensor) -> list[Tensor]:
        vectors = []
        for frontend in frontends:
            features_BLF = frontend(waveform_BT)
            plain_BW = mean_and_deviation(features_BLF)
            differences_BLF = compute_deltas(features_BLF.transpose(1, 2)).transpose(1, 2)
            vectors += [plain_BW, torch.cat([plain_BW, mean_and_deviation(differences_BLF)], dim=1)]
        return vectors

    return read


def log_mel_system(num_samples: int) -> System:
    frontend = KaldiFbank().of_length(num_samples)
    return lambda waveform_BT: [mean_and_deviation(frontend(waveform_BT))]


@torch.no_grad()
def read_clips(systems: Sequence[System], loader: DataLoader[Any], groups: NDArray[np.int64] | None) -> list[Clips]:
    """All clips of a loader that gives whole samples, of each system; without groups each is one of its own."""
    parts: list[list[list[Tensor]]] = [[] for _ in systems]
    labels, rows = [], []
    for batch in loader:
        for found, system in zip(parts, systems, strict=True):
            found.append(system(batch["waveform"]))
        labels.append(batch["labels"].numpy())
        rows.append(batch["index"].numpy())
    row_N, labels_NC = np.concatenate(rows), np.concatenate(labels)
    group_N = row_N if groups is None else groups[row_N]
    return [
        Clips([torch.cat(readout).numpy() for readout in zip(*found, strict=True)], labels_NC, group_N)
        for found in parts
    ]


def kernel_of(vectors_NW: NDArray[np.float32], learnt: NDArray[np.int64]) -> Array:
    """Products of vectors that are standardised over the clips that are learnt from."""
    x_NW = vectors_NW.astype(np.float64)
    deviation_W = x_NW[learnt].std(axis=0)
    z_NW = (x_NW - x_NW[learnt].mean(axis=0)) / (deviation_W + 1e-6 * deviation_W.max() + 1e-12)
    return np.asarray(z_NW @ z_NW.T / z_NW.shape[1])


def ridge(kernel_NN: Array, y_NC: Array, learnt: NDArray[np.int64], tested: NDArray[np.int64]) -> Iterator[Array]:
    """Predictions for the tested clips with each penalty."""
    eigenvalues, vectors = np.linalg.eigh(kernel_NN[np.ix_(learnt, learnt)])
    learnt_projection = vectors.T @ y_NC[learnt]
    tested_projection = kernel_NN[np.ix_(tested, learnt)] @ vectors
    for penalty in PENALTIES:
        yield tested_projection @ (learnt_projection / (eigenvalues.clip(min=0) + penalty * eigenvalues.max())[:, None])


def predict(clips: Clips, learnt: NDArray[np.int64], tested: NDArray[np.int64], inner: Sequence[Split]) -> Array:
    """Scores of the tested clips by the readout and penalty that predict best within the clips that are learnt from."""
    is_single = bool((clips.labels_NC.sum(axis=1) == 1).all())
    y_NC = clips.labels_NC.astype(np.float64) - clips.labels_NC[learnt].mean(axis=0)
    best, chosen = -1.0, (0, 0)
    kernels = [kernel_of(vectors_NW, learnt) for vectors_NW in clips.vectors]
    for readout, kernel_NN in enumerate(kernels):
        scores = np.zeros(len(PENALTIES))
        for fit, check in inner:
            labels_NC = clips.labels_NC[learnt[check]]
            for penalty, found_NC in enumerate(ridge(kernel_NN, y_NC, learnt[fit], learnt[check])):
                scores[penalty] += (
                    float((found_NC.argmax(axis=1) == labels_NC.argmax(axis=1)).sum())
                    if is_single
                    else average_precision_score(labels_NC.ravel(), found_NC.ravel())
                )
        if scores.max() > best:
            best, chosen = scores.max(), (readout, int(scores.argmax()))
    return list(ridge(kernels[chosen[0]], y_NC, learnt, tested))[chosen[1]]


def accuracy_of_singles(clips: Clips, divisions: int) -> FoldSamples:
    """Accuracy, the mean over the divisions of the clips into five folds."""
    right_N = np.zeros(len(clips.labels_NC))
    class_N = clips.labels_NC.argmax(axis=1)
    for division in range(divisions):
        folds_N = divide(class_N, clips.groups_N, 5, division)
        for fold in range(1, 6):
            learnt, tested = np.flatnonzero(folds_N != fold), np.flatnonzero(folds_N == fold)
            inner = grouped_folds(clips.labels_NC[learnt], clips.groups_N[learnt], INNER_FOLDS, 0)
            right_N[tested] += predict(clips, learnt, tested, inner).argmax(axis=1) == class_N[tested]
    accuracy_B = mean_of_weighted(right_N / divisions, weights_of_resamples(clips.groups_N, 0))
    return FoldSamples(accuracy_B[None], len(np.unique(clips.groups_N)), len(right_N))


def map_of_scenes(learnt_clips: Clips, tested_clips: Clips) -> FoldSamples:
    both = Clips(
        [np.concatenate(pair) for pair in zip(learnt_clips.vectors, tested_clips.vectors, strict=True)],
        np.concatenate([learnt_clips.labels_NC, tested_clips.labels_NC]),
        np.arange(len(learnt_clips.labels_NC) + len(tested_clips.labels_NC)),
    )
    learnt, tested = np.split(both.groups_N, [len(learnt_clips.labels_NC)])
    part_N = learnt % INNER_FOLDS
    inner = [(np.flatnonzero(part_N != part), np.flatnonzero(part_N == part)) for part in range(INNER_FOLDS)]
    scores_NC = predict(both, learnt, tested, inner).astype(np.float32)
    weight_NB = weights_of_resamples(np.arange(len(tested)), 0)
    found = metrics_of_weighted_clips(scores_NC, tested_clips.labels_NC > 0, weight_NB, single_label=False)
    return FoldSamples(found["map"][None], len(tested), len(tested))


def stacked(samples: Sequence[FoldSamples]) -> FoldSamples:
    """Samples of several seeds as those of one system."""
    return samples[0]._replace(value_UB=np.concatenate([one.value_UB for one in samples]))


def by_seed(folds: Sequence[FoldSamples]) -> str:
    """The mean over folds of each seed, in per cent."""
    values = np.mean([100 * fold.value_UB[:, 0] for fold in folds], axis=0) if folds else []
    return ", ".join(f"{value:.1f}" for value in values)


def compared(ours: Sequence[FoldSamples], theirs: Sequence[FoldSamples]) -> str:
    """The difference in per cent, its interval, and how many standard errors it is."""
    difference = [mine.minus(other) for mine, other in zip(ours, theirs, strict=True)]
    value = statistics.fmean(fold.value_UB[:, 0].mean() for fold in difference)
    interval = interval_of(difference, "plain")
    error = (interval.high - interval.low) / 2 / student.ppf(0.975, 1000)
    number = f"{value / error:.1f}" if error else "equal"
    return f"{100 * value:+.1f} ({100 * interval.low:+.1f} to {100 * interval.high:+.1f}), {number}"


def clips_of(arguments: argparse.Namespace) -> tuple[DataLoader[Any], NDArray[np.int64]]:
    """The recordings themselves, and the group of each."""
    data = ClassFolderDataModule(
        arguments.root, fold=None, audio=arguments.audio, clip_seconds=arguments.clip_seconds, num_workers=0
    )
    data.setup("fit")
    assert isinstance(data.train_set, AudioFileDataset)
    joined = ClassFolderDataModule(arguments.root, audio=arguments.audio)  # with copies
    return DataLoader(data.train_set.evaluation_view(), batch_size=20), joined.contents.groups_N


def scenes_of(arguments: argparse.Namespace, fold: int) -> list[DataLoader[Any]]:
    """Scenes to learn from and to test on."""
    data = RecordedSoundscapesDataModule(
        arguments.root,
        fold,
        SCENE_FOLDS,
        audio=arguments.audio,
        clip_seconds=arguments.clip_seconds,
        num_train_scenes=arguments.scenes[0],
        num_val_scenes=0,
        num_test_scenes=arguments.scenes[1],
        num_workers=0,
    )
    data.setup("fit")
    data.setup("test")
    return [DataLoader(part, batch_size=20) for part in (data.train_set, data.test_set) if part is not None]


def numbers_of(systems: Sequence[System], arguments: argparse.Namespace) -> list[Numbers]:
    """Samples of each system."""
    loader, groups_N = clips_of(arguments)
    numbers: list[Numbers] = [
        {"single sounds": [accuracy_of_singles(clips, arguments.divisions)], "scenes": []}
        for clips in read_clips(systems, loader, groups_N)
    ]
    for fold in range(1, SCENE_FOLDS + 1 if arguments.scenes[0] else 1):
        both = [read_clips(systems, scenes, None) for scenes in scenes_of(arguments, fold)]
        for own, learnt, tested in zip(numbers, *both, strict=True):
            own["scenes"].append(map_of_scenes(learnt, tested))
    return numbers


def main(args: Sequence[str] | None = None) -> None:
    """Print what is measured as it comes, then the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of class folders, or CSV file of file,label[,group]")
    parser.add_argument("--audio", help="folder of the CSV file's audio, where it does not lie beside it")
    parser.add_argument("--checkpoint", nargs="+", required=True, help="one recipe's checkpoints, one a seed")
    parser.add_argument("--clip_seconds", type=float, default=5.0)
    parser.add_argument("--divisions", type=int, default=3, help="into five folds (default: %(default)s)")
    parser.add_argument("--scenes", type=int, nargs=2, default=(400, 300), help="to learn from, to test on; 0 0: none")
    arguments = parser.parse_args(args)
    length = round(16_000 * arguments.clip_seconds)
    first, seeds = arguments.checkpoint[0], range(len(arguments.checkpoint))
    systems = {
        "log-mel statistics": [log_mel_system(length)],
        "MFCC statistics": [mfcc_system(length)],
        "random weights": [random_system(first, length, seed) for seed in seeds],
        "checkpoints": [trained_system(path, length) for path in arguments.checkpoint],
    }
    found = iter(numbers_of([system for seeds in systems.values() for system in seeds], arguments))
    numbers: dict[str, Numbers] = {}
    print("| in per cent | accuracy, single sounds | mAP, scenes |\n|---|---|---|")
    for name, of_seeds in systems.items():
        own = [next(found) for _ in of_seeds]
        numbers[name] = {
            kind: [stacked(fold) for fold in zip(*(one[kind] for one in own), strict=True)] for kind in own[0]
        }
        print(f"| {name} | {' | '.join(map(by_seed, numbers[name].values()))} |")
    print("| checkpoints against | single sounds, standard errors | scenes, standard errors |\n|---|---|---|")
    ours = numbers.pop("checkpoints")
    for name, theirs in numbers.items():
        cells = [compared(ours[kind], theirs[kind]) if ours[kind] else "" for kind in ours]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
