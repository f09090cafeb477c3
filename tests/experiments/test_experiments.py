"""The YAML files that pre-train are read and run for two steps; the runs of table 2 through all their stages."""

import contextlib
import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sslam.__main__ import main
from sslam.checkpoints.published import our_name
from sslam.frontends import KaldiFbank
from sslam.methods import SSLAM, Objectives
from sslam.networks import AudioViT, ConvDecoder
from sslam.transforms import InverseBlockMasking
from tests.checkpoints.published_files import POSITIONS, decoder_shapes, encoder_shapes, save_published, state_dict
from tests.experiments.conftest import AUDIOSET, EXPERIMENTS, STATISTICS, config_of, names

PRETRAIN = ["--config", "experiments/pretrain.yaml"]
SMOKE = ["--config", "experiments/overrides/smoke.yaml"]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[SSLAM]:
    """The models that this test has trained."""
    models: list[SSLAM] = []

    def on_fit_end(self: SSLAM) -> None:
        models.append(self)

    monkeypatch.setattr(SSLAM, "on_fit_end", on_fit_end)
    return models


@contextlib.contextmanager
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    try:
        yield
    finally:
        wandb.finish()


OTHER_METHODS = {  # they have their own tests
    *names("separate*.yaml", "contrastive*.yaml"),
    *names("overrides/smoke_*.yaml", "overrides/small_separation.yaml", "overrides/small_contrastive.yaml"),
}


@pytest.mark.parametrize(
    "name", sorted({*names("*.yaml", "ablations/*.yaml", "data/*.yaml", "overrides/*.yaml")} - OTHER_METHODS)
)
def test_experiments__every_file_runs_for_two_steps(
    name: str, trained: list[SSLAM], data_arguments: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ["--config", f"experiments/{name}"]
    needs = data_arguments | {"overrides/multi_node.yaml": ["--trainer.num_nodes", "1"]}
    args = ["fit", *(file if "/" not in name else [*PRETRAIN, *file]), *SMOKE, *needs.get(name, [])]
    with offline(monkeypatch):
        assert main([*args, "--trainer.callbacks", "[]"]) == 0
    (model,) = trained
    assert model.trainer.global_step == 2
    assert isinstance(model.frontend, KaldiFbank)
    assert (model.frontend.mean, model.frontend.std) == STATISTICS.get(name, AUDIOSET)


def test_experiments__the_online_probe_keeps_the_best_checkpoint(
    trained: list[SSLAM], data_arguments: dict[str, list[str]]
) -> None:
    """With its callbacks, on a tiny copy of ESC-50 at the path that it names."""
    _, root = data_arguments["data/esc50.yaml"]
    Path("data").mkdir()
    Path("data/esc50").symlink_to(root)
    text = (EXPERIMENTS / "overrides/online_probe.yaml").read_text()
    Path("every_step.yaml").write_text(text.replace("steps: 1000", "steps: 1").replace("esc50}", "esc50, fold: null}"))
    smoke = [*PRETRAIN, *SMOKE, "--config", "every_step.yaml", "--run_id", "online"]
    assert main(["fit", *smoke]) == 0
    (folder,) = Path("runs").glob("*/online")
    assert (folder / "checkpoints/best_probe.ckpt").exists()
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    scores = {row["step"]: row["online/probe_accuracy"] for row in rows if row.get("online/probe_accuracy")}
    assert list(scores) == ["0", "1", "2"]
    assert len({row["online/random_probe_accuracy"] for row in rows if row.get("online/random_probe_accuracy")}) == 1


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((EXPERIMENTS / name).read_text())
    return content


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("pretrain.yaml", [Objectives(1, 0, 0), Objectives(1, 1, 2)]),
        ("ablations/mb_ua.yaml", [Objectives(1, 0, 0)]),
        ("ablations/mb_ua_continued.yaml", [Objectives(1, 0, 0), Objectives(1, 0, 0)]),
        ("ablations/mb_pma.yaml", [Objectives(1, 0, 0), Objectives(0, 1, 0)]),
        ("ablations/mb_ua_pma.yaml", [Objectives(1, 0, 0), Objectives(1, 1, 0)]),
        ("overrides/stage_2_only.yaml", [Objectives(1, 1, 2)]),
    ],
)
def test_experiments__schedules_are_the_published_ones(
    name: str, stages: list[Objectives], trained: list[SSLAM]
) -> None:
    args = ["fit", *PRETRAIN, "--config", f"experiments/{name}", *SMOKE]
    assert main([*args, "--trainer.callbacks", "[]", "--trainer.max_steps", "0"]) == 0
    (model,) = trained
    assert [stage.objectives for stage in model.stages] == stages
    for stage in model.stages:
        # 16 views of every clip: half of them of its mixture, where the student sees both.
        clones = 8 if stage.objectives.uses_clips and stage.objectives.uses_mixtures else 16
        published = {
            "masked latents": (400_000, 5e-4, 53_333, clones, None),
            "clips": (200_000, 5e-5, 25_000, clones, 1),
            "mixtures": (200_000, 5e-5, 25_000, clones, 1),
        }
        values = (stage.steps, stage.learning_rate, stage.warmup_steps, stage.num_clones, stage.cls_target_layers)
        assert values == published[stage.name]
    assert not model.weight_decay_exempt_1d
    assert model.cls_loss_weight == 192
    assert model.trainer.gradient_clip_val == 4


@pytest.mark.parametrize("name", names("pretrain.yaml", "ablations/*.yaml"))
def test_experiments__every_stage_trains_by_yaml_alone(
    name: str, trained: list[SSLAM], capsys: pytest.CaptureFixture[str]
) -> None:
    """The stages as the YAML has them, each shortened to one step."""
    args = ["fit", *PRETRAIN, "--config", f"experiments/{name}", *SMOKE, "--trainer.callbacks", "[]"]
    with pytest.raises(SystemExit):
        main([*args, "--print_config"])
    stages = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["stages"]
    short = [stage | {"steps": 1, "warmup_steps": 0} for stage in stages]
    Path("short.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"stages": short}}}))
    args += ["--config", "short.yaml", "--trainer.max_steps", "-1", "--run_id", "short"]
    assert main([*args, "--trainer.enable_checkpointing", "false"]) == 0
    (model,) = trained
    is_one_stage = name in ("ablations/mb_ua.yaml", "ablations/mixed_stage_1.yaml")
    assert model.trainer.global_step == len(stages) == (1 if is_one_stage else 2)
    objectives = [stage["objectives"] for stage in stages]
    assert [vars(stage.objectives) for stage in model.stages] == objectives
    (metrics,) = Path("runs").glob("*/short/metrics.csv")
    rows = [row for row in csv.DictReader(metrics.open()) if row["train/loss"]]
    terms = ("patch", "cls", "source_retention", "source_retention_cls")
    logged = [{term for term in terms if row.get(f"train/{term}_loss")} for row in rows]
    assert len(logged) == len(stages)
    assert logged[0] == {"patch", "cls"}
    last = objectives[-1]
    retained = {"source_retention": last["source_retention"], "source_retention_cls": last["source_retention_global"]}
    assert logged[-1] == {"patch", "cls"} | {term for term, weight in retained.items() if weight}


@pytest.mark.parametrize(
    ("name", "millions"), [("vit_base", 85.4), ("vit_large", 302.6), ("vit_quick", 1.8), ("vit_tiny", 0.034)]
)
def test_experiments__encoder_blocks_have_their_size(name: str, millions: float) -> None:
    block = read(f"blocks/{name}.yaml")
    assert block["class_path"] == "sslam.networks.AudioViT"
    with torch.device("meta"):
        encoder = AudioViT(**block["init_args"])
    assert sum(parameter.numel() for parameter in encoder.parameters()) / 1e6 == pytest.approx(millions, rel=0.03)


def test_experiments__the_large_model_is_the_published_one(capsys: pytest.CaptureFixture[str]) -> None:
    """EAT-large; stage 2 alone, given after it, leaves its networks as they are."""
    config = config_of(capsys, "pretrain.yaml", "overrides/large.yaml")["model"]["init_args"]
    rates = [(stage["learning_rate"], stage["steps"], stage["num_clones"]) for stage in config["stages"]]
    assert rates == [(4e-4, 400_000, 16), (5e-5, 200_000, 8)]
    assert (config["ema_decay"], config["ema_end_decay"], config["ema_anneal_steps"]) == (0.9998, 0.99999, 150_000)
    masking = InverseBlockMasking(**config["masking"]["init_args"])
    assert (masking.mask_ratio, masking.block_size, masking.adjust) == (0.75, 5, 0.1)
    shapes = encoder_shapes(1024, 24) | decoder_shapes(1024, depth=3, kernel_size=5)
    del shapes[POSITIONS]  # which follow from a formula
    published = {our_name(name, fine_tuned=False): shape for name, shape in shapes.items()}
    with torch.device("meta"):
        parts = {
            "student": AudioViT(**config["encoder"]["init_args"]),
            "decoder": ConvDecoder(**config["decoder"]["init_args"]),
        }
    ours = {f"{part}.{name}": tuple(t.shape) for part, net in parts.items() for name, t in net.state_dict().items()}
    assert ours == published
    second = config_of(capsys, "pretrain.yaml", "overrides/large.yaml", "overrides/stage_2_only.yaml")
    second_config = second["model"]["init_args"]
    assert second_config["stages"] == config["stages"][1:]
    assert {key: second_config[key] for key in ("encoder", "decoder")} == {
        key: config[key] for key in ("encoder", "decoder")
    }


def test_experiments__the_second_stage_starts_from_a_published_large_file(trained: list[SSLAM], tmp_path: Path) -> None:
    """A file with the decoder of EAT-large, three layers of kernel 5, made narrow."""
    shapes = decoder_shapes(64, depth=3, kernel_size=5) | encoder_shapes(64, 2)
    model = state_dict(shapes) | {"_ema": dict(state_dict(encoder_shapes(64, 2), prefix="_ema."))}
    file = save_published(tmp_path / "EAT-large_epoch20_pt.pt", model, num_heads=2)
    overrides = ("large", "stage_2_only")
    args = [word for name in overrides for word in ("--config", f"experiments/overrides/{name}.yaml")]
    sizes = ["--model.encoder.width", "64", "--model.encoder.depth", "2", "--model.encoder.num_heads", "2"]
    sizes += ["--model.decoder.width", "64", "--model.decoder.decoder_width", "64"]
    short = ["--config", "experiments/overrides/two_steps.yaml", "--model.frontend.num_frames", "128"]
    more = ["--trainer.callbacks", "[]", "--trainer.max_steps", "1", "--model.initial_checkpoint", str(file)]
    assert main(["fit", *PRETRAIN, *args, *short, *sizes, *more]) == 0
    # The first update has the learning rate 0.
    expected = model["modality_encoders.IMAGE.decoder.blocks.2.0.weight"]
    torch.testing.assert_close(trained[0].decoder.state_dict()["blocks.2.0.weight"], expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["pretrain.yaml", "separate.yaml", "contrastive.yaml"])
def test_experiments__labels_choose_no_clip_of_pre_training(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Published pre-training permutes AudioSet-2M uniformly."""
    data = config_of(capsys, name, "data/audioset_2m.yaml")["data"]["init_args"]
    assert (data["subset"], data["balanced_sampling"], data["draws_per_epoch"]) == ("full", False, None)


@pytest.mark.parametrize(("file", "is_random"), [("data/folder.yaml", False), ("overrides/small.yaml", True)])
def test_experiments__published_pre_training_hears_the_beginnings_of_files(
    file: str, is_random: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The small run is for recordings of any length."""
    data = config_of(capsys, "pretrain.yaml", "data/folder.yaml", file, options=["--data.root", "."])["data"]
    assert (data["class_path"], data["init_args"]["random_crop"]) == ("data_modules.FolderDataModule", is_random)


def test_experiments__every_block_is_used() -> None:
    texts = [(EXPERIMENTS / name).read_text() for name in names("**/*.yaml")]
    for name in names("blocks/*.yaml"):
        assert any(name in text for text in texts), name


def test_experiments__a_block_can_be_given_on_the_command_line(trained: list[SSLAM]) -> None:
    block = ["--model.encoder", "experiments/blocks/vit_quick.yaml", "--model.decoder.width", "192"]
    assert main(["fit", *PRETRAIN, *SMOKE, "--trainer.callbacks", "[]", *block, "--trainer.max_steps", "1"]) == 0
    assert (trained[0].student.width, trained[0].student.depth) == (192, 4)


def test_experiments__the_second_stage_starts_from_a_checkpoint_of_the_first(trained: list[SSLAM]) -> None:
    smoke = [*PRETRAIN, *SMOKE, "--trainer.callbacks", "[]"]
    assert main(["fit", *smoke, "--run_id", "first", "--model.ema_decay", "0.5"]) == 0
    checkpoint = "runs/pretrain/first/checkpoints/last.ckpt"
    second = ["--config", "experiments/overrides/stage_2_only.yaml", "--model.initial_checkpoint", checkpoint]
    assert main(["fit", *smoke, *second, "--trainer.max_steps", "1", "--model.ema_decay", "1"]) == 0
    first_model, second_model = trained
    assert Path("runs/pretrain_stage_2").is_dir()
    # One update with learning rate 0 and a teacher that stays moves nothing.
    for name, tensor in first_model.state_dict().items():
        assert torch.equal(tensor, second_model.state_dict()[name]), name


@pytest.mark.parametrize("name", names("sweeps/*.yaml"))
def test_experiments__sweeps_make_a_command_that_runs(
    name: str, trained: list[SSLAM], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = read(name)
    command, parameters = sweep["command"], sweep["parameters"]
    assert command[0] == "sslam"
    assert command[-1] == "${args}"  # with hyphens, as the agent writes them
    values = {key: choice["values"][0] if "values" in choice else choice["min"] for key, choice in parameters.items()}
    with offline(monkeypatch):
        chosen = [f"--{key}={value}" for key, value in values.items()]
        # two batches per epoch, so that the two steps end with a validation
        assert main([*command[1:-1], *SMOKE, *chosen, "--data.num_train_scenes", "4"]) == 0
    assert trained[0].weight_decay == values["model.init_args.weight_decay"]
    assert trained[0].stages[-1].learning_rate == values["model.init_args.stages.learning_rate"]
    assert sweep["metric"]["name"] in trained[0].trainer.callback_metrics


def test_experiments__readme_starts_the_second_stage_from_the_file_of_the_published_first_one() -> None:
    """EAT after 400 000 steps, ten epochs: not the one that trained for thirty."""
    text = (EXPERIMENTS / "README.md").read_text()
    assert re.findall(r"EAT-base_epoch\d+_pt\.pt", text) == ["EAT-base_epoch10_pt.pt"]


def test_experiments__readme_names_every_file() -> None:
    """By name, `data/esc50.yaml`, or the many rows of a kind by a pattern, `evaluation/*_fine_tune.yaml`."""
    text = (EXPERIMENTS / "README.md").read_text()
    mentioned = re.findall(r"`([\w/*]+\.yaml)`", text)
    for mention in mentioned:
        is_specific = "*" not in mention or (mention.startswith("evaluation/") and mention != "evaluation/*.yaml")
        assert is_specific, f"{mention} says nothing"
        assert names(mention) or "/" not in mention, f"there is no {mention}"
    assert {*names("**/*.yaml")} == {*names(*mentioned)}
