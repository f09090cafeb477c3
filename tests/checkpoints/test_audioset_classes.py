"""AudioSet's class names, and published classifiers that tag with them."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_modules import AudioSetDataModule
from sslam.checkpoints import audioset_classes, read_checkpoint
from sslam.checkpoints.audioset_classes import audioset_class_names
from sslam.commands.convert import main as convert
from sslam.commands.embed import main as embed
from tests.checkpoints.hub_files import save_hub
from tests.checkpoints.published_files import fine_tuned, save_published
from tests.data_modules.official_layouts import write_audioset

CSV = Path(audioset_classes.__file__).with_suffix(".csv")


def test_audioset_class_names__are_all_of_the_official_list() -> None:
    names = audioset_class_names()
    assert len(names) == len(set(names)) == 527
    # Published examples of the order, from the paper's pages and the names that data sets built on it use.
    known = {
        0: "Speech",
        1: "Male speech, man speaking",
        16: "Laughter",
        72: "Animal",
        74: "Dog",
        137: "Music",
        300: "Vehicle",
    }
    known |= {345: "Dental drill, dentist's drill", 500: "Silence", 513: "Noise", 526: "Field recording"}
    assert {index: names[index] for index in known} == known
    with CSV.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["index", "mid", "display_name"]
    assert len({row["mid"] for row in rows}) == 527
    assert all(row["mid"].startswith(("/m/", "/t/dd00", "/g/")) for row in rows)
    assert (rows[0]["mid"], rows[137]["mid"], rows[526]["mid"]) == ("/m/09x0r", "/m/04rlf", "/m/07hvw1")


def test_audioset_class_names__the_file_is_one_that_the_data_module_reads(tmp_path: Path) -> None:
    """The form is the official one: the data module takes it in the place of AudioSet's own."""
    root = write_audioset(tmp_path)
    (root / "class_labels_indices.csv").write_bytes(CSV.read_bytes())
    data = AudioSetDataModule(str(root), batch_size=2, num_workers=0, clip_seconds=0.1)
    data.setup("test")
    assert data.class_names == list(audioset_class_names())


@pytest.mark.parametrize("layout", ["fairseq", "hub", "converted"])
def test_embed__published_classifiers_of_audioset_tag_with_words(layout: str, tmp_path: Path) -> None:
    model = fine_tuned(num_classes=527)
    path = save_published(tmp_path / "published.pt", model)
    if layout == "hub":
        path = save_hub(tmp_path / "hub", model)
    if layout == "converted":
        assert convert([str(path), str(tmp_path / "ours.safetensors")]) == 0
        path = tmp_path / "ours.safetensors"
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    output = tmp_path / "tags.csv"
    args = [tmp_path / "a.wav", "--checkpoint", path, "--output", output, "--tags", 527, "--device", "cpu"]
    assert embed([str(arg) for arg in args]) == 0
    with output.open(newline="", encoding="utf-8") as stream:
        assert {row["label"] for row in csv.DictReader(stream)} == set(audioset_class_names())


def test_read_checkpoint__other_numbers_of_classes_stay_unnamed(tmp_path: Path) -> None:
    path = save_published(tmp_path / "published.pt", fine_tuned(num_classes=526))
    assert read_checkpoint(path).class_names == []
