"""The model card: data, recipe, results, licence, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from sslam.__main__ import main as sslam
from sslam.checkpoints.loading import file_sha256
from sslam.commands.export import main
from sslam.exporting.licences import LICENCES
from tests.commands.conftest import exit_code

Export = Callable[..., tuple[int, str]]


def card_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def head_of(folder: Path) -> dict[str, object]:
    return dict(yaml.safe_load(card_of(folder).split("---\n")[1]))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of pre-training on a folder of five recordings, three of them to train on."""
    audio = tmp_path / "private" / "audio"
    audio.mkdir(parents=True)
    for name in ("a", "b", "c", "d", "e"):
        soundfile.write(audio / f"{name}.wav", 0.1 * np.random.default_rng(0).standard_normal(24_000), 16_000)
    args = ["fit", "--config", "experiments/pretrain.yaml", "--config", "experiments/overrides/smoke.yaml"]
    args += ["--config", "experiments/data/folder.yaml", "--data.root", str(audio), "--data.val_fraction", "0.4"]
    args += ["--trainer.callbacks", "[]", "--trainer.default_root_dir", str(tmp_path / "runs"), "--run_id", "one"]
    assert sslam(args) == 0
    (folder,) = (tmp_path / "runs").glob("*/one")
    return folder


def test_card__tells_data_recipe_and_steps_of_the_run(run: Path, export: Export, tmp_path: Path) -> None:
    assert export(run, tmp_path / "model") == (0, "")
    card = card_of(tmp_path / "model")
    files = json.loads((run / "data.json").read_text())["files"]
    assert sum(split["clips"] for split in files.values()) == 5
    for split, facts in files.items():
        assert f"| {split} | – | – | – | – | {facts['clips']} | {facts['names_sha256']} |" in card
    recipe = yaml.safe_load(card.partition("```yaml\n")[2].partition("```")[0])
    given = yaml.safe_load((run / "config.yaml").read_text())
    assert recipe["model"]["class_path"] == "sslam.methods.SSLAM"
    assert recipe["model"]["init_args"]["encoder"] == given["model"]["init_args"]["encoder"]
    assert recipe["data"]["init_args"]["root"] == ".../audio"
    assert str(tmp_path) not in card
    assert "after\n2 steps" in card
    assert f"`{file_sha256(run / 'checkpoints/last.ckpt')}`" in card
    assert f"| `model.safetensors` | `{file_sha256(tmp_path / 'model/model.safetensors')}` |" in card
    assert "None were recorded." in card


def test_card__has_no_blank_where_nothing_is_known(
    checkpoints: dict[str, Path], export: Export, tmp_path: Path
) -> None:
    for kind, checkpoint in checkpoints.items():
        assert export(checkpoint, tmp_path / kind) == (0, "")
        card = card_of(tmp_path / kind)
        assert "The file does not state its recipe." in card
        assert "does not state what it was trained on" in card
        assert head_of(tmp_path / kind)["license"] == "cc-by-4.0"
        assert not {"None,", "Undefined", "{{", "{%"} & set(card.split())
        assert "\n\n\n" not in card
    assert "Classes: 4: cat; dog; siren, distant; rain." in card_of(tmp_path / "fine_tuned")
    assert head_of(tmp_path / "separator")["pipeline_tag"] == "audio-to-audio"


def test_card__shows_results_of_these_weights_with_their_spread(
    checkpoints: dict[str, Path], export: Export, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    sha256 = file_sha256(checkpoints["pre_trained"])
    for fold in (1, 2):
        same = {"sha256": sha256, "title": f"ESC-50 fold {fold}"}
        write_run(f"own{fold}", 3.0, fold, label="mine", **same)
        write_run(f"random{fold}", 0.0, fold, label="random weights", weights="random", **same)
    write_run("other", 1.0, label="another model")
    assert export(checkpoints["pre_trained"], tmp_path / "model", "--results", tmp_path / "runs") == (0, "")
    results = card_of(tmp_path / "model").partition("## Results")[2].partition("## Licence")[0]
    rows = [line for line in results.splitlines() if line.startswith("| Linear probe")]
    assert [row.split("|")[2].strip() for row in rows] == ["random weights", "mine"]
    assert all(" ± " in row for row in rows)
    assert "another model" not in results


def test_card__a_run_brings_its_own_results(
    checkpoints: dict[str, Path], export: Export, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write_run("tuned", 2.0, method="FineTune", label="what it began with")
    (folder / "checkpoints").mkdir()
    (folder / "config.yaml").write_text("model: {class_path: sslam.methods.FineTune}\n")
    shutil.copy(checkpoints["fine_tuned"], folder / "checkpoints" / "last.ckpt")
    for path in (folder, folder / "checkpoints" / "last.ckpt"):
        assert export(path, tmp_path / path.name) == (0, "")
        assert "| Fine tune | what it began with |" in card_of(tmp_path / path.name)


def test_card__results_of_others_are_refused(
    checkpoints: dict[str, Path], export: Export, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write_run("other", 1.0, label="another model")
    code, said = export(checkpoints["pre_trained"], tmp_path / "model", "--results", folder)
    assert code == 2
    assert "None of the results is of this checkpoint" in said
    assert "they are of another model" in said
    code, said = export(checkpoints["pre_trained"], tmp_path / "model", "--results", tmp_path / "nowhere")
    assert (code, "There is no" in said) == (2, True)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("given", [[], ["--license", "free"], ["--license", "other"]])
def test_export__without_a_known_licence_lists_them(
    given: list[str], checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(main, [checkpoints["pre_trained"], tmp_path / "model", *given]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert ("--license_file" if "other" in given else ", ".join(LICENCES)) in said
    assert not (tmp_path / "model").exists()


def test_export__another_licence_comes_with_its_text(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "text").write_text("Do as you like.\n")
    args = [checkpoints["pre_trained"], tmp_path / "model", "--license", "other", "--license_file", tmp_path / "text"]
    assert exit_code(main, args) == 0
    assert (tmp_path / "model/LICENSE").read_text() == "Do as you like.\n"
    assert head_of(tmp_path / "model")["license_link"] == "LICENSE"
