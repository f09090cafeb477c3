"""Data sets in their official layouts, made small: for the tests of data modules and for runs of the experiments."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000

ESC50_HEADER = "filename,fold,target,category,esc10,src_file,take"
# The official targets that are used here, and whether they are in ESC-10.
ESC50_CLASSES = {0: ("dog", True), 1: ("rooster", True), 3: ("cow", False), 6: ("hen", False), 10: ("rain", True)}

AUDIOSET_CLASSES = (
    'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/05zppz,"Male speech, man speaking"\n2,/m/04rlf,Music\n'
)
AUDIOSET_COMMENTS = (
    "# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=4\n# YTID, start_seconds, positive_labels\n"
)
AUDIOSET_BALANCED = """\
--4gqARaEJE, 0.000, 10.000, "/m/09x0r,/m/05zppz"
--PJHxphWEs, 30.000, 40.000, "/m/09x0r"
Y_abcdefg_1, 420.000, 430.000, "/m/04rlf,/m/09x0r"
-0RWZT-miFs, 5.000, 15.000, "/m/04rlf"
"""
AUDIOSET_UNBALANCED = "".join(f'unbalanced{n}, 0.000, 10.000, "/m/04rlf"\n' for n in range(10))
AUDIOSET_EVALUATION = '007P6bFgRCU, 10.000, 20.000, "/m/05zppz"\n00AGIhlv-w0, 300.000, 310.000, "/m/04rlf"\n'
AUDIOSET_AUDIO = (  # under names it has in the wild
    "balanced_train/Y--4gqARaEJE.wav",
    "balanced_train/--PJHxphWEs.flac",
    "balanced_train/Y_abcdefg_1_420.000_430.000.wav",
    "balanced_train/-0RWZT-miFs_5000.wav",
    "007P6bFgRCU_10.wav",
    "eval/Y00AGIhlv-w0_300000_310000.wav",
    "somebody_else.wav",
)

SPASS_TABLES = {
    "market": "1_MatrixLabelsMarket.csv",
    "park": "2_MatrixLabelsPark.csv",
    "square": "3_MatrixLabelsSquare.csv",
    "street": "4_MatrixLabelsStreet.csv",
    "waterfront": "5_MatrixLabelsWaterfront.csv",
}

DESED_HEADER = "filename\tonset\toffset\tevent_label\n"


def write_noise(path: Path, seconds: float = 0.1, level: float = 0.1) -> None:
    """One file of noise, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).uniform(-level, level, round(seconds * RATE))
    soundfile.write(path, noise, RATE)


def write_esc50(root: Path, recordings: Iterable[tuple[int, int]], seconds: float = 0.1) -> Path:
    """`clip00.wav`, `clip01.wav`, ... of these folds and targets, the latter among :data:`ESC50_CLASSES`."""
    rows = []
    for number, (fold, target) in enumerate(recordings):
        name, is_esc10 = ESC50_CLASSES[target]
        write_noise(root / "audio" / f"clip{number:02}.wav", seconds)
        rows.append(f"clip{number:02}.wav,{fold},{target},{name},{is_esc10},{number},A")
    (root / "meta").mkdir()
    (root / "meta" / "esc50.csv").write_text("\n".join([ESC50_HEADER, *rows]) + "\n")
    return root


def write_class_folder(root: Path, sizes: Mapping[str, int], seconds: float = 0.1) -> Path:
    """`dog/dog00.wav`, ...: so many different noises of each class."""
    rng = np.random.default_rng(0)
    for name, size in sizes.items():
        (root / name).mkdir(parents=True)
        for number in range(size):
            soundfile.write(root / name / f"{name}{number:02}.wav", rng.uniform(-0.1, 0.1, round(seconds * RATE)), RATE)
    return root


def write_audioset(root: Path, num_classes: int = 3) -> Path:
    """Four balanced, ten unbalanced and two evaluation clips of three classes; the others are made up and have none."""
    root.mkdir(exist_ok=True)
    made_up = "".join(f'{number},/m/made_up_{number},"Class {number}"\n' for number in range(3, num_classes))
    for name, text in (
        ("class_labels_indices.csv", AUDIOSET_CLASSES + made_up),
        ("balanced_train_segments.csv", AUDIOSET_COMMENTS + AUDIOSET_BALANCED),
        ("unbalanced_train_segments.csv", AUDIOSET_COMMENTS + AUDIOSET_UNBALANCED),
        ("eval_segments.csv", AUDIOSET_COMMENTS + AUDIOSET_EVALUATION),
    ):
        (root / name).write_text(text)
    for name in (*AUDIOSET_AUDIO, *(f"unbalanced/unbalanced{n}.wav" for n in range(10))):
        write_noise(root / name)
    return root


def write_speech_commands(root: Path, words: Sequence[str]) -> Path:
    """Of every word one recording for training, validation and test, and two noise files, of 1 s and of 2 s."""
    for word in words:
        for speaker in ("0a", "1b", "2c"):
            write_noise(root / word / f"{speaker}_nohash_0.wav")
    (root / "validation_list.txt").write_text("".join(f"{word}/1b_nohash_0.wav\n" for word in words))
    (root / "testing_list.txt").write_text("".join(f"{word}/2c_nohash_0.wav\n" for word in words))
    (root / "LICENSE").write_text("CC BY 4.0")
    (root / "_background_noise_").mkdir()
    (root / "_background_noise_" / "README.md").write_text("noise")
    rng = np.random.default_rng(0)
    for name, seconds in (("pink_noise", 1), ("running_tap", 2)):
        soundfile.write(root / "_background_noise_" / f"{name}.wav", rng.uniform(-0.1, 0.1, seconds * RATE), RATE)
    return root


def write_urban_sed(root: Path) -> Path:
    """Three scenes of one, two and three events for training, one for validation, and one without events for test."""
    for split, count in (("train", 3), ("validate", 1), ("test", 1)):
        folder = root / "annotations" / split
        folder.mkdir(parents=True)
        for number in range(count):
            name = f"soundscape_{split}_uniform{number}"
            write_noise(root / "audio" / split / f"{name}.wav")
            lines = ["1.5\t3.25\tsiren", "2.0\t4.0\tcar_horn", "3.25\t3.5\tsiren", "9.0\t9.5\tair_conditioner"]
            (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines[: number + 1]))
            (folder / f"{name}.jams").write_text("{}")
    (root / "annotations" / "test" / "soundscape_test_uniform0.txt").write_text("")
    return root


def write_spass(root: Path, scene: str) -> Path:
    """Eight clips of a scene, which the table lists backwards: rain in all, dog and wind in turn."""
    rows = []
    for number in range(8, 0, -1):
        name = f"{scene}{number:05}.wav"
        write_noise(root / f"{scene.capitalize()}_audio_files" / name)
        rows += [f"{name},rain,0.5,2.0,7", f"{name},{'dog' if number % 2 else 'wind'},1.0,{number}.0,3"]
    (root / "SPASS_META_DATA").mkdir(exist_ok=True)
    table = "\n".join(["audio_filename,class,onset,offset,level", *rows]) + "\n"
    (root / "SPASS_META_DATA" / SPASS_TABLES[scene]).write_text(table)
    return root


def write_desed(root: Path) -> Path:
    """Two clips for training, one of them without events, one for validation and one for test, in tables of events."""
    for name in ("train/1.wav", "train/2.wav", "validation/3.wav", "test/4.wav"):
        write_noise(root / "audio" / name)
    (root / "train.tsv").write_text(
        DESED_HEADER + "1.wav\t0.0\t5.0\tSpeech\n1.wav\t4.0\t10.0\tDishes\n1.wav\t4.5\t4.8\tSpeech\n2.wav\t\t\t\n"
    )
    (root / "validation.tsv").write_text(DESED_HEADER + "audio/validation/3.wav\t1\t2\tCat\n")
    (root / "test.tsv").write_text(DESED_HEADER + "4.wav\t1\t2\tVacuum_cleaner\n")
    return root


def write_fuss(root: Path, reverb: bool = False, seconds: float = 1.0) -> Path:
    """Four examples for training, two for validation and two for test; example k has k sources, 1 to 4.

    As in the data set, only the background sounds all the time, and every file is rounded to 16 bits.
    """
    folder = root / ("ssdata_reverb" if reverb else "ssdata")
    rng = np.random.default_rng(int(reverb))
    samples = round(seconds * RATE)
    for split, count in (("train", 4), ("validation", 2), ("eval", 2)):
        lines = []
        for number in range(count):
            name = f"{split}/example{number:05}"
            stems = rng.uniform(-0.2, 0.2, (1 + number, samples))
            stems[1:, : samples // 2] = 0
            kinds = ["background0", *(f"foreground{event}" for event in range(number))]
            sources = [f"{name}_sources/{kind}_sound.wav" for kind in kinds]
            (folder / f"{name}_sources").mkdir(parents=True)
            for path, signal in zip([*sources, f"{name}.wav"], [*stems, stems.sum(0)], strict=True):
                soundfile.write(folder / path, np.round(2**15 * signal).astype(np.int16), RATE)
            (folder / f"{name}.jams").write_text("{}")
            lines.append("\t".join([f"{name}.wav", *sources]))
        (folder / f"{split}_example_list.txt").write_text("\n".join(lines) + "\n")
    return root


def write_tone(path: Path, frequency: float, seed: int, seconds: float = 0.4, silence: float = 0.1) -> None:
    """A sine of some level and phase, with a little noise, between two silences."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE)) / RATE
    tone = rng.uniform(0.1, 0.5) * np.sin(2 * np.pi * (frequency * times + rng.random()))
    waveform = tone + 0.01 * rng.uniform(-1, 1, len(times))
    soundfile.write(path, np.pad(waveform, round(silence * RATE)), RATE)


CLASS_FREQUENCIES = {"high": 4000.0, "low": 250.0, "middle": 1000.0}


def write_tone_classes(root: Path, num_recordings: int = 6, seconds: float = 0.4) -> Path:
    """Tones `low/0.flac`, `low/1.flac`, ..., of :data:`CLASS_FREQUENCIES`."""
    for column, (name, frequency) in enumerate(CLASS_FREQUENCIES.items()):
        for number in range(num_recordings):
            write_tone(root / name / f"{number}.flac", frequency, 100 * column + number, seconds)
    return root


def write_mixtures(root: Path, seconds: float = 0.5) -> Path:
    """Mixtures of two sources in the layout of WSJ0-2mix, four for training and three for validation; lists as LibriMix
    has them, `tr.csv` and `cv.csv`; and `noisy.csv`, the latter with noise to be added."""
    rng = np.random.default_rng(0)
    for split, count in (("tr", 4), ("cv", 3)):
        lines = []
        for number in range(count):
            sources = rng.uniform(-0.2, 0.2, (2, round(seconds * RATE)))
            for name, signal in (("s1", sources[0]), ("s2", sources[1]), ("mix", sources.sum(0))):
                path = root / split / name / f"{number}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, np.round(2**15 * signal).astype(np.int16), RATE)
            lines.append(",".join([str(number), *(f"{split}/{name}/{number}.wav" for name in ("mix", "s1", "s2"))]))
        heading = "mixture_ID,mixture_path,source_1_path,source_2_path"
        (root / f"{split}.csv").write_text("\n".join([heading, *lines]) + "\n")
    write_noise(root / "noise.wav", 0.3)
    noisy = [heading + ",partner_path", *(f"{line},noise.wav" for line in lines)]
    (root / "noisy.csv").write_text("\n".join(noisy) + "\n")
    return root
