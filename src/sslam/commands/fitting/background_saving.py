"""Checkpoints are written while training goes on: the state is copied at once, and a thread writes the copy."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor

from sslam.atomic_write import torch_save, write_whole
from sslam.errors import UsageError


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints are written beside their place and then renamed.

    Lightning's are written into the system's folder for temporary files and moved: where that is another file system, a
    full disk leaves one by halves under its final name, and a kill a stray file of gigabytes.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_whole(Path(path), lambda partial: torch_save(checkpoint, partial))
        except OSError as error:
            raise UsageError(
                f"The checkpoint {path} cannot be written ({error.strerror}). Make room, or choose another place with "
                "--trainer.default_root_dir; the run goes on from the last one."
            ) from error


class BackgroundCheckpoints(WholeCheckpoints):
    """The same in a thread, in the order in which it was asked for, and never two at once.

    What is to happen after a checkpoint is there (the link to it, the removal of the one before) waits for it, so that
    a kill at any time leaves the newest whole one. (Lightning's asynchronous plugin removes the one before at once.)
    A checkpoint that cannot be written ends the run when the next one is due, or at the end.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread: ThreadPoolExecutor | None = None
        self._pending: list[Future[None]] = []

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Copy the state and have it written.

        Raises:
            UsageError: If an earlier one could not be written.
        """
        self.wait()
        copied = snapshot(checkpoint)
        write = super().save_checkpoint
        self.afterwards(lambda: write(copied, path, storage_options))

    def remove_checkpoint(self, path: str | Path) -> None:
        remove = super().remove_checkpoint
        self.afterwards(lambda: remove(path))

    def afterwards(self, work: Callable[[], None]) -> None:
        """Have something done when all is written that was asked for before; if that fails, it is left out."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "checkpoints")
        before = list(self._pending)

        def do() -> None:
            if not any(future.exception() for future in before):
                work()

        self._pending.append(self._thread.submit(do))

    def wait(self) -> None:
        """Return when all is written.

        Raises:
            UsageError: If something could not be written.
        """
        pending, self._pending = self._pending, []
        for future in pending:
            future.result()

    def teardown(self) -> None:
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
            self._thread = None


def snapshot(value: Any, storages: dict[int, torch.UntypedStorage] | None = None) -> Any:
    """A copy of plain values and tensors, these on the CPU; tensors that share memory share that of the copy."""
    storages = {} if storages is None else storages
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        key = storage._cdata
        if key not in storages:
            storages[key] = storage.clone() if storage.device.type == "cpu" else storage.cpu()
        whole = torch.empty(0, dtype=value.dtype)
        return whole.set_(storages[key], value.storage_offset(), value.size(), value.stride())
    if isinstance(value, OrderedDict):
        copied = OrderedDict((key, snapshot(entry, storages)) for key, entry in value.items())
        copied.__dict__.update(value.__dict__)  # a state dict's versions
        return copied
    if type(value) is dict:
        return {key: snapshot(entry, storages) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(snapshot(entry, storages) for entry in value)
    return copy.deepcopy(value)
