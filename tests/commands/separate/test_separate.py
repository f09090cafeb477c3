"""``sslam separate`` over good and bad files: sources, names, list of bad files, pictures, refusals."""

import inspect
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread

from sslam.__main__ import OTHER_COMMANDS, overview
from sslam.checkpoints import load_separator
from sslam.commands.separate import BATCH_SIZE, WINDOW_SECONDS, main
from sslam.separation import separate_waveform
from tests.commands.separate.conftest import BAD, GOOD, bad_files, contents, read, read_sources, separate
from tests.separation.conftest import RATE, noise, save_separator, tiny_separator

REAL_AUDIO = Path("../shared/data/esc50-fold4/audio")


# ---- what comes out -------------------------------------------------------------------------------------------------


def test_separate__sources_add_up_to_every_good_file_and_the_bad_ones_are_listed(
    recordings: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "separated"
    assert separate(recordings, checkpoint, output) == 0
    printed = capsys.readouterr().out
    assert f"13 files separated into 2 sources each: {output}" in printed
    assert f"5 bad files skipped, 1 repaired: {output / 'bad_files.csv'}" in printed
    for name, (seconds, rate, channels) in GOOD.items():
        mixture, _ = read(recordings / name)
        sources = read_sources(output, name)
        assert sources.shape == (2, *mixture.shape), name
        assert mixture.shape == (channels, round(seconds * rate)), name
        np.testing.assert_allclose(sources.sum(axis=0), mixture, atol=1e-5, err_msg=name)
        for number in (1, 2):
            info = soundfile.info(output / f"{Path(name).with_suffix('')}_source{number}.wav")
            assert (info.samplerate, info.subtype, info.format) == (rate, "FLOAT", "WAV")
        if name != "silent.wav":
            assert abs(sources[0] - sources[1]).max() > 1e-3, name
    assert not read_sources(output, "silent.wav").any()
    listed = bad_files(output)
    assert {path for path, (_, action) in listed.items() if action == "skipped"} == {str(recordings / n) for n in BAD}
    for name, reason in BAD.items():
        assert listed[str(recordings / name)][0].startswith(reason)
    assert listed[str(recordings / "truncated.wav")][1] == "repaired"
    assert list(listed) == sorted(listed)
    wavs = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    expected = {f"{Path(name).with_suffix('')}_source{number}.wav" for name in GOOD for number in (1, 2)}
    assert wavs == expected | {".lock", "bad_files.csv", "separation.jsonl"}


def test_separate__sources_are_those_of_the_python_entry(recordings: Path, checkpoint: Path, tmp_path: Path) -> None:
    assert separate(recordings, checkpoint, tmp_path / "separated", "--batch_size", 3) == 0
    separator = load_separator(checkpoint)
    for name in GOOD:
        mixture, rate = read(recordings / name)
        expected = separate_waveform(separator, mixture, rate, window_seconds=2)
        np.testing.assert_allclose(read_sources(tmp_path / "separated", name), expected, atol=1e-6, err_msg=name)


def test_separate__a_run_of_equal_files_goes_through_together(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sslam.separation import waveform

    folder = tmp_path / "recordings"
    folder.mkdir()
    for number in range(7):
        soundfile.write(folder / f"{number}.wav", noise(1, seed=number).T, RATE)
    soundfile.write(folder / "longer.wav", noise(1.0001).T, RATE)
    shapes: list[tuple[int, ...]] = []
    separate_rows = waveform.separate_rows
    monkeypatch.setattr(
        waveform, "separate_rows", lambda net, rows, *rest: shapes.append(rows.shape) or separate_rows(net, rows, *rest)
    )  # type: ignore[func-returns-value]
    assert separate(folder, checkpoint, tmp_path / "separated", "--batch_size", 4) == 0
    assert sorted(shapes) == [(1, RATE + 2), (3, RATE), (4, RATE)]


def test_separate__five_minutes(checkpoint: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "hike.flac", noise(300, 8_000).T, 8_000)
    args = [tmp_path / "hike.flac", "--checkpoint", checkpoint, "--output", tmp_path / "separated", "--device", "cpu"]
    assert main([str(arg) for arg in args]) == 0
    mixture, _ = read(tmp_path / "hike.flac")
    np.testing.assert_allclose(read_sources(tmp_path / "separated", "hike").sum(axis=0), mixture, atol=1e-5)


def test_separate__nothing_clips(checkpoint: Path, tmp_path: Path) -> None:
    mixture = 40 * noise(1)
    soundfile.write(tmp_path / "loud.wav", mixture.T, RATE, subtype="FLOAT")
    assert separate(tmp_path / "loud.wav", checkpoint, tmp_path / "separated") == 0
    sources = read_sources(tmp_path / "separated", "loud")
    assert abs(sources).max() > 5
    np.testing.assert_allclose(sources.sum(axis=0), mixture, atol=1e-4)


def test_separate__real_recordings(tmp_path: Path) -> None:
    files = sorted(REAL_AUDIO.glob("*.wav"))[:4] + sorted(REAL_AUDIO.glob("*.flac"))[:4]
    if not files:
        pytest.skip(f"no recordings in {REAL_AUDIO}")
    checkpoint = save_separator(tmp_path / "four.ckpt", tiny_separator(4, consistency="magsq"))
    assert separate(files[:4], checkpoint, tmp_path / "separated") == 0
    for file in files[:4]:
        sources = read_sources(tmp_path / "separated", file.name, num_sources=4)
        np.testing.assert_allclose(sources.sum(axis=0), read(file)[0], atol=1e-4)


def test_separate__a_file_whose_sources_are_not_finite_is_listed(tmp_path: Path) -> None:
    separator = tiny_separator()
    separator.encoder.weight.data *= 1e36
    checkpoint = save_separator(tmp_path / "diverged.ckpt", separator)
    (tmp_path / "recordings").mkdir()
    soundfile.write(tmp_path / "recordings" / "good.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "recordings" / "loud.wav", np.full(RATE, 900.0), RATE, subtype="FLOAT")
    output = tmp_path / "separated"
    assert separate(tmp_path / "recordings", checkpoint, output) == 0
    assert bad_files(output) == {
        str(tmp_path / "recordings" / "loud.wav"): (
            "its sources are not finite; the largest sample of the file is 900", "skipped",
        )
    }  # fmt: skip
    assert {path.name for path in output.glob("*.wav*")} == {"good_source1.wav", "good_source2.wav"}


def test_separate__file_names_of_any_bytes(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "names"
    folder.mkdir()
    soundfile.write(folder / 'quo"te, $\n.wav', noise(0.2).T, RATE)
    soundfile.write(folder / "good.wav", noise(0.2).T, RATE)
    odd = os.fsdecode(os.fsencode(folder) + b"/caf\xe9.wav")
    try:
        (folder / "good.wav").rename(odd)
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    for _ in range(2):  # the second run reads the names again
        assert separate(folder, checkpoint, tmp_path / "separated", "--pictures") == 0
    assert len(list((tmp_path / "separated").glob("*_source?.wav"))) == 4
    assert len(list((tmp_path / "separated").glob("*.png"))) == 2


# ---- pictures -------------------------------------------------------------------------------------------------------


def test_separate__pictures(recordings: Path, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "separated"
    names = ["mono.wav", "stereo.flac", "long.wav", "silent.wav", "short.wav"]
    assert separate([recordings / name for name in names], checkpoint, output, "--pictures") == 0
    assert sorted(path.name for path in output.glob("*.png")) == sorted(f"{n.split('.')[0]}_sources.png" for n in names)
    image = imread(output / "mono_sources.png")
    assert image.shape[0] > 500
    assert image[..., :3].std() > 0.1  # not an empty page


def test_separate__pictures_can_be_asked_for_later(recordings: Path, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "separated"
    assert separate(recordings / "mono.wav", checkpoint, output) == 0
    assert separate(recordings / "mono.wav", checkpoint, output, "--pictures") == 0
    assert (output / "mono_sources.png").is_file()


# ---- which files, and refusals --------------------------------------------------------------------------------------


def test_separate__output_inside_the_folder_is_not_separated_again(
    recordings: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = recordings / "separated"
    assert separate(recordings, checkpoint, output) == 0
    before = contents(output)
    assert separate(recordings, checkpoint, output) == 0
    assert "18 of 18 files are finished already" in capsys.readouterr().err
    assert contents(output) == before
    assert separate(output, checkpoint, output) == 2
    assert "All audio files are in the output folder" in capsys.readouterr().err


def test_separate__folders_and_files_keep_their_relative_paths(
    recordings: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recordings / "sub" / "deep")
    inputs = [Path(), Path("../high.wav"), Path("../../mono.wav")]
    assert separate(inputs, checkpoint, tmp_path / "separated") == 0
    sources = {
        str(path.relative_to(tmp_path / "separated")) for path in (tmp_path / "separated").rglob("*_source1.wav")
    }
    assert sources == {"middle_source1.wav", "high_source1.wav", "mono_source1.wav"}


def test_separate__two_files_of_one_name_are_refused(
    recordings: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(recordings / "mono.flac", noise(1).T, RATE)
    assert separate(recordings, checkpoint, tmp_path / "separated") == 2
    error = capsys.readouterr().err
    assert f"The sources of {recordings / 'mono.flac'} and {recordings / 'mono.wav'} would have the same names" in error
    assert not (tmp_path / "separated").exists()


def test_separate__links_in_a_circle_long_names_and_absurd_samples(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "hostile"
    folder.mkdir()
    soundfile.write(folder / "z.wav", noise(1).T, RATE)
    soundfile.write(folder / f"{'a' * 240}.wav", noise(1).T, RATE)
    soundfile.write(folder / "absurd.wav", np.where(np.arange(RATE) == 7, 1e30, 0.1), RATE, subtype="FLOAT")
    (folder / "b.wav").symlink_to("c.wav")
    (folder / "c.wav").symlink_to("b.wav")
    (folder / "d").symlink_to("d")
    (folder / "\x1b[31m.wav").touch()
    (folder / "=1+1.wav").touch()
    assert separate(folder, checkpoint, tmp_path / "separated") == 0
    reasons = {path: reason for path, (reason, _) in bad_files(tmp_path / "separated").items()}
    assert {Path(path).name[:10] for path in reasons} == {
        "a" * 10,
        "absurd.wav",
        "b.wav",
        "c.wav",
        "\x1b[31m.wav",
        "=1+1.wav",
    }
    assert reasons[str(folder / f"{'a' * 240}.wav")].startswith("its name is too long")
    assert "at most 1000 (+60 dBFS)" in reasons[str(folder / "absurd.wav")]
    assert {path.name for path in (tmp_path / "separated").glob("*.wav")} == {"z_source1.wav", "z_source2.wav"}
    assert "\x1b" not in capsys.readouterr().err


def test_separate__nothing_good_at_all(
    recordings: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [recordings / "click.wav", recordings / "nan.wav"]
    assert separate(files, checkpoint, tmp_path / "separated") == 2
    error = capsys.readouterr().err
    assert f"None of the 2 files can be used; the first is {files[0]} (too short: 12 samples" in error
    assert set(bad_files(tmp_path / "separated")) == {str(file) for file in files}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--batch_size", 0), "argument --batch_size: must be a whole number of at least 1, got '0'"),
        (("--window_seconds", 0.2), "window_seconds must be at least 1 and finite, got 0.2"),
        (("--window_seconds", "nan"), "window_seconds must be at least 1 and finite, got nan"),
        (("--device", "tpu"), "--device tpu cannot be used"),
    ],
)
def test_separate__wrong_options_are_explained(
    recordings: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[object, ...],
    message: str,
) -> None:
    assert separate(recordings, checkpoint, tmp_path / "separated", *more) == 2
    error = capsys.readouterr().err
    assert error.startswith("sslam separate: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "separated").exists()


def test_separate__wrong_paths_are_explained(
    recordings: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(paths: Path, checkpoint: Path, output: Path) -> str:
        assert separate(paths, checkpoint, output) == 2
        return capsys.readouterr().err

    before = contents(recordings)
    assert "There is no file or folder" in error(tmp_path / "nowhere", checkpoint, tmp_path / "out")
    assert "nothing.ckpt" in error(recordings, tmp_path / "nothing.ckpt", tmp_path / "out")
    assert "holds something else" in error(recordings / "mono.wav", checkpoint, recordings / "sub")
    assert "in the output folder" in error(recordings / "mono.wav", checkpoint, recordings)
    assert str(checkpoint) in error(recordings / "mono.wav", checkpoint, checkpoint)  # a file
    assert contents(recordings) == before


def test_separate__auto_is_a_device(recordings: Path, checkpoint: Path, tmp_path: Path) -> None:
    assert separate(recordings / "mono.wav", checkpoint, tmp_path / "separated", "--device", "auto") == 0


def test_separate__the_state_tells_how_the_sources_were_made(
    recordings: Path, checkpoint: Path, tmp_path: Path
) -> None:
    assert separate(recordings / "mono.wav", checkpoint, tmp_path / "separated") == 0
    about, entry = map(json.loads, (tmp_path / "separated" / "separation.jsonl").read_text().splitlines())
    assert (about["num_sources"], about["sample_rate"], about["checkpoint"]) == (2, RATE, str(checkpoint))
    assert len(about["settings"]["checkpoint_sha256"]) == 64
    assert about["settings"]["window_seconds"] == 2
    assert (entry["name"], entry["problem"]) == ("mono.wav", None)


def test_separate__states_the_defaults_of_the_python_entry() -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(separate_waveform).parameters.items()}
    assert (defaults["batch_size"], defaults["window_seconds"]) == (BATCH_SIZE, WINDOW_SECONDS)


def test_separate__is_a_command_of_sslam() -> None:
    assert OTHER_COMMANDS["separate"][0] == "sslam.commands.separate"
    assert "  separate   sources of audio files" in overview()
