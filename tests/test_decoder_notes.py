"""What the mp3 decoder says stays off the terminal and names its file; what others write stays on it."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from data_modules import FolderDataModule
from sslam.audio import decode_audio, decode_whole_file
from sslam.audio_files import stated_size
from sslam.decoder_notes import decoder_notes
from tests.mp3 import damage, write_mp3


def sounds(rate: int, seconds: float = 10.0) -> np.ndarray:
    """Tones that come and go, which need more and fewer bits."""
    moments = np.arange(round(rate * seconds)) / rate
    tone = 0.3 * np.sin(2 * np.pi * (200 + 50 * np.sin(moments)) * moments) * (np.sin(3 * moments) > 0)
    noise = 0.05 * np.random.default_rng(0).standard_normal(len(moments)) * (np.sin(moments) > 0)
    return tone + noise


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Mp3 inside wav with a broken part in the middle, of which its decoder complains when it comes there."""
    path = tmp_path / "damaged.wav"
    write_mp3(path, sounds(44_100), 44_100)
    damage(path)
    return path


def test_decoder_notes__the_decoder_does_complain(damaged: Path, capfd: pytest.CaptureFixture[str]) -> None:
    soundfile.read(damaged)
    assert "Note: Illegal Audio-MPEG-Header" in capfd.readouterr().err


def test_decoder_notes__are_caught_and_told(damaged: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with decoder_notes() as notes:
        soundfile.read(damaged)
    assert notes[0].startswith("Illegal Audio-MPEG-Header 0x")
    assert notes[1] == "Trying to resync..."
    assert capfd.readouterr().err == ""


def test_decoder_notes__what_others_write_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with decoder_notes() as notes:
        os.write(2, b"\r 40%|####   |Note: Trying to resync...\n 2/5 clips")
    assert notes == ["Trying to resync..."]
    assert capfd.readouterr().err == "\r 40%|####   | 2/5 clips"
    with contextlib.suppress(KeyError), decoder_notes():
        os.write(2, b"last words\n")
        raise KeyError
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "last words\nafter\n"


def test_decoder_notes__a_closed_standard_error_is_left_alone() -> None:
    keep = os.dup(2)
    os.close(2)
    try:
        with decoder_notes() as notes:
            pass
    finally:
        os.dup2(keep, 2)
        os.close(keep)
    assert notes == []


def test_decoder_notes__threads_lose_nothing_and_leave_no_file_open(
    damaged: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def decode() -> None:
        for _ in range(5):
            assert decode_whole_file(damaged).problem is not None

    before = len(list(Path("/proc/self/fd").iterdir()))
    threads = [threading.Thread(target=decode) for _ in range(3)]
    for thread in threads:
        thread.start()
    written = 0
    while any(thread.is_alive() for thread in threads):
        os.write(2, b"|" * 7 + b"\n")
        written += 1
        time.sleep(1e-4)
    for thread in threads:
        thread.join()
    assert capfd.readouterr().err == "|||||||\n" * written
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_decoder_notes__a_process_forked_meanwhile_can_decode(damaged: Path) -> None:
    stop = threading.Event()

    def decode() -> None:
        while not stop.is_set():
            decode_whole_file(damaged)

    thread = threading.Thread(target=decode)
    thread.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                signal.alarm(30)  # ends it where it waits for ever
                code = 1
                try:
                    code = 0 if decode_whole_file(damaged).problem is not None else 1
                finally:
                    os._exit(code)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("extension", ["mp3", "wav"])
def test_decode_audio__a_file_of_which_the_decoder_complains_is_named(
    tmp_path: Path, extension: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"cut.{extension}"
    write_mp3(path, sounds(44_100), 44_100)
    assert decode_audio(path, num_seconds=1.0).problem is None
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    stated_size(str(path))
    problem = decode_audio(path, num_seconds=1.0).problem
    assert problem is not None
    assert problem.path == str(path)
    assert problem.action == "repaired"
    if extension == "mp3":  # of the wav file the header tells more
        assert problem.reason.startswith('damaged: its decoder says "Xing stream size off by more than 1%')
    else:
        assert problem.reason.startswith("truncated")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("extension", ["mp3", "wav"])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_decode_audio__random_parts_of_mp3_are_those_of_the_whole_and_no_complaint(
    tmp_path: Path, extension: str, rate: int, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"sounds.{extension}"
    write_mp3(path, sounds(rate), rate, quality=0.99)
    whole = decode_audio(path, rate).waveform
    for position in np.random.default_rng(0).random(20):
        start = int(position * (len(whole) - rate))
        part, problem = decode_audio(path, rate, num_seconds=1.0, crop_position=position)
        assert problem is None
        np.testing.assert_allclose(part, whole[start : start + rate], atol=1e-6)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("num_workers", [0, 2])
def test_data_modules__damaged_mp3_in_wav_is_listed_and_leaves_the_terminal_alone(
    tmp_path: Path, num_workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        write_mp3(tmp_path / f"good{number}.wav", sounds(16_000, 2.0), 16_000)
    write_mp3(tmp_path / "bad.wav", sounds(16_000, 2.0), 16_000)
    damage(tmp_path / "bad.wav", share=0.3)
    data = FolderDataModule(str(tmp_path), batch_size=2, num_workers=num_workers, clip_seconds=2.0)
    data.setup("predict")
    with pytest.warns(UserWarning, match=r"Bad audio files so far: 1 \(0 skipped, 1 repaired\): '.*bad.wav'"):
        batches = list(data.predict_dataloader())
    assert torch.cat([batch["index"] for batch in batches]).tolist() == [0, 1, 2, 3]
    assert list(data.bad_files.problems) == [str(tmp_path / "bad.wav")]
    said = capfd.readouterr().err
    assert "Note" not in said
    assert "libmpg123" not in said
