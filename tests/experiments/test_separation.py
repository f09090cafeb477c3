"""The YAML files that train separators: each runs for two steps, and states the published values."""

import csv
from pathlib import Path

import pytest

from sslam.__main__ import main
from sslam.methods import MixIT
from sslam.networks import STFTTDCN, TDCN
from tests.experiments.conftest import config_of, names

SMOKE = ["--config", "experiments/overrides/smoke_separation.yaml", "--run_id", "one"]
DATA = {
    "separate.yaml": "data/audioset_2m.yaml",
    "separate_fuss.yaml": "data/fuss.yaml",
    "separate_mixtures.yaml": "data/mixtures.yaml",
}


@pytest.mark.parametrize("name", names("separate*.yaml"))
def test_separation__every_file_runs_for_two_steps(name: str, data_arguments: dict[str, list[str]]) -> None:
    more = data_arguments[DATA[name]] if name in DATA else ["--data.num_val_scenes", "4"]
    more = more[:2] if name == "separate.yaml" else more
    assert main(["fit", "--config", f"experiments/{name}", *SMOKE, *more]) == 0
    folder = Path("runs") / Path(name).stem / "one"
    kept = sorted(path.name for path in (folder / "checkpoints" / "kept").iterdir())
    assert kept == ["end.ckpt", "step=00000000.ckpt"]
    assert (folder / "loss_curves.png").is_file()
    assert list((folder / "pictures").iterdir())
    assert (
        main(["test", "--config", str(folder / "config.yaml"), "--ckpt_path", str(folder / "checkpoints/last.ckpt")])
        == 0
    )
    (results,) = (folder.parent).glob("*/test.yaml")
    has_sources = name != "separate.yaml"
    assert ("test/msi" in results.read_text() or "test/one_source" in results.read_text()) == has_sources


def fit(name: str, part: str, *more: str) -> None:
    files = [argument for file in (name, f"separation/{part}.yaml") for argument in ("--config", f"experiments/{file}")]
    assert main(["fit", *files, *SMOKE, "--trainer.callbacks", "[]", *more]) == 0


@pytest.mark.parametrize("part", ["supervised", "semi_supervised"])
@pytest.mark.parametrize("name", ["separate_fuss.yaml", "separate_mixtures.yaml", "separate_soundscapes.yaml"])
def test_separation__learns_from_known_sources(name: str, part: str, data_arguments: dict[str, list[str]]) -> None:
    more = data_arguments[DATA[name]] if name in DATA else ["--data.num_val_scenes", "0"]
    fit(name, part, *more, "--data.batch_size", "4")
    rows = list(csv.DictReader((Path("runs") / Path(name).stem / "one" / "metrics.csv").read_text().splitlines()))
    assert rows[0]["train/supervised_loss"]
    assert bool(rows[0].get("train/unsupervised_loss")) == (part == "semi_supervised")


def test_separation__enhances_by_the_assignments_that_may_be(
    data_arguments: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[MixIT] = []
    monkeypatch.setattr(MixIT, "on_fit_end", lambda self: found.append(self))
    noisy = ["--data.train", "noisy.csv", "--data.val", "noisy.csv"]
    fit("separate_mixtures.yaml", "enhancement", *data_arguments["data/mixtures.yaml"], *noisy)
    assert found[0].separator.num_sources == 3
    assert found[0].assignments.allowed == [[0, 0, 1], [0, 1, 0]]
    assert not found[0].assignments.denied


def test_separation__masks_an_stft(data_arguments: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[MixIT] = []
    monkeypatch.setattr(MixIT, "on_fit_end", lambda self: found.append(self))
    names = ("separate_fuss.yaml", "separation/stft.yaml", "overrides/two_steps.yaml")
    files = [argument for name in names for argument in ("--config", f"experiments/{name}")]
    sizes = [
        "--model.separator.width",
        "8",
        "--model.separator.hidden_width",
        "16",
        "--model.separator.num_blocks",
        "2",
    ]
    more = [*data_arguments["data/fuss.yaml"], "--trainer.callbacks", "[]"]
    assert main(["fit", *files, *sizes, *more]) == 0
    assert isinstance(found[0].separator, STFTTDCN)
    assert (found[0].separator.window_length, found[0].separator.num_sources) == (512, 8)


def test_separation__every_part_changes_published_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert {*names("separation/*.yaml")} == {
        f"separation/{part}.yaml" for part in ("supervised", "semi_supervised", "enhancement", "stft")
    }
    shares = [
        config_of(capsys, "separate_fuss.yaml", *parts)["model"]["init_args"]["supervised_share"]
        for parts in ([], ["separation/semi_supervised.yaml"], ["separation/supervised.yaml"])
    ]
    assert shares == [0.0, 0.5, 1.0]


def test_separation__takes_recordings(data_arguments: dict[str, list[str]]) -> None:
    files = [
        argument
        for name in ("separate.yaml", "overrides/small_separation.yaml", "data/folder.yaml")
        for argument in ("--config", f"experiments/{name}")
    ]
    more = [*data_arguments["data/folder.yaml"], "--data.val_fraction", "0.3", "--trainer.val_check_interval", "2"]
    assert main(["fit", *files, *SMOKE, *more]) == 0
    rows = list(csv.DictReader(Path("runs/separate/one/metrics.csv").read_text().splitlines()))
    assert any(row["val/momi"] for row in rows)


@pytest.mark.parametrize(
    ("name", "num_sources", "steps"), [("separate.yaml", 2, 1_700_000), ("separate_fuss.yaml", 8, 20_000_000)]
)
def test_separation__recipes_are_the_published_ones(
    name: str, num_sources: int, steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(capsys, name)
    model = config["model"]["init_args"]
    separator = TDCN(**model["separator"]["init_args"])
    assert config["model"]["class_path"] == f"sslam.methods.{MixIT.__name__}"
    assert sum(parameter.numel() for parameter in separator.parameters()) == 8_540_673 + 65_792 * num_sources
    assert (separator.num_sources, separator.sample_rate, separator.consistency) == (num_sources, 16_000, "pred_source")
    assert (model["learning_rate"], model["halving_steps"], model["max_snr"]) == (1e-4, 2_000_000, 30.0)
    assert (model["mixtures_per_sum"], config["data"]["init_args"]["batch_size"]) == (2, 6)
    assert config["data"]["init_args"]["clip_seconds"] == 10.0
    assert config["trainer"]["gradient_clip_val"] is None
    assert config["trainer"]["max_steps"] == steps
    kept = [
        callback for callback in config["trainer"]["callbacks"] if callback["class_path"].endswith("StepCheckpoints")
    ]
    assert [callback["init_args"]["steps"] for callback in kept] == [[0, 500, 5000]]
