"""The YAML files that train separators: each runs for two steps, and states the published values."""

import csv
from pathlib import Path

import pytest

from sslam.__main__ import main
from sslam.methods import MixIT
from sslam.networks import TDCN
from tests.experiments.conftest import config_of, names

SMOKE = ["--config", "experiments/overrides/smoke_separation.yaml", "--run_id", "one"]
DATA = {"separate.yaml": "data/audioset_2m.yaml", "separate_fuss.yaml": "data/fuss.yaml"}


@pytest.mark.parametrize("name", names("separate*.yaml"))
def test_separation__every_file_runs_for_two_steps(name: str, data_arguments: dict[str, list[str]]) -> None:
    more = data_arguments[DATA[name]][:2] if name in DATA else ["--data.num_val_scenes", "4"]
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
