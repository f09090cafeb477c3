"""Writing the folder that is given away."""

import secrets
import shutil
from pathlib import Path
from typing import Literal

from sslam.atomic_write import write_whole
from sslam.checkpoints import UserClasses, hub_layout
from sslam.checkpoints.architecture import statement
from sslam.checkpoints.loading import Checkpoint, file_sha256
from sslam.checkpoints.writing import stated, write_hub, write_separator, write_sslam
from sslam.errors import UsageError
from sslam.exporting.card import Licence, Written, config_json, model_card, write_licence
from sslam.exporting.source import Source

CARD = "README.md"
WEIGHTS = hub_layout.WEIGHTS[0]
ONNX = "model.onnx"


def write_folder(
    source: Source,
    folder: Path,
    licence: Licence,
    layout: Literal["sslam", "hub"] = "sslam",
    with_onnx: bool = False,
    repository: str | None = None,
    user_classes: UserClasses = (),
) -> list[Path]:
    """Write weights, configuration and model card, all of them or nothing.

    Args:
        source: The model.
        folder: New; its parent is there.
        licence: Licence of the weights.
        layout: Names of the tensors: ours, or those of EAT and SSLAM on the Hub.
        with_onnx: Write ``model.onnx`` besides, which needs the packages of the extra ``onnx``.
        repository: ``owner/name`` of the Hub, under which the card says that it is loaded; by default the folder.
        user_classes: See :func:`~sslam.checkpoints.read_checkpoint`.

    Returns:
        The files.

    Raises:
        UsageError: If the model has no place in the layout, or cannot become ONNX.
        OSError: If the folder cannot be written.
    """
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(3)}.partial")
    partial.mkdir()
    try:
        _write_weights(source, partial, licence, layout)
        onnx = _write_onnx(source, partial, user_classes) if with_onnx else ()
        write_licence(partial, licence)
        hashes = {file.name: file_sha256(file) for file in sorted(partial.iterdir())}
        address = f"hf://{repository}" if repository else folder.name
        card = model_card(
            source, (repository or folder.resolve().name).rpartition("/")[2], address, licence,
            Written(hashes, layout == "hub", onnx),
        )  # fmt: skip
        write_whole(partial / CARD, lambda file: file.write_text(card, encoding="utf-8"))
        for file in partial.iterdir():
            file.chmod((partial / CARD).stat().st_mode)  # safetensors writes for the owner alone
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return sorted(folder.iterdir())


def _write_weights(source: Source, folder: Path, licence: Licence, layout: Literal["sslam", "hub"]) -> None:
    checkpoint = source.checkpoint
    if isinstance(checkpoint, Checkpoint):
        if layout == "hub":
            write_hub(checkpoint, folder)
            return
        write_sslam(checkpoint, folder / WEIGHTS)
        config = config_json(source, stated(checkpoint), licence)
    else:
        if layout == "hub":
            raise UsageError("The Hub's layout of EAT and SSLAM has no separator. Leave --format hub out.")
        write_separator(checkpoint, folder / WEIGHTS)
        config = config_json(source, statement({"separator": checkpoint.network}), licence)
    write_whole(folder / hub_layout.CONFIG, lambda file: file.write_text(config, encoding="utf-8"))


def _write_onnx(source: Source, folder: Path, user_classes: UserClasses) -> tuple[str, ...]:
    if not isinstance(source.checkpoint, Checkpoint):
        raise UsageError("--onnx is for encoders, and this is a separator. Leave it out.")
    from sslam.exporting.onnx_graph import write_onnx

    return write_onnx(folder / WEIGHTS, folder / ONNX, user_classes)
