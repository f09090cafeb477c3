"""The rows of experiments/evaluation/: each runs for two steps, and states the published values."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from sslam.__main__ import main
from sslam.report.results import read_record
from sslam.transforms import Augmentation
from tests.experiments.conftest import AUDIOSET, STATISTICS, composed_names, config_of, names

SPASS = ("spass_market", "spass_park", "spass_square", "spass_street", "spass_waterfront")
POLYPHONIC = (*SPASS, "urban_sed", "idmt_desed_fl")  # with the recipe of SPASS
# Title in tables and number of classes.
TASKS = {
    "as20k": ("AudioSet-20K", 527),
    "as2m": ("AudioSet-2M", 527),
    "esc50": ("ESC-50 fold 1", 50),
    "idmt_desed_fl": ("IDMT-DESED-FL", 10),
    "ks1": ("Speech Commands v0.01", 12),
    "ks2": ("Speech Commands v0.02", 35),
    "soundscapes": ("Soundscapes", 14),
    "spass_market": ("SPASS market", 22),
    "spass_park": ("SPASS park", 23),
    "spass_square": ("SPASS square", 27),
    "spass_street": ("SPASS street", 27),
    "spass_waterfront": ("SPASS waterfront", 29),
    "urban_sed": ("URBAN-SED", 10),
}
SINGLE_LABEL = ("esc50", "ks1", "ks2")
# Names that do not say what they are a row of.
OTHERS = {
    "fine_tune.yaml": "soundscapes_fine_tune",
    "linear_probe.yaml": "soundscapes_linear_probe",
    "evaluation/quickstart.yaml": "soundscapes_linear_probe",
}


def task_and_method(name: str) -> tuple[str, str]:
    """Such as ("esc50", "fine_tune")."""
    match = re.fullmatch(r"(?:small_)?(\w+)_(fine_tune|linear_probe)", OTHERS.get(name, Path(name).stem))
    assert match, f"{name} is neither TASK_fine_tune.yaml nor TASK_linear_probe.yaml"
    return match[1], match[2]


RETRIEVAL_PAPER = names("evaluation/*_query_by_example.yaml", "evaluation/*_shallow_classifier.yaml")  # own tests


@pytest.mark.parametrize(
    "name", sorted({*names("fine_tune.yaml", "linear_probe.yaml", "evaluation/*.yaml")} - {*RETRIEVAL_PAPER})
)
def test_evaluation__every_row_runs_for_two_steps(name: str, data_arguments: dict[str, list[str]]) -> None:
    task, method = task_and_method(name)
    data = [file for file in composed_names(name) if file in data_arguments]
    more = data_arguments[data[-1]] if data else ["--data.num_train_scenes", "6"]
    if method == "linear_probe" and task not in POLYPHONIC:
        more = [*more, "--model.epochs", "2"]
    smoke = ["--config", "experiments/overrides/smoke_classifier.yaml", "--run_id", "one"]
    assert main(["fit", "--config", f"experiments/{name}", *smoke, *more]) == 0
    record = read_record(Path("runs") / Path(name).stem / "one" / "results-test.json")
    assert record.method == {"fine_tune": "FineTune", "linear_probe": "LinearProbe"}[method]
    assert (record.data.title, record.data.num_classes) == TASKS[task]
    assert ("accuracy" in record.metrics) == (task in SINGLE_LABEL)
    # A probe without augmentation keeps tokens in one pass, and trains its heads without the trainer.
    assert record.step == (2 if method == "fine_tune" or task in POLYPHONIC else 0)
    assert record.num_heads == (1 if method == "fine_tune" else 3)
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
    balanced_draws: int | None = None


SPEECH_COMMANDS = FineTuning(learning_rate=2e-4, batch_size=256, steps=40_000, frames=128, noise=True)
FINE_TUNING = {
    "as20k": FineTuning(steps=40_000),
    "as2m": FineTuning(batch_size=96, steps=400_000, balanced_draws=200_000),
    "esc50": FineTuning(steps=4_000, frames=512, mixup=0.0, mask_ratio=0.4, loss="CrossEntropy", label_smoothing=0.1),
    "ks1": SPEECH_COMMANDS,
    "ks2": SPEECH_COMMANDS,
    **dict.fromkeys(POLYPHONIC, FineTuning(epochs=50)),
}
CLIP_SECONDS = {1024: 10.0, 512: 5.0, 128: 1.0}


def published_rows(method: str) -> set[str]:
    """Those that are not this project's own."""
    stems = {Path(name).stem.removesuffix(f"_{method}") for name in names(f"evaluation/*_{method}.yaml")}
    return stems - {"soundscapes", "small_esc50"}


def test_evaluation__every_task_has_a_row_of_either_method() -> None:
    tasks = {Path(name).stem for name in names("evaluation/tasks/*.yaml")}
    assert tasks == {*TASKS}
    assert published_rows("fine_tune") == published_rows("linear_probe") == {*FINE_TUNING} == tasks - {"soundscapes"}


@pytest.mark.parametrize("task", FINE_TUNING)
def test_evaluation__fine_tuning_is_the_published_one(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"evaluation/{task}_fine_tune.yaml"
    config = config_of(capsys, name)
    model, data, trainer = config["model"]["init_args"], config["data"]["init_args"], config["trainer"]
    augmentation, frontend = Augmentation(**model["augmentation"]), model["frontend"]["init_args"]
    assert data["balanced_sampling"] == (data["draws_per_epoch"] is not None)
    assert FINE_TUNING[task] == FineTuning(
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
        balanced_draws=data["draws_per_epoch"],
    )
    assert_shared(name, config)
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


def assert_shared(name: str, config: dict[str, Any]) -> None:
    """What fine-tuning and linear probe have in common."""
    model, data, trainer = config["model"]["init_args"], config["data"]["init_args"], config["trainer"]
    task, _ = task_and_method(name)
    frontend = model["frontend"]["init_args"]
    statistics = [STATISTICS[file] for file in composed_names(name) if file in STATISTICS]
    assert (frontend["mean"], frontend["std"]) == (statistics[-1] if statistics else AUDIOSET)
    assert data["clip_seconds"] == CLIP_SECONDS[frontend["num_frames"]]
    assert model["num_classes"] == TASKS[task][1]
    assert (model["weight_decay"], model["betas"]) == (0.05, [0.9, 0.95])
    assert (model["pooling"], model["weights"]) == ("cls", "student")
    assert trainer["gradient_clip_val"] is None
    assert trainer["accumulate_grad_batches"] == 1
    assert trainer["callbacks"] == [{"class_path": "callbacks.EvaluationResults"}]
    assert config["test_after_fit"]


@pytest.mark.parametrize("task", POLYPHONIC)
def test_evaluation__linear_evaluation_of_polyphonic_sets_is_the_published_one(
    task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"evaluation/{task}_linear_probe.yaml"
    config = config_of(capsys, name)
    model, data, trainer = config["model"]["init_args"], config["data"]["init_args"], config["trainer"]
    assert_shared(name, config)
    assert (config["model"]["class_path"], model["freeze_encoder"]) == ("sslam.methods.FineTune", True)
    assert (model["learning_rate"], model["warmup_fraction"], model["min_learning_rate"]) == (1e-3, 0.0, 1e-6)
    assert (model["seeds"], model["weight_decay_exempt_1d"]) == ([0, 1, 2], False)
    assert model["augmentation"] == asdict(Augmentation(mixup_alpha=0.8, mixup_probability=0.9, mask_ratio=0.2))
    assert model["drop_path"] == 0.1
    assert model["loss"] == {"class_path": "sslam.losses.LabelNormalisedBCE"}
    assert model["frontend"]["init_args"]["num_frames"] == 1024
    assert (data["batch_size"], data["training_augmentation"]) == (48, True)
    assert (trainer["max_epochs"], trainer["max_steps"], trainer["limit_val_batches"]) == (50, -1, 0)


@pytest.mark.parametrize("task", sorted({*FINE_TUNING} - {*POLYPHONIC}))
def test_evaluation__other_linear_probes_keep_the_tokens_of_unchanged_clips(
    task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"evaluation/{task}_linear_probe.yaml"
    config = config_of(capsys, name)
    model, data, trainer = config["model"]["init_args"], config["data"]["init_args"], config["trainer"]
    assert_shared(name, config)
    assert model["frontend"]["init_args"]["num_frames"] == FINE_TUNING[task].frames
    assert model["loss"]["class_path"] == f"sslam.losses.{FINE_TUNING[task].loss}"
    assert config["model"]["class_path"] == "sslam.methods.LinearProbe"
    assert (model["drop_path"], data["training_augmentation"], trainer["max_epochs"]) == (0.0, False, 1)
    assert len(model["learning_rates"]) == 5
    assert len(model["seeds"]) == 3


def test_evaluation__every_task_and_recipe_is_used() -> None:
    used = {file for name in names("evaluation/*.yaml") for file in composed_names(name)}
    assert {*names("evaluation/tasks/*.yaml", "evaluation/recipes/*.yaml")} <= used


def test_evaluation__the_quick_start_probes_what_it_has_trained(capsys: pytest.CaptureFixture[str]) -> None:
    """Scenes as long as those of the quick start, and both poolings."""
    probe = config_of(capsys, "evaluation/quickstart.yaml")
    trained = config_of(capsys, "pretrain.yaml", "overrides/quickstart.yaml")
    assert probe["model"]["init_args"]["frontend"] == trained["model"]["init_args"]["frontend"]
    assert probe["data"]["init_args"]["clip_seconds"] == trained["data"]["init_args"]["clip_seconds"]
    assert probe["model"]["init_args"]["pooling"] == "both"
