"""What the numbers of a cell are resampled from: the scores beside its records.

Shape letters: H heads, N clips, C classes, U heads or seeds, B columns of weights.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from sslam.report.intervals import FoldSamples, weights_of_resamples
from sslam.report.results import Run
from sslam.report.tables import ACCURACY, MSI, ONE_SOURCE, QBE_MAP, Cell
from sslam.report.weighted_metrics import mean_of_weighted, metrics_of_weighted_clips

TOLERANCE = 2e-4  # sums over many clips are in float32


class SamplesError(ValueError):
    """Why a cell has no intervals."""


class Resampled(NamedTuple):
    """Samples of one fold by metric; two systems can be paired where `clips` are equal."""

    by_metric: dict[str, FoldSamples]
    clips: tuple[bytes, ...]
    """What was resampled: index, recordings and labels of the clips; of retrieval, the classes and their examples."""


def samples_of(cell: Cell) -> dict[int | None, Resampled]:
    """Samples of every fold of a cell: of its seeds where a fold has several, else of the heads of its run.

    Raises:
        SamplesError: If scores are missing, damaged, or not those of the records.
    """
    samples = {}
    for fold in cell.by_fold:
        runs = [run for run in cell.runs if run.record.data.fold == fold]
        samples[fold] = samples_of_seeds(sorted(runs, key=lambda run: run.record.seed))
    return samples


def samples_of_seeds(runs: Sequence[Run], polyphony: tuple[int, int | None] | None = None) -> Resampled:
    """Samples of runs that differ in a seed, one row for each; of one run, of its heads.

    Args:
        runs: One or more.
        polyphony: Least and most events that sound at once in the clips that count; no bound where that is None.

    Raises:
        SamplesError: If scores are missing, damaged, not those of the records, or of other clips than each other's.
    """
    found = [_samples_of_run(run, polyphony) for run in runs]
    if any(other.clips != found[0].clips for other in found):
        raise SamplesError("its seeds were evaluated on different clips")
    if len(found) == 1:
        return found[0]
    by_metric = {
        key: samples._replace(value_UB=np.stack([other.by_metric[key].value_UB.mean(axis=0) for other in found]))
        for key, samples in found[0].by_metric.items()
    }
    return Resampled(by_metric, found[0].clips)


def _samples_of_run(run: Run, polyphony: tuple[int, int | None] | None) -> Resampled:
    path = run.path.with_name(f"scores-{run.record.stage}.npz")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            of_clips = _of_separation if MSI.key in run.record.metrics else _of_classifiers
            all_clips = _of_retrieval(arrays) if QBE_MAP.key in run.record.metrics else of_clips(arrays, run)
            found = all_clips if polyphony is None else of_clips(_of_polyphony(arrays, *polyphony), run)
    except FileNotFoundError:
        raise SamplesError(f"{path.name} is not beside {run.path}") from None
    except (OSError, BadZipFile, ValueError, KeyError) as error:
        raise SamplesError(f"{path} cannot be used ({error})") from error
    for key, samples in all_clips.by_metric.items():
        number = run.record.metrics.get(key, np.nan)
        if not np.isclose(samples.value_UB[:, 0].mean(), number, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
            raise SamplesError(f"{path} is of another evaluation than {run.path.name}")
    return found


def _of_polyphony(
    arrays: Mapping[str, NDArray[np.generic]], least: int, most: int | None
) -> dict[str, NDArray[np.generic]]:
    """The arrays of the clips in which so many events sound at once."""
    if "polyphony" not in arrays:
        raise ValueError("the data does not say how many events sound at once")
    polyphony_N = np.asarray(arrays["polyphony"])
    is_kept_N = (polyphony_N >= least) & (polyphony_N <= (np.inf if most is None else most))
    if not is_kept_N.any():
        raise ValueError(f"there is no clip of polyphony {least} to {'any' if most is None else most}")
    return {
        name: np.compress(is_kept_N, arrays[name], axis=1 if name == "scores" else 0)
        for name in arrays
        if name != "class_names"
    }


def _of_classifiers(arrays: Mapping[str, NDArray[np.generic]], run: Run) -> Resampled:
    scores_HNC, labels_NC, index_N = (np.asarray(arrays[name]) for name in ("scores", "labels", "index"))
    if scores_HNC.ndim != 3 or scores_HNC.shape[1:] != labels_NC.shape or len(index_N) != len(labels_NC):
        raise ValueError(f"scores have shape {scores_HNC.shape} and labels {labels_NC.shape}")
    group_N = np.asarray(arrays["group"]) if "group" in arrays else index_N
    weight_NB = weights_of_resamples(group_N.astype(np.int64), run.record.data.fold or 0)
    is_single_label = ACCURACY.key in run.record.metrics
    heads = [metrics_of_weighted_clips(scores_NC, labels_NC, weight_NB, is_single_label) for scores_NC in scores_HNC]
    num_groups, num_clips = len(np.unique(group_N)), len(index_N)
    return Resampled(
        {key: FoldSamples(np.stack([head[key] for head in heads]), num_groups, num_clips) for key in heads[0]},
        (index_N.tobytes(), group_N.tobytes(), np.packbits(labels_NC).tobytes()),
    )


def _of_separation(arrays: Mapping[str, NDArray[np.generic]], run: Run) -> Resampled:
    """Means over pairs of source and estimate, of which clips have several or none."""
    index_N, num_sources_N = np.asarray(arrays["index"]), np.asarray(arrays["polyphony"])
    group_N = np.asarray(arrays["group"]) if "group" in arrays else index_N
    weight_NB = weights_of_resamples(group_N.astype(np.int64), run.record.data.fold or 0).astype(np.float64)
    num_groups = len(np.unique(group_N))
    by_metric = {}
    for metric, total, number in ((MSI, "improvement", "num_pairs"), (ONE_SOURCE, "si_snr", "num_singles")):
        sum_B, number_B = (np.asarray(arrays[name], np.float64) @ weight_NB for name in (total, number))
        value_B = np.divide(sum_B, number_B, out=np.full_like(sum_B, np.nan), where=number_B > 0)
        by_metric[metric.key] = FoldSamples(value_B[None], num_groups, len(index_N))
    return Resampled(by_metric, (index_N.tobytes(), group_N.tobytes(), num_sources_N.tobytes()))


def _of_retrieval(arrays: Mapping[str, NDArray[np.generic]]) -> Resampled:
    """Of retrieval the classes are resampled: of its clips' pairs only each class's average precision is kept."""
    precision_C = np.asarray(arrays["average_precision"], np.float64)
    has_trials_C = ~np.isnan(precision_C)
    num_classes = int(has_trials_C.sum())
    by_metric = {}
    if num_classes:
        weight_CB = weights_of_resamples(np.arange(num_classes), 0)
        value_B = mean_of_weighted(precision_C[has_trials_C], weight_CB)
        by_metric[QBE_MAP.key] = FoldSamples(value_B[None], num_classes, num_classes)
    return Resampled(by_metric, (np.packbits(has_trials_C).tobytes(), np.asarray(arrays["num_examples"]).tobytes()))
