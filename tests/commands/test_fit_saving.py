"""What a run has learnt is kept, whatever else fails, and nothing half is left under a checkpoint's name."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from sslam.__main__ import main
from sslam.commands.fitting.background_saving import WholeCheckpoints
from sslam.commands.fitting.resume import SameStart
from sslam.commands.fitting.run_folder import RunFolder
from sslam.errors import UsageError
from sslam.folder_lock import lock_folder
from tests.commands.test_fit_resume import complaint, state_of

RUN = [
    "fit",
    *("--config", "experiments/pretrain.yaml", "--config", "experiments/overrides/smoke.yaml"),
    *("--experiment", "resume", "--data.num_val_scenes", "0"),
]
BARE = [*RUN, "--trainer.callbacks", "[]"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """No file grows beyond this, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_fit__a_callback_that_fails_at_the_end_does_not_lose_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("at the end")

    monkeypatch.setattr("callbacks.CollapseMonitor.on_train_end", fail, raising=False)
    with pytest.raises(RuntimeError, match="at the end"):
        main([*RUN, "--run_id", "failed"])
    assert state_of("failed")["global_step"] == 2


def test_fit__a_picture_that_fails_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("no room for a figure")

    monkeypatch.setattr("callbacks.PretrainingPicture.draw", fail)
    monkeypatch.setattr("callbacks.loss_curves.draw_curves", fail)
    with pytest.warns(UserWarning, match="could not be made") as warned:
        assert main([*RUN, "--run_id", "pale"]) == 0
    said = {str(warning.message) for warning in warned}
    ending = " could not be made (MemoryError: no room for a figure). The run goes on."
    assert {f"The picture of step 2{ending}", f"The picture of the loss curves{ending}"} <= said
    assert state_of("pale")["global_step"] == 2


def test_whole_checkpoints__a_full_disk_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    path = tmp_path / "checkpoints/last.ckpt"
    WholeCheckpoints().save_checkpoint({"state_dict": {"weight": torch.ones(10)}}, path)
    large = {"state_dict": {"weight": torch.zeros(1_000_000)}}
    with largest_file(100_000), pytest.raises(UsageError, match=r"last.ckpt cannot be written \(File too large\)"):
        WholeCheckpoints().save_checkpoint(large, path)
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]
    assert torch.load(path)["state_dict"]["weight"].sum() == 10
    assert not list((tmp_path / "temporary").iterdir())


def test_fit__a_full_disk_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with largest_file(60_000):
        assert main([*BARE, "--run_id", "full", "--trainer.logger", "false"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sslam")]
    assert len(said) == 1
    assert "cannot be written (File too large). Make room, or choose another place with --trainer" in said[0]
    assert not list(Path("runs/resume/full").glob("checkpoints/*"))


def test_fit__two_fits_with_one_run_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BARE, "--run_id", "one"]) == 0
    Path("runs/resume/one/checkpoints/.last.ckpt.7.partial").touch()  # of a fit that was killed
    held = "from sslam.folder_lock import lock_folder; from pathlib import Path; import sys; "
    held += "lock = lock_folder(Path('runs/resume/one'), ''); print('locked', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    message = complaint([*BARE, "--run_id", "one", "--ckpt_path", "last"], capsys)
    assert message == (
        "sslam fit: runs/resume/one is in use by another process. Wait for it, or choose another --run_id."
    )
    other.communicate()
    assert main([*BARE, "--run_id", "one", "--ckpt_path", "last", "--trainer.max_steps", "3"]) == 0
    assert state_of("one")["global_step"] == 3
    assert not list(Path("runs/resume/one/checkpoints").glob(".*"))


def test_fit__last_takes_a_newer_checkpoint_of_lightnings_requeueing(caplog: pytest.LogCaptureFixture) -> None:
    assert main([*BARE, "--run_id", "requeued"]) == 0
    folder = Path("runs/resume/requeued")
    (folder / "checkpoints/last.ckpt").resolve().rename(folder / "hpc_ckpt_1.ckpt")
    (folder / "checkpoints/last.ckpt").unlink()
    caplog.set_level("INFO")
    assert main([*BARE, "--run_id", "requeued", "--ckpt_path", "last", "--trainer.max_steps", "3"]) == 0
    assert "from the beginning" not in caplog.text
    assert "hpc_ckpt_1.ckpt" in caplog.text
    run = RunFolder(Path("runs"), "resume", "requeued")
    os.utime(run.hpc_checkpoints[0], (1, 1))
    from sslam.commands.fitting.resume import resolve_checkpoint

    assert resolve_checkpoint("last", run, is_old_run=True) == "runs/resume/requeued/checkpoints/last.ckpt"


@pytest.mark.parametrize("other", ["nothing", "other weights"])
def test_same_start__processes_with_run_folders_of_their_own(
    other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / "0.ckpt", tmp_path / "1.ckpt"]
    for number, path in enumerate(paths):
        torch.save({"state_dict": {"weight": torch.full((3,), number)}, "global_step": 5}, path)
    theirs = SameStart(None if other == "nothing" else str(paths[1]))._start()

    def gather(starts: list[Any], own: Any) -> None:
        starts[:] = [own, (own[0], theirs[1]) if other == "other weights" else theirs]

    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    trainer: Any = type("Trainer", (), {"world_size": 2})()
    with pytest.raises(UsageError, match=r"0.ckpt \(step 5, \w+\) and process 1 from .* must see the same run folder"):
        SameStart(str(paths[0])).setup(trainer, pl.LightningModule(), "fit")


def test_lock_folder__is_free_when_the_process_has_ended(tmp_path: Path) -> None:
    code = f"from sslam.folder_lock import *; a = lock_folder(Path({str(tmp_path)!r}), ''); import os; os._exit(1)"
    subprocess.run([sys.executable, "-c", code], check=False)
    lock_folder(tmp_path, "Wait.").release()
