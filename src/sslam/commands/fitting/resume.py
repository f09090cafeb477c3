"""Checks a checkpoint before anything is built, and sees to it that the config wins over what the checkpoint holds."""

import zipfile
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from sslam.checkpoints.contents import naming, require_finite
from sslam.commands.fitting.config_files import nearest
from sslam.commands.fitting.run_folder import RunFolder
from sslam.errors import UsageError
from sslam.methods.method import Method

PARTS_OF_A_FOLDER = (".metadata", "meta.pt", "latest")  # of checkpoints that some strategies write as folders


def resolve_checkpoint(ckpt_path: str, run_folder: RunFolder, is_old_run: bool) -> str | None:
    """What ``--ckpt_path`` means, found before anything is built.

    Args:
        ckpt_path: A file (or folder, as some strategies write), ``last``, or what Lightning resolves itself: ``hpc``,
            ``registry:...``, an address with ``://``.
        run_folder: Folder of this run.
        is_old_run: Whether ``--run_id`` named the run.

    Returns:
        The path; None for ``last`` in a run that has no checkpoint yet, so that one command starts and resumes a run.

    Raises:
        UsageError: If the checkpoint is missing or the word has no meaning here.
    """
    if ckpt_path == "hpc" or ckpt_path.startswith("registry"):
        return ckpt_path
    if "://" in ckpt_path:
        require_address(ckpt_path)
        return ckpt_path
    if ckpt_path == "best":
        raise UsageError(
            "--ckpt_path best is known only while a run is in memory; give the file in its checkpoints folder."
        )
    if ckpt_path == "last":
        if not is_old_run:
            raise UsageError(
                "--ckpt_path last needs --run_id to say of which run; or give the file, .../checkpoints/last.ckpt."
            )
        # last.ckpt is a link; a run killed while it moved it has left it dangling, or none.
        for pattern in ("last*.ckpt", "step=*.ckpt"):
            found = [path for path in run_folder.checkpoints.glob(pattern) if path.exists()]
            found += run_folder.hpc_checkpoints
            # The newest by its time, as a second start may have left a last-v1.ckpt.
            for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
                if is_whole(path):
                    return str(path)
        return None
    if not Path(ckpt_path).exists():
        folder = Path(ckpt_path).parent
        neighbours = sorted(str(path) for path in folder.glob("*.ckpt"))
        suggestion = nearest(ckpt_path, neighbours) or (neighbours[-1] if neighbours else None)
        remedy = f"Did you mean {suggestion}?" if suggestion else f"The folder {folder} has no checkpoint."
        raise UsageError(f"There is no checkpoint {ckpt_path}. {remedy}")
    if Path(ckpt_path).is_dir() and not any((Path(ckpt_path) / name).exists() for name in PARTS_OF_A_FOLDER):
        raise UsageError(f"{ckpt_path} is a folder and no checkpoint. Give a file in it, such as .../last.ckpt.")
    if not Path(ckpt_path).is_dir() and not Path(ckpt_path).is_file():
        raise UsageError(f"{ckpt_path} is no regular file, and so no checkpoint. Give the path of one.")
    return ckpt_path


def is_whole(path: Path) -> bool:
    """Whether a run can go on from a checkpoint of its folder; one that is cut off is named in a warning."""
    try:
        load_checkpoint(str(path))
    except UsageError:
        rank_zero_warn(f"The checkpoint {path} is damaged, so the one before it is taken.")
        return False
    return True


def require_address(address: str) -> None:
    """Looks for a checkpoint in a store before anything is built.

    Raises:
        UsageError: If there is none, or the store cannot be asked.
    """
    try:
        is_there = get_filesystem(address).exists(address)
    except Exception as error:  # every store has its own kinds
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{address} cannot be read ({reason}). Download the file and give its path.") from error
    if not is_there:
        raise UsageError(f"There is no checkpoint {address}. Give the address of one.")


def load_checkpoint(path: str) -> dict[str, Any]:
    """Tensors (mapped, not read) and plain values of a checkpoint; nothing in it is executed.

    Raises:
        UsageError: If it is not a checkpoint of Lightning.
    """
    refusal = (
        f"{path} is not a checkpoint that a run can go on from. Start from its weights with "
        f"--model.initial_checkpoint {path}."
    )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises its own kinds, RuntimeError, UnpicklingError, EOFError and others
        raise UsageError(refusal) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UsageError(refusal)
    return checkpoint


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one level with dotted keys."""
    if isinstance(values, Mapping):
        items = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, list | tuple):
        items = [(str(position), value) for position, value in enumerate(values)]
    else:
        return {prefix: values}
    return {
        key: leaf
        for name, value in items
        for key, leaf in flatten(value, f"{prefix}.{name}" if prefix else name).items()
    }


def differing_hyperparameters(checkpoint: Mapping[str, Any], configured: Mapping[str, Any]) -> list[str]:
    """``key: value in the checkpoint, value now`` for every hyper-parameter of the model that differs.

    The weights that a run starts from do not count: one that goes on does not read them.

    Args:
        checkpoint: As loaded; without ``hyper_parameters`` nothing is compared.
        configured: Hyper-parameters of this run, see :func:`~sslam.commands.fitting.run_folder.hyperparameters`.
    """
    if "hyper_parameters" not in checkpoint:
        return []
    saved, now = flatten(checkpoint["hyper_parameters"]), flatten(configured)
    for not_compared in ("_instantiator", "initial_checkpoint"):
        saved.pop(not_compared, None)
        now.pop(not_compared, None)
    return [line.removeprefix("_") for line in differing(saved, now)]


def differing(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``key: value in the checkpoint, value now`` for every key whose values differ."""
    return [
        f"{key}: {saved.get(key, 'absent')} in the checkpoint, {now.get(key, 'absent')} now"
        for key in dict.fromkeys([*saved, *now])
        if saved.get(key, "absent") != now.get(key, "absent")
    ]


def check_state_fits(
    path: str, checkpoint: Mapping[str, Any], model: pl.LightningModule, differences: list[str]
) -> None:
    """Refuses a checkpoint whose tensors the model cannot take.

    Raises:
        UsageError: If weights are not finite; else names the differing hyper-parameters, or else the
            first tensors that do not fit.
    """
    with naming(path):
        require_finite({name: value for name, value in checkpoint["state_dict"].items() if isinstance(value, Tensor)})
    if isinstance(model, Method):
        model.prepare_to_load(checkpoint)
    saved = {name: tuple(tensor.shape) for name, tensor in checkpoint["state_dict"].items() if hasattr(tensor, "shape")}
    now = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wrong = differing(saved, now)
    if wrong and model.strict_loading:
        shown = "; ".join((differences or wrong)[:5])
        raise UsageError(
            f"{path} does not fit the model ({len(wrong)} tensors). It was made with other values: {shown}."
        )


class SameStart(pl.Callback):
    """Refuses a run whose processes would not all go on from the same state.

    Args:
        path: What this process goes on from, None for the beginning.
    """

    def __init__(self, path: str | None) -> None:
        self.path = path

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.world_size == 1:
            return
        starts: list[tuple[str, str]] = [("", "")] * trainer.world_size
        torch.distributed.all_gather_object(starts, self._start())
        for rank, start in enumerate(starts):
            if start != starts[0]:
                raise UsageError(
                    f"Process 0 starts from {' '.join(starts[0])} and process {rank} from {' '.join(start)}. All must "
                    "see the same run folder: put --trainer.default_root_dir on a disk that they share."
                )

    def _start(self) -> tuple[str, str]:
        """The path, and the step with a digest of the file's table of contents, which has a sum of every part."""
        if self.path is None or not Path(self.path).is_file():
            return self.path or "the beginning", ""
        with zipfile.ZipFile(self.path) as archive:
            contents = [(part.filename, part.file_size, part.CRC) for part in archive.infolist()]
        step = load_checkpoint(self.path).get("global_step")
        return str(Path(self.path).absolute()), f"(step {step}, {blake2b(repr(contents).encode()).hexdigest()[:12]})"


class ConfigWins(pl.Callback):
    """After a resume, gives the optimizers their configured options again, which the checkpoint has replaced.

    The learning rate itself is left to the schedule. Added only to a run whose config differs from the checkpoint's.
    """

    def __init__(self) -> None:
        self.configured: list[list[dict[str, Any]]] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Called after the optimizers were made and before their state is restored.
        self.configured = [
            [{option: value for option, value in group.items() if option not in ("params", "lr")} for group in groups]
            for groups in (optimizer.param_groups for optimizer in trainer.optimizers)
        ]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for optimizer, options_of_groups in zip(trainer.optimizers, self.configured, strict=True):
            for group, options in zip(optimizer.param_groups, options_of_groups, strict=True):
                group.update(options)
        for config in trainer.lr_scheduler_configs:
            if hasattr(config.scheduler, "base_lrs"):
                groups = config.scheduler.optimizer.param_groups
                config.scheduler.base_lrs = [group["initial_lr"] for group in groups]
