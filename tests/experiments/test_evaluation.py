"""The rows of published tables, methods x tasks: each runs for two steps, and resolves to the published values."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pytest

from sslam.__main__ import main
from sslam.commands.recipes import Recipe, methods, own_recipe, row_of, tasks
from sslam.networks.pooling import Pooling
from sslam.report.published import published_rows
from sslam.report.results import read_record
from sslam.transforms import Augmentation
from tests.experiments.conftest import (
    AUDIOSET,
    EXPERIMENTS,
    SINGLE_LABEL,
    STATISTICS,
    composed_names,
    config_of,
    names,
)

POLYPHONIC = ("spass", "urban_sed", "idmt_desed_fl")  # with the recipe of SPASS
AUGMENTED_PROBES = (*POLYPHONIC, "audioset_20k")  # the columns of the table of polyphonic sets
OWN_DATA = ("class_folder", "recorded_scenes", "rendered_scenes")  # with the front end of a checkpoint
NOT_PUBLISHED = (*OWN_DATA, "soundscapes")
# Title in tables and number of classes of what one run evaluates.
PARTS = {
    "audioset_20k": ("AudioSet-20K", 527),
    "audioset_2m": ("AudioSet-2M", 527),
    **{f"class_folder-{fold}": (f"my_sounds fold {fold}", 2) for fold in (1, 2, 3, 4, 5)},
    **{f"esc50-{fold}": (f"ESC-50 fold {fold}", 50) for fold in (1, 2, 3, 4, 5)},
    "idmt_desed_fl": ("IDMT-DESED-FL", 10),
    **{f"recorded_scenes-{fold}": (f"Scenes of recorded_scenes fold {fold}", 3) for fold in (1, 2, 3, 4, 5)},
    "rendered_scenes": ("Scenes in rendered_scenes", 3),
    "soundscapes": ("Soundscapes", 14),
    "spass-market": ("SPASS market", 22),
    "spass-park": ("SPASS park", 23),
    "spass-square": ("SPASS square", 27),
    "spass-street": ("SPASS street", 27),
    "spass-waterfront": ("SPASS waterfront", 29),
    "speech_commands_12": ("Speech Commands v0.01, own test set", 12),
    "speech_commands": ("Speech Commands v0.02", 35),
    "urban_sed": ("URBAN-SED", 10),
}
# Recipes of our own by the row that they vary.
OWN = {
    "evaluation/quickstart.yaml": ("soundscapes", "linear_probe"),
    "evaluation/small_esc50_fine_tune.yaml": ("esc50", "fine_tune"),
    "evaluation/small_esc50_linear_probe.yaml": ("esc50", "linear_probe"),
}


@dataclass(frozen=True)
class Run:
    """One run of a row, for a part of its data."""

    recipe: Recipe
    task: str
    method: str
    part: dict[str, Any]

    @property
    def files(self) -> list[str]:
        return [str(Path(file).relative_to(EXPERIMENTS)) for file in self.recipe.files]

    @property
    def options(self) -> list[str]:
        return [word for name, value in self.part.items() for word in (f"--data.{name}", str(value))]

    @property
    def title_and_classes(self) -> tuple[str, int]:
        return PARTS["-".join([self.task, *map(str, self.part.values())])]

    def small_data(self, data_arguments: dict[str, list[str]]) -> list[str]:
        if self.task == "soundscapes":
            return ["--data.num_train_scenes", "6", "--data.num_test_scenes", "6"]
        return data_arguments[f"data/{self.task}.yaml"]

    def __str__(self) -> str:
        return "-".join([self.recipe.name, *map(str, self.part.values())])


def runs(*chosen: str) -> Iterator[Run]:
    """All runs of all tasks by these methods."""
    for task in sorted(tasks()):
        for method in chosen:
            recipe = row_of(task, method)
            yield from (Run(recipe, task, method, part) for part in recipe.parts({}, None))


def own_runs() -> Iterator[Run]:
    for name, (task, method) in OWN.items():
        recipe = own_recipe(str(EXPERIMENTS / name))
        yield from (Run(recipe, task, method, part) for part in recipe.parts({}, [1]))


def test_evaluation__parts_of_all_tasks_are_the_published_ones() -> None:
    assert {"-".join([run.task, *map(str, run.part.values())]) for run in runs("fine_tune")} == {*PARTS}


@pytest.mark.parametrize(
    "run", [run for run in (*runs("linear_probe", "fine_tune"), *own_runs()) if run.part.get("fold", 1) == 1], ids=str
)
def test_evaluation__every_row_runs_for_two_steps(run: Run, data_arguments: dict[str, list[str]]) -> None:
    more = [*run.options, *run.small_data(data_arguments)]
    if run.method == "linear_probe" and run.task not in AUGMENTED_PROBES:
        more += ["--model.epochs", "2"]
    files = [argument for file in run.recipe.files for argument in ("--config", file)]
    if run.task in OWN_DATA:
        files += ["--model.frontend", "sslam.frontends.KaldiFbank"]
    smoke = ["--config", "experiments/overrides/smoke_classifier.yaml", "--run_id", "one", "--experiment", "row"]
    assert main(["fit", *files, *smoke, *more]) == 0
    record = read_record(Path("runs/row/one/results-test.json"))
    assert record.method == {"fine_tune": "FineTune", "linear_probe": "LinearProbe"}[run.method]
    assert (record.data.title_and_fold, record.data.num_classes) == run.title_and_classes
    assert ("accuracy" in record.metrics) == (run.task in SINGLE_LABEL)
    # A probe without augmentation keeps tokens in one pass, and trains its heads without the trainer.
    assert record.step == (2 if run.method == "fine_tune" or run.task in AUGMENTED_PROBES else 0)
    assert record.num_heads == (1 if run.method == "fine_tune" else 3)
    assert record.data.num_clips > 0
    assert record.checkpoint.label == "random weights"


@dataclass(frozen=True)
class FineTuning:
    """A line of the published tables of fine-tuning (EAT and SSLAM, appendix); its length in steps or epochs."""

    learning_rate: float = 5e-5
    batch_size: int = 48
    steps: int = -1
    epochs: int = -1
    frames: int = 1024
    mixup: float = 0.8
    mask_ratio: float = 0.2
    noise: bool = False
    loss: str = "LabelNormalisedBCE"
    label_smoothing: float | None = None
    is_balanced: bool = False
    with_replacement: bool = False
    draws: int | None = None


SPEECH_COMMANDS = FineTuning(learning_rate=2e-4, batch_size=256, steps=40_000, frames=128, noise=True)
FINE_TUNING = {
    "audioset_20k": FineTuning(steps=40_000),
    "audioset_2m": FineTuning(batch_size=96, steps=400_000, is_balanced=True, draws=200_000),
    "esc50": FineTuning(steps=4_000, frames=512, mixup=0.0, mask_ratio=0.4, loss="CrossEntropy", label_smoothing=0.1),
    "speech_commands": SPEECH_COMMANDS,
    # The published flag is `spcv1_finetune`; the number of draws is SUPERB's.
    "speech_commands_12": replace(SPEECH_COMMANDS, is_balanced=True, with_replacement=True),
    **dict.fromkeys(POLYPHONIC, FineTuning(epochs=50)),
}
CLIP_SECONDS = {1024: 10.0, 512: 5.0, 128: 1.0}


def test_published_rows__are_of_recipes_and_data_that_are_there() -> None:
    titles = {title.partition(" fold ")[0].removesuffix(", own test set") for title, _ in PARTS.values()}
    recipes = {row_of(task, method).name for task in tasks() for method in methods()}
    assert {title for _, title in published_rows()} <= titles
    assert {recipe for recipe, _ in published_rows()} <= recipes


def published(method: str) -> list[Run]:
    """The runs that are not this project's own."""
    return [run for run in runs(method) if run.task not in NOT_PUBLISHED]


def config_of_run(run: Run, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """All values of a run, of which those are checked that the methods have in common."""
    config = config_of(capsys, *run.files, options=run.options)
    model, data, trainer = config["model"]["init_args"], config["data"]["init_args"], config["trainer"]
    frontend = model["frontend"]["init_args"]
    statistics = [STATISTICS[file] for file in composed_names(*run.files) if file in STATISTICS]
    assert (frontend["mean"], frontend["std"]) == (statistics[-1] if statistics else AUDIOSET)
    assert {name: data[name] for name in run.part} == run.part
    assert data["clip_seconds"] == CLIP_SECONDS[frontend["num_frames"]]
    assert model["num_classes"] is None  # those of the data
    assert (model["weight_decay"], model["betas"]) == (0.05, [0.9, 0.95])
    assert (model["pooling"], model["weights"]) == ("cls", "student")
    assert trainer["gradient_clip_val"] is None
    assert trainer["accumulate_grad_batches"] == 1
    assert trainer["callbacks"] == [{"class_path": "callbacks.EvaluationResults"}]
    assert config["test_after_fit"]
    return config


def test_evaluation__the_published_tasks_are_there() -> None:
    assert {*tasks()} == {*FINE_TUNING, *NOT_PUBLISHED}
    assert {*methods()} == {
        *("fine_tune", "linear_probe", "best_readout_probe", "attentive_probe", "prototypical_probe"),
        *("query_by_example", "shallow_classifier"),
    }


@pytest.mark.parametrize("run", published("fine_tune"), ids=str)
def test_evaluation__fine_tuning_is_the_published_one(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of_run(run, capsys)
    model, data, trainer = config["model"]["init_args"], config["data"]["init_args"], config["trainer"]
    augmentation, frontend = Augmentation(**model["augmentation"]), model["frontend"]["init_args"]
    assert FINE_TUNING[run.task] == FineTuning(
        learning_rate=model["learning_rate"],
        batch_size=data["batch_size"],
        steps=trainer["max_steps"],
        epochs=trainer["max_epochs"],
        frames=frontend["num_frames"],
        mixup=augmentation.mixup_alpha,
        mask_ratio=augmentation.mask_ratio,
        noise=augmentation.noise,
        loss=model["loss"]["class_path"].removeprefix("sslam.losses."),
        label_smoothing=model["loss"].get("init_args", {}).get("label_smoothing"),
        is_balanced=data["balanced_sampling"],
        with_replacement=data["draw_with_replacement"],
        draws=data["draws_per_epoch"],
    )
    assert augmentation.roll
    assert augmentation.mixup_probability == 0.9
    shared = {
        "freeze_encoder": False,
        "seeds": None,
        "warmup_fraction": 0.1,
        "min_learning_rate": 1e-6,
        "layer_decay": 0.65,
        "weight_decay_exempt_1d": False,
        "drop_path": 0.1,
    }
    assert {key: model[key] for key in shared} == shared
    assert data["training_augmentation"]
    assert not data["random_crop"]


@pytest.mark.parametrize("run", [run for run in published("linear_probe") if run.task in AUGMENTED_PROBES], ids=str)
def test_evaluation__linear_evaluation_of_polyphonic_sets_is_the_published_one(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of_run(run, capsys)
    model, data, trainer = config["model"]["init_args"], config["data"]["init_args"], config["trainer"]
    assert (config["model"]["class_path"], model["freeze_encoder"]) == ("sslam.methods.FineTune", True)
    assert (model["learning_rate"], model["warmup_fraction"], model["min_learning_rate"]) == (1e-3, 0.0, 1e-6)
    assert (model["seeds"], model["weight_decay_exempt_1d"]) == ([0, 1, 2], False)
    assert model["augmentation"] == asdict(Augmentation(mixup_alpha=0.8, mixup_probability=0.9, mask_ratio=0.2))
    assert model["drop_path"] == 0.1
    assert model["loss"] == {"class_path": "sslam.losses.LabelNormalisedBCE"}
    assert model["frontend"]["init_args"]["num_frames"] == 1024
    assert (data["batch_size"], data["training_augmentation"], data["random_crop"]) == (48, True, False)
    assert (trainer["max_epochs"], trainer["max_steps"], trainer["limit_val_batches"]) == (50, -1, 0)


@pytest.mark.parametrize("run", [run for run in published("linear_probe") if run.task not in AUGMENTED_PROBES], ids=str)
def test_evaluation__other_linear_probes_keep_the_tokens_of_unchanged_clips(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of_run(run, capsys)
    model, data, trainer = config["model"]["init_args"], config["data"]["init_args"], config["trainer"]
    assert model["frontend"]["init_args"]["num_frames"] == FINE_TUNING[run.task].frames
    assert model["loss"]["class_path"] == f"sslam.losses.{FINE_TUNING[run.task].loss}"
    assert config["model"]["class_path"] == "sslam.methods.LinearProbe"
    assert (model["drop_path"], data["training_augmentation"], trainer["max_epochs"]) == (0.0, False, 1)
    assert len(model["learning_rates"]) == 5
    assert len(model["seeds"]) == 3


def test_evaluation__the_probe_of_the_best_readout_offers_every_pooling(capsys: pytest.CaptureFixture[str]) -> None:
    model = config_of(capsys, "evaluation/methods/best_readout_probe.yaml")["model"]["init_args"]
    assert [readout["pooling"] for readout in model["readouts"]] == [*get_args(Pooling)]
    assert {readout["layers"] for readout in model["readouts"]} == {None}
    published = config_of(capsys, "evaluation/methods/linear_probe.yaml")["model"]["init_args"]
    assert (model["normalisation"], published["normalisation"]) == ("standardise", "layer_norm")
    changed = {"readouts": None, "normalisation": None}
    assert model | changed == published | changed


def test_evaluation__every_file_is_a_row_or_a_recipe_of_our_own_and_every_recipe_is_used() -> None:
    rows = {f"evaluation/{task}_{method}.yaml" for task in tasks() for method in methods()}
    assert {*names("evaluation/*.yaml")} <= rows | {*OWN}
    used = {file for name in names("evaluation/*.yaml") for file in composed_names(name)}
    assert {*names("evaluation/recipes/*.yaml")} <= used


NOT_BY_RULE = "evaluation/esc50_query_by_example.yaml"  # the task sets a loss, which the method does not have


@pytest.mark.parametrize("name", sorted({*names("evaluation/*.yaml")} - {*OWN, NOT_BY_RULE}))
def test_evaluation__only_rows_that_differ_from_the_rule_are_files(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    match = re.fullmatch(rf"evaluation/({'|'.join(tasks())})_({'|'.join(methods())})\.yaml", name)
    assert match
    rule = [str(Path(file).relative_to(EXPERIMENTS)) for file in (methods()[match[2]], tasks()[match[1]])]
    exception, by_rule = config_of(capsys, name), config_of(capsys, *rule)
    parts = ("model", "data", "trainer")
    assert [exception[part] for part in parts] != [by_rule[part] for part in parts]


def test_evaluation__the_quick_start_probes_what_it_has_trained(capsys: pytest.CaptureFixture[str]) -> None:
    """Scenes as long as those of the quick start, and both poolings."""
    probe = config_of(capsys, "evaluation/quickstart.yaml")
    trained = config_of(capsys, "pretrain.yaml", "overrides/quickstart.yaml")
    assert probe["model"]["init_args"]["frontend"] == trained["model"]["init_args"]["frontend"]
    assert probe["data"]["init_args"]["clip_seconds"] == trained["data"]["init_args"]["clip_seconds"]
    assert probe["model"]["init_args"]["pooling"] == "both"
