"""A trained encoder as a file holds it: with the front end that it was trained with, and where it comes from."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from sslam.checkpoints.architecture import UserClasses, in_words
from sslam.checkpoints.loading import Checkpoint, file_sha256, read_checkpoint
from sslam.checkpoints.location import Location, resolve
from sslam.frontends import Frontend
from sslam.networks import Encoder

OF_THE_DATA = ("num_frames", "mean", "std", "statistics")
"""Arguments of a front end in which evaluation may differ from pre-training."""


class TrainedEncoder(NamedTuple):
    """An encoder, what its file states besides, and where it comes from.

    Attributes:
        encoder: Encoder in training mode, on the CPU.
        checkpoint: Everything that the file holds.
        provenance: Plain values that results and checkpoints state: ``label``, the name in tables; ``weights``,
            ``student``, ``teacher`` or ``random``; ``path``, or the address on the Hub; the file's ``sha256``; and of
            weights on the Hub the ``revision``, a commit.
    """

    encoder: Encoder
    checkpoint: Checkpoint
    provenance: dict[str, Any]

    def frontend(self, given: Frontend | None = None) -> Frontend:
        """The front end that the encoder was trained with, or a given one that makes the same features.

        Length and statistics may be those of the data at hand. A file that states no front end accepts any.

        Raises:
            CheckpointError: If none is given and the file states none.
            ValueError: If the given one differs from the file's in anything else.
        """
        if given is None:
            return self.checkpoint.build_frontend()
        if "frontend" in self.checkpoint.networks:
            _require_same_features(given, self.checkpoint.build_frontend(), self.provenance["path"])
        return given


def read_encoder(
    path: str | Path,
    weights: Literal["student", "teacher", "random"] = "student",
    drop_path: float = 0.0,
    label: str | None = None,
    user_classes: UserClasses = (),
) -> TrainedEncoder:
    """Read the encoder of a checkpoint of any kind; nothing that the file says is executed.

    Args:
        path: A run of pre-training or fine-tuning, a file that ``sslam convert`` wrote, or a published one: a file, a
            folder or ``hf://owner/name[@revision][/file]``.
        weights: Encoder of that file: the student (as published) or the teacher; ``random`` takes its architecture.
        drop_path: Stochastic depth of the encoder's last block in training, rising linearly from the first one.
        label: Name of the weights in tables; by default ``weights`` and the file's name.
        user_classes: See :func:`~sslam.checkpoints.read_checkpoint`.

    Raises:
        CheckpointError: If the file cannot be used or holds no such encoder.
    """
    location = resolve(path)
    checkpoint = read_checkpoint(location.file, user_classes=user_classes)
    encoder = checkpoint.build_encoder("teacher" if weights == "teacher" else "student", drop_path)
    if weights == "random":
        # After the one above, whose random weights are drawn as well: a seed gives the baseline that it always gave.
        encoder = checkpoint.new_encoder(drop_path)
    return TrainedEncoder(encoder, checkpoint, _origin(location, weights, label))


def separator_provenance(path: str | Path, weights: str, label: str | None = None) -> dict[str, Any]:
    """Where a separator comes from, as of :class:`TrainedEncoder`; ``weights`` is ``separator`` or ``random``."""
    return _origin(resolve(path), weights, label)


def _origin(location: Location, weights: str, label: str | None) -> dict[str, Any]:
    label = label or ("random weights" if weights == "random" else f"{weights} of {location.name}")
    origin = {"label": label, "weights": weights, "path": location.address, "sha256": file_sha256(location.file)}
    return origin if location.revision is None else origin | {"revision": location.revision}


def _require_same_features(given: Frontend, stated: Frontend, path: str) -> None:
    ours, theirs = (
        {name: value for name, value in frontend.architecture().items() if name not in OF_THE_DATA}
        for frontend in (given, stated)
    )
    if type(given) is not type(stated) or ours != theirs:
        raise ValueError(
            f"The encoder in {path} was trained on {type(stated).__name__} features ({in_words(theirs)}), and the "
            f"front end makes {type(given).__name__} features ({in_words(ours)}). Give no frontend, which takes the "
            "checkpoint's."
        )
