"""The YAML files by name, and small data for those that need some."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml

from data_modules.speech_commands import NEW_WORDS, WORDS
from sslam.__main__ import main
from sslam.commands.fitting.config_files import composed_files, experiments_folder
from tests.data_modules import official_layouts

EXPERIMENTS = experiments_folder()

AUDIOSET = (-4.268, 4.569)
"""Mean and standard deviation of the features (EAT and SSLAM); of all that is not named in :data:`STATISTICS`."""
STATISTICS = {
    "data/esc50.yaml": (-6.627, 5.359),
    "data/spass.yaml": (-5.275, 3.268),
    "data/speech_commands.yaml": (-6.846, 5.565),
    "data/speech_commands_12.yaml": (-6.846, 5.565),  # those of the other word set
    "overrides/small.yaml": (-6.627, 5.359),  # of ESC-50
    "pretrain_small.yaml": (-6.627, 5.359),
}


SINGLE_LABEL = ("class_folder", "esc50", "speech_commands", "speech_commands_12")
"""Tasks whose clips have one class each."""


def names(*patterns: str) -> list[str]:
    """Files below experiments/, such as `data/esc50.yaml`."""
    return sorted(str(path.relative_to(EXPERIMENTS)) for pattern in patterns for path in EXPERIMENTS.glob(pattern))


def composed_names(*names: str) -> list[str]:
    """Files and what they build on, by name, in merging order."""
    paths = [str(EXPERIMENTS / name) for name in names]
    return [str(Path(file).relative_to(EXPERIMENTS)) for path in paths for file in (*composed_files(path), path)]


def config_of(capsys: pytest.CaptureFixture[str], *names: str, options: Sequence[str] = ()) -> dict[str, Any]:
    """All values of a run, also those that are the signatures' defaults."""
    files = [argument for name in names for argument in ("--config", f"experiments/{name}")]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *files, *options, "--print_config"])
    assert ended.value.code == 0
    config: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return config


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with mock.patch.dict("os.environ"):  # ddp leaves its port and ranks there
        yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="session")
def data_arguments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What the files of data/ leave to the command line, with a folder of each data set."""
    root = tmp_path_factory.mktemp("data")
    folders = {
        "audioset": official_layouts.write_audioset(root / "audioset", num_classes=527),
        "class_folder": official_layouts.write_class_folder(root / "my_sounds", {"dog": 5, "rain": 5}, 2.0),
        "esc50": official_layouts.write_esc50(
            root / "esc50", [(fold, t) for fold in range(1, 6) for t in (0, 10)], 2.0
        ),
        "fuss": official_layouts.write_fuss(root / "fuss"),
        "idmt_desed_fl": official_layouts.write_desed(root / "idmt_desed_fl"),
        "speech_commands": official_layouts.write_speech_commands(root / "speech_commands", WORDS),
        "mixtures": official_layouts.write_mixtures(root / "mixtures", seconds=1.5),
        "spass": root / "spass",
        "urban_sed": official_layouts.write_urban_sed(root / "urban_sed"),
    }
    for scene in official_layouts.SPASS_TABLES:
        official_layouts.write_spass(folders["spass"], scene)
    version_1 = official_layouts.write_speech_commands(
        root / "speech_commands_v0.01", [word for word in WORDS if word not in NEW_WORDS]
    )
    clips = sorted((folders["esc50"] / "audio").iterdir())
    manifest = root / "train.tsv"
    manifest.write_text("\n".join([str(clips[0].parent), *(f"{clip.name}\t32000" for clip in clips)]))
    folders["recorded_scenes"] = official_layouts.write_tone_classes(root / "recorded_scenes")
    folders["rendered_scenes"] = root / "rendered_scenes"
    rendering = ["data", "render", str(folders["recorded_scenes"]), "--output", str(folders["rendered_scenes"])]
    counts = [option for split in ("train", "val", "test") for option in (f"--num_{split}_scenes", "4")]
    assert main([*rendering, *counts, "--num_workers", "1"]) == 0
    arguments = {f"data/{name}.yaml": ["--data.root", str(folder)] for name, folder in folders.items()}
    arguments["data/recorded_scenes.yaml"] += ["--data.num_train_scenes", "6", "--data.num_test_scenes", "6"]
    arguments["data/mixtures.yaml"] += ["--data.train", "tr", "--data.val", "cv"]
    audioset = arguments.pop("data/audioset.yaml")
    return arguments | {
        "data/audioset_20k.yaml": audioset,
        "data/audioset_2m.yaml": [*audioset, "--data.draws_per_epoch", "4"],
        "data/folder.yaml": ["--data.root", str(folders["esc50"])],
        "data/manifest.yaml": ["--data.manifest", str(manifest)],
        "data/speech_commands_12.yaml": ["--data.root", str(version_1)],
    }
