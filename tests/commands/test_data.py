"""`sslam data`: statistics of recordings, and scenes as files that are complete, resumed and read back equal."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml

from data_modules import RecordedSoundscapesDataModule, RenderedSoundscapesDataModule, Silence
from data_modules.scene_files import write_scene
from sslam.__main__ import main
from sslam.audio import decode_audio
from sslam.frontends import KaldiFbank, LogMel
from tests.data_modules.official_layouts import RATE, write_tone_classes
from tests.data_modules.rendered_scenes import OPTIONS, render

# ---- stats ----------------------------------------------------------------------------------------------------------


def stated(text: str) -> dict[str, float]:
    """What the lines of YAML give to the front end."""
    _, _, lines = text.partition("\n\n")
    config = yaml.safe_load(lines)
    values: dict[str, float] = config["model"]["init_args"]["frontend"]["init_args"]
    return values


@pytest.mark.parametrize("frontend", ["KaldiFbank", "LogMel"])
def test_data_stats__are_those_of_all_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str], frontend: str) -> None:
    folder = write_tone_classes(tmp_path / "sounds", 3)
    assert main(["data", "stats", str(folder), "--frontend", frontend]) == 0
    plain = {"KaldiFbank": KaldiFbank(), "LogMel": LogMel()}[frontend]
    waveforms = [torch.from_numpy(decode_audio(path).waveform) for path in folder.rglob("*.flac")]
    values = torch.cat([plain.log_mel(waveform[None]).flatten() for waveform in waveforms])
    said = capsys.readouterr().out
    assert said.startswith("9 files, 5 s; 0 bad files skipped, 0 repaired\n")
    assert stated(said) == pytest.approx({"mean": float(values.mean()), "std": float(values.std())}, abs=2e-3)


def test_data_stats__bad_files_are_named(
    tmp_path: Path, write_bad_files: Callable[[Path], dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tone_classes(tmp_path / "sounds", 1)
    expected = write_bad_files(folder)
    assert main(["data", "stats", str(folder)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("5 files, 4 s; 6 bad files skipped, 2 repaired\n")
    for name, action in expected.items():
        assert f"sslam data stats: {folder / name} {action}: " in said.err
    for path in folder.rglob("*.flac"):
        path.unlink()
    (folder / "truncated.wav").unlink()
    assert main(["data", "stats", str(folder)]) == 2
    assert "None of the 5 files can be used" in capsys.readouterr().err


def test_data_stats__a_folder_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "stats", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("sslam data stats: There is no file or folder nowhere. ")


# ---- render ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    return write_tone_classes(tmp_path / "sounds")


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Files with their time and bytes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "metadata.csv").open() as file:
        return list(csv.DictReader(file))


def loaded(data: Any) -> list[dict[str, torch.Tensor]]:
    data.setup("fit")
    data.setup("test")
    return [
        batch for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()) for batch in loader
    ]


@pytest.mark.parametrize("behind", ["noise", "silence", "recordings"])
def test_data_render__scenes_read_back_are_those_rendered_on_the_fly(sounds: Path, tmp_path: Path, behind: str) -> None:
    for number in range(4):
        (tmp_path / "rooms").mkdir(exist_ok=True)
        noise = np.random.default_rng(number).uniform(-0.1, 0.1, 3 * RATE)
        soundfile.write(tmp_path / "rooms" / f"{number}.wav", noise, RATE)
    rooms = str(tmp_path / "rooms")
    more, options = {
        "noise": ((), {}),
        "silence": (("--silence",), {"background": Silence()}),
        "recordings": (("--background_root", rooms), {"background_root": rooms}),
    }[behind]
    output = tmp_path / "scenes"
    assert render(sounds, output, "--stems", *more) == 0
    wanted: dict[str, Any] = {
        "return_stems": True, "return_events": True, "training_augmentation": False, "batch_size": 2, "num_workers": 0,
    }  # fmt: skip
    live = RecordedSoundscapesDataModule(str(sounds), **OPTIONS, **options, **wanted)
    stored = RenderedSoundscapesDataModule(str(output), clip_seconds=1.5, **wanted)
    expected, found = loaded(live), loaded(stored)
    assert len(expected) == len(found) == 3 + 2 + 1
    assert stored.class_names == live.class_names
    for first, second in zip(expected, found, strict=True):
        assert first.keys() == second.keys()
        for key, value in first.items():
            if value.is_floating_point() and key not in ("labels", "events"):
                # 24 bits: half a step of 2^-23, and 2^-23 by which libsndfile's full scale is smaller than 1.
                torch.testing.assert_close(second[key], value, rtol=0, atol=2.0**-22)
            else:
                assert torch.equal(second[key], value), key
        torch.testing.assert_close(second["stems"].sum(1) + second["background"], second["waveform"], rtol=0, atol=1e-6)


def test_data_render__every_file_is_as_promised(sounds: Path, tmp_path: Path) -> None:
    output = tmp_path / "scenes"
    assert render(sounds, output) == 0
    mixtures = [f"{split}/{number:05}.flac" for split, count in (("train", 5), ("validation", 3), ("test", 2))
                for number in range(count)]  # fmt: skip
    annotations = [name.replace(".flac", ".jams") for name in mixtures]
    assert set(contents(output)) == {*mixtures, *annotations, "scenes.json", "metadata.csv"}
    for name in mixtures:
        info = soundfile.info(output / name)
        assert (info.samplerate, info.frames, info.channels, info.subtype) == (RATE, 1.5 * RATE, 1, "PCM_24")
    table = rows(output)
    assert list(table[0]) == ["file", "event_label", "onset", "offset", "snr", "source_file"]
    assert list(dict.fromkeys(row["file"] for row in table)) == mixtures
    sources: dict[str, set[str]] = {}
    for row in table:
        assert 0 <= float(row["onset"]) < float(row["offset"]) <= 1.5
        assert 5 <= float(row["snr"]) <= 25
        assert row["source_file"].startswith(f"{row['event_label']}/")
        assert (sounds / row["source_file"]).is_file()
        sources.setdefault(row["file"].split("/")[0], set()).add(row["source_file"])
    assert not sources["train"] & sources["test"]
    assert not sources["train"] & sources["validation"]
    assert not sources["validation"] & sources["test"]


def assert_is_scaper(document: dict[str, Any]) -> None:
    """Types and required fields of jams_schema.json and of the namespace scaper (JAMS 0.3.4)."""
    assert set(document) == {"file_metadata", "annotations", "sandbox"}
    assert document["file_metadata"]["jams_version"] == "0.3.4"
    assert document["file_metadata"]["identifiers"] == {}
    (annotation,) = document["annotations"]
    assert annotation["namespace"] == "scaper"
    assert set(annotation) == {"annotation_metadata", "namespace", "data", "sandbox", "time", "duration"}
    assert set(annotation["annotation_metadata"]["curator"]) == {"name", "email"}
    assert isinstance(annotation["annotation_metadata"]["annotator"], dict)
    for row in annotation["data"]:
        assert set(row) == {"time", "duration", "value", "confidence"}
        value = row["value"]
        assert isinstance(value["label"], str)
        assert isinstance(value["source_file"], str)
        assert isinstance(value["snr"], float)
        assert value["source_time"] >= 0
        assert (value["event_time"], value["event_duration"]) == (row["time"], row["duration"])
        assert value["event_time"] >= 0
        assert value["event_duration"] > 0
        assert value["role"] in ("foreground", "background")
        assert value["pitch_shift"] is value["time_stretch"] is None


def test_data_render__annotations_are_jams_that_scaper_users_know(sounds: Path, tmp_path: Path) -> None:
    output = tmp_path / "scenes"
    assert render(sounds, output, "--stems") == 0
    table = rows(output)
    for path in output.rglob("*.jams"):
        document = json.loads(path.read_text())
        assert_is_scaper(document)
        (annotation,) = document["annotations"]
        background, *events = annotation["data"]
        assert background["value"]["role"] == "background"
        assert (background["time"], background["duration"]) == (0, 1.5)
        name = str(path.relative_to(output).with_suffix(".flac"))
        of_table = [row for row in table if row["file"] == name]
        assert [event["value"]["label"] for event in events] == [row["event_label"] for row in of_table]
        assert [event["time"] for event in events] == [float(row["onset"]) for row in of_table]
        scaper = annotation["sandbox"]["scaper"]
        assert scaper["n_events"] == len(events)
        stems = [soundfile.read(output / stem)[0] for stem in scaper["isolated_events_audio_path"]]
        assert [Path(stem).name for stem in scaper["isolated_events_audio_path"]] == [
            "background0.flac",
            *(f"foreground{number}_{row['event_label']}.flac" for number, row in enumerate(of_table)),
        ]
        np.testing.assert_allclose(np.sum(stems, axis=0), soundfile.read(output / name)[0], atol=1e-6)


def test_data_render__goes_on_after_an_interruption(
    sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    straight, output = tmp_path / "straight", tmp_path / "scenes"
    assert render(sounds, straight, "--stems") == 0
    written = []

    def interrupted(folder: Path, file: str, *rest: Any) -> None:
        if len(written) == 6:
            raise KeyboardInterrupt
        write_scene(folder, file, *rest)
        written.append(file)

    with monkeypatch.context() as patch:
        patch.setattr("data_modules.scene_files.write_scene", interrupted)
        assert render(sounds, output, "--stems") == 130
    assert capsys.readouterr().err.endswith("What is finished is kept; the same command goes on from there.\n")
    assert not (output / "metadata.csv").exists()
    (output / written[5]).with_suffix(".jams").unlink()  # as if killed before a scene was complete
    before = contents(output)
    assert render(sounds, output, "--stems") == 0
    assert "5 of 10 files are finished already" in capsys.readouterr().err
    after = contents(output)
    for name in written[:5]:
        assert after[name] == before[name]
    assert {name: data for name, (_, data) in after.items()} == {
        name: data for name, (_, data) in contents(straight).items()
    }
    assert render(sounds, output, "--stems") == 0
    unchanged = contents(output)
    assert all(unchanged[name] == after[name] for name in after if name != "metadata.csv")


def test_data_render__workers_write_the_same(sounds: Path, tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert render(sounds, alone) == 0
    assert render(sounds, together, "--num_workers", 2) == 0
    assert {name: data for name, (_, data) in contents(alone).items()} == {
        name: data for name, (_, data) in contents(together).items()
    }


def test_data_render__other_settings_and_other_files_are_not_written_over(
    sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*more: object, output: Path = tmp_path / "scenes", **options: Any) -> str:
        before = contents(tmp_path)
        assert render(sounds, output, *more, **options) == 2
        assert contents(tmp_path) == before
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("sslam data render: ")
        return error

    assert render(sounds, tmp_path / "scenes") == 0
    assert "rendered with other values of seed, stems. Give the same" in refused("--stems", seed=8)
    (sounds / "low" / "5.flac").unlink()
    assert "rendered with other values of recordings. Give the same" in refused()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    assert "mine' holds other files, and no scenes to go on with" in refused(output=tmp_path / "mine")
    (tmp_path / "mine" / "scenes.json").write_text("[1, 2]")
    assert "scenes.json' is no file of sslam data render" in refused(output=tmp_path / "mine")
    assert "so that scenes would be taken for recordings" in refused(output=sounds / "scenes")
    assert "fold must be one of 1, 2, 3, 4, 5 " in refused(fold=9, output=tmp_path / "new")
    assert refused(num_folds=2, output=tmp_path / "new").endswith("Raise --num_folds, or pass --num_val_scenes 0.")
    assert "polyphony must be a pair" in refused(polyphony=(0, 1), output=tmp_path / "new")
    assert "not allowed with argument" in refused("--silence", "--background_root", sounds, output=tmp_path / "new")


def test_data_render__bad_recordings_are_listed(
    sounds: Path, tmp_path: Path, write_bad_files: Callable[[Path], dict[str, str]]
) -> None:
    expected = write_bad_files(sounds / "low")
    output = tmp_path / "scenes"
    assert render(sounds, output) == 0
    with (output / "bad_files.csv").open() as file:
        listed = {Path(row["path"]).name: row["action"] for row in csv.DictReader(file)}
    assert listed == expected
    skipped = {f"low/{name}" for name, action in expected.items() if action == "skipped"}
    assert not skipped & {row["source_file"] for row in rows(output)}


def test_data_render__a_recording_that_vanishes_is_an_error(
    sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from data_modules import scene_files

    def begin(*args: Any) -> None:
        for path in sounds.rglob("*.flac"):
            path.unlink()

    monkeypatch.setattr(scene_files, "begin", begin)
    assert render(sounds, tmp_path / "scenes") == 2
    assert "no such file" in capsys.readouterr().err


def test_data__help_and_mistakes_need_no_torch() -> None:
    code = (
        "import sys; from sslam.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "sys.exit('loaded: torch' if {'torch', 'lightning'} & set(sys.modules) else 0)"
    )
    for args in (["data", "--help"], ["data"], ["data", "render", "--help"], ["data", "stats"]):
        done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "usage" in done.stdout or "--help" in done.stderr
