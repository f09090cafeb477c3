"""Does tagging the separated sources of a scene find more than tagging the scene?

    python benchmarks/separate_then_tag.py --separator SEPARATOR.ckpt --tagger FINE_TUNED.ckpt [--scenes RENDERED]

Scenes are those in which two sounds of two classes are heard at once: built-in ones of 2 s, as
`experiments/separate_soundscapes.yaml` trains on, or the test scenes in a folder of `sslam data render`. A class's
score in a scene is the greatest probability that the tagger gives it in

    mixture              the scene itself
    sources              all that the separator makes of it, as `sslam separate --then tag` does
    loud sources         those of them less than 20 dB below the loudest
    mixture and sources  either
    known sources        the sounds as they were before they were mixed: what a perfect separator would give

Numbers are mAP and recall: the share of a scene's two classes among its two best scores. All have 95 % intervals, and
so have the differences to the mixture, by a paired bootstrap over scenes.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_modules import RenderedSoundscapesDataModule, SoundscapesDataModule
from data_modules.scene_files import read_settings
from sslam.checkpoints import load_separator
from sslam.embedding import AudioEmbedder
from sslam.errors import UsageError
from sslam.networks import Separator
from sslam.report.intervals import FoldSamples, Interval, interval_of, weights_of_resamples
from sslam.report.weighted_metrics import mean_of_weighted, metrics_of_weighted_clips

# Shape letters: B scenes of a batch, N scenes, S sources, T samples, C classes.
LOUD_DB = 20.0
NUM_SOUNDS = 2
SEED = 0
Scores = dict[str, NDArray[np.float32]]


class Number(NamedTuple):
    """A number, its interval, and its difference to that of the mixture."""

    value: float
    interval: Interval
    difference: float
    difference_interval: Interval


def scenes_of(arguments: argparse.Namespace) -> SoundscapesDataModule | RenderedSoundscapesDataModule:
    """Test scenes with their sources, where these are there."""
    shared = {"batch_size": arguments.batch_size, "num_workers": 0}
    data: SoundscapesDataModule | RenderedSoundscapesDataModule
    if arguments.scenes is None:
        two = (NUM_SOUNDS, NUM_SOUNDS)
        data = SoundscapesDataModule(
            num_test_scenes=arguments.num_scenes,
            events_per_scene=two,
            polyphony=two,
            event_seconds=(0.5, 2.0),
            snr_db=(25.0, 35.0),
            return_stems=True,
            clip_seconds=2.0,
            **shared,
        )
    else:
        settings = read_settings(arguments.scenes)
        data = RenderedSoundscapesDataModule(
            str(arguments.scenes), settings["stems"], clip_seconds=settings["clip_seconds"], **shared
        )
    data.setup("test")
    return data


def batches_of_two(data: SoundscapesDataModule | RenderedSoundscapesDataModule) -> Iterator[dict[str, Any]]:
    """Batches of the scenes in which two sounds of two classes are heard at once."""
    for batch in data.test_dataloader():
        is_kept_B = (batch["labels"].sum(dim=1) == NUM_SOUNDS) & (batch["polyphony"] == NUM_SOUNDS)
        if is_kept_B.any():
            yield {name: value[is_kept_B] for name, value in batch.items()}


def tag(tagger: AudioEmbedder, waveform_BST: Tensor) -> Tensor:
    """Probabilities (B, S, C) of every class in every source."""
    logits = tagger(waveform_BST.flatten(0, 1)).logits
    assert logits is not None
    return tagger.probabilities(logits).cpu().view(*waveform_BST.shape[:2], -1)


@torch.no_grad()
def scores_of_batch(separator: Separator, tagger: AudioEmbedder, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Scores (B, C) by what was tagged."""
    waveform_BT = batch["waveform"]
    sources_BST = separator(waveform_BT.to(tagger.device))
    mixture_BC, sources_BSC = tag(tagger, waveform_BT[:, None])[:, 0], tag(tagger, sources_BST)
    energy_BS = sources_BST.square().sum(dim=2).cpu()
    is_loud_BS = energy_BS > energy_BS.amax(dim=1, keepdim=True) * 10 ** (-LOUD_DB / 10)
    scores = {
        "mixture": mixture_BC,
        "sources": sources_BSC.amax(dim=1),
        "loud sources": sources_BSC.masked_fill(~is_loud_BS[..., None], 0).amax(dim=1),
        "mixture and sources": torch.maximum(mixture_BC, sources_BSC.amax(dim=1)),
    }
    if "stems" in batch:
        is_there_BS = batch["stems"].any(dim=2)
        known_BSC = tag(tagger, batch["stems"]).masked_fill(~is_there_BS[..., None], 0)
        scores["known sources"] = known_BSC.amax(dim=1)
    return scores


def scores_of(
    separator: Separator, tagger: AudioEmbedder, data: SoundscapesDataModule | RenderedSoundscapesDataModule
) -> tuple[Scores, NDArray[np.bool_]]:
    """Scores (N, C) by what was tagged, of the data's classes, and labels (N, C).

    Raises:
        UsageError: If the tagger does not know the data's classes, or there is no scene of two sounds.
    """
    if unknown := sorted({*data.class_names} - {*tagger.class_names}):
        raise UsageError(
            f"The tagger does not know the class {unknown[0]} ({len(unknown)} such). Fine-tune one on these classes."
        )
    columns = [tagger.class_names.index(name) for name in data.class_names]
    found: dict[str, list[Tensor]] = {}
    labels = []
    for batch in batches_of_two(data):
        labels.append(batch["labels"].numpy() > 0)
        for name, scores_BC in scores_of_batch(separator, tagger, batch).items():
            found.setdefault(name, []).append(scores_BC[:, columns])
    if sum(map(len, labels)) < 2:
        raise UsageError("There are no two scenes in which two sounds of two classes are heard at once. Give others.")
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}, np.concatenate(labels)


def recall(scores_NC: NDArray[np.float32], labels_NC: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Share (N,) of each scene's classes that are among its best scores, of which it takes as many."""
    best_N2 = np.argsort(-scores_NC, axis=1, kind="stable")[:, :NUM_SOUNDS]
    return np.asarray(np.take_along_axis(labels_NC, best_N2, axis=1).mean(axis=1))


def compare(scores: Scores, labels_NC: NDArray[np.bool_]) -> dict[str, dict[str, Number]]:
    """mAP and recall by what was tagged."""
    weight_NB = weights_of_resamples(np.arange(len(labels_NC)), SEED)
    samples: dict[str, dict[str, FoldSamples]] = {}
    for name, scores_NC in scores.items():
        values = {
            "mAP": metrics_of_weighted_clips(scores_NC, labels_NC, weight_NB, single_label=False)["map"],
            "recall": mean_of_weighted(recall(scores_NC, labels_NC), weight_NB),
        }
        samples[name] = {
            metric: FoldSamples(value_B[None], len(labels_NC), len(labels_NC)) for metric, value_B in values.items()
        }
    numbers: dict[str, dict[str, Number]] = {}
    for name, by_metric in samples.items():
        numbers[name] = {}
        for metric, found in by_metric.items():
            difference = found.minus(samples["mixture"][metric])
            numbers[name][metric] = Number(
                float(found.value_UB[0, 0]),
                interval_of([found], "share"),
                float(difference.value_UB[0, 0]),
                interval_of([difference], "plain"),
            )
    return numbers


def in_per_cent(value: float, interval: Interval, sign: str = "") -> str:
    """A number with its interval."""
    low, high = 100 * interval.low, 100 * interval.high
    return f"{100 * value:{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"


def table(numbers: Mapping[str, Mapping[str, Number]], num_scenes: int) -> str:
    """The numbers in per cent, as Markdown."""
    lines = [f"| {num_scenes} scenes | mAP | to the mixture | recall | to the mixture |", "|---|---|---|---|---|"]
    for name, by_metric in numbers.items():
        cells = []
        for number in by_metric.values():
            is_itself = name == "mixture"
            difference = "" if is_itself else in_per_cent(number.difference, number.difference_interval, "+")
            cells += [in_per_cent(number.value, number.interval), difference]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(args: list[str] | None = None) -> None:
    """Print the table, or the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--separator", required=True, help="checkpoint of a separator of 16 kHz")
    parser.add_argument("--tagger", required=True, help="fine-tuned checkpoint that knows the scenes' classes")
    parser.add_argument("--scenes", type=Path, help="folder of `sslam data render`; default: built-in scenes")
    parser.add_argument("--num_scenes", type=int, default=500, help="built-in scenes (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args(args)
    try:
        separator = load_separator(arguments.separator).eval().to(arguments.device)
        tagger = AudioEmbedder.from_checkpoint(arguments.tagger, device=arguments.device)
        scores, labels_NC = scores_of(separator, tagger, scenes_of(arguments))
    except (UsageError, ValueError) as error:
        parser.error(str(error))
    numbers = compare(scores, labels_NC)
    if arguments.json:
        found = {name: {metric: number._asdict() for metric, number in row.items()} for name, row in numbers.items()}
        print(json.dumps({"num_scenes": len(labels_NC), "numbers": found}))
    else:
        print(table(numbers, len(labels_NC)))


if __name__ == "__main__":
    main()
