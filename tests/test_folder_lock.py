"""A folder for one process at a time, also where locks are not to be had."""

import errno
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from sslam.errors import UsageError
from sslam.folder_lock import lock_folder

HOLDER = "import sys, time; from pathlib import Path; from sslam.folder_lock import lock_folder\n"
HOLDER += "lock = lock_folder(Path(sys.argv[1]), ''); print('locked', flush=True); time.sleep(60)"


def test_lock_folder__another_process_is_told_what_to_do(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline() == "locked\n"
            with pytest.raises(UsageError, match="is in use by another process. Wait for it."):
                lock_folder(tmp_path, "Wait for it.")
        finally:
            other.kill()
    lock_folder(tmp_path, "Wait for it.").release()  # a process that has ended has none


def test_lock_folder__a_process_may_take_it_again(tmp_path: Path) -> None:
    first = lock_folder(tmp_path, "")
    assert first.is_locked
    lock_folder(tmp_path, "").release()
    first.release()


def test_lock_folder__a_disk_without_locks_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.warns(UserWarning, match=r"cannot be locked \(No locks available\): see to it that one process alone"):
        lock_folder(tmp_path, "")
