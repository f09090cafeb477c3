"""Reading weights: a file of ``sslam convert``, a checkpoint of one of our runs, or a published EAT or SSLAM file.

Nothing that a file says is executed, whatever its kind.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from sslam.checkpoints import published
from sslam.checkpoints.contents import SEPARATOR, Stated, list_problems, open_contents
from sslam.checkpoints.published import FINE_TUNED_PARTS, PRE_TRAINED_PARTS, Sizes
from sslam.errors import CheckpointError, printable
from sslam.frontends import Frontend, KaldiFbank, LogMel
from sslam.networks import CNN14, AudioViT, Encoder

# Parts of a run's checkpoint that are not read: the configuration makes them anew, they are the heads of a linear
# probe's other seeds, or those of the tasks of contrastive pre-training.
LEFT_OUT = (
    *("frontend.", "masking.", "mixing.", "augmentation.", "loss.", "metrics.", "probes."),
    *("similarity_head.", "coincidence_head."),
)
ACTIVATIONS = ("sigmoid", "softmax")


@dataclass(frozen=True)
class Checkpoint:
    """Checked weights under our names, float32.

    Attributes:
        kind: ``pre_trained`` (stage 1 or 2, whose tensors are the same), ``fine_tuned``, or ``contrastive``: an encoder
            alone.
        tensors: ``student.*``, ``decoder.*``, ``teacher.encoder.*``, or ``encoder.*``, ``fc_norm.*``, ``head.*``. Every
            part is whole; parts other than the encoder may be absent.
        hyper_parameters: ``encoder`` and, where there is one, ``decoder``: keyword arguments of ``encoder_class`` and
            :class:`~sslam.networks.ConvDecoder`; ``frontend``, those of :class:`~sslam.frontends.KaldiFbank` or, with
            ``log_offset``, of :class:`~sslam.frontends.LogMel`, where the file states them; of a classifier
            ``num_classes`` and
            ``head``: its ``pooling`` (``cls``, ``mean`` or ``both``) and the ``activation`` that makes probabilities of
            logits (``sigmoid`` or ``softmax``). ``num_heads`` is None where neither the file nor the width tells it.
        source_sha256: Of the file that ``sslam convert`` made this one from; empty for any other file.
        skipped: What the file holds besides, in words.
        unknown: Names of tensors that belong to no part; empty unless they were allowed.
        class_names: Of a classifier, in the order of its outputs; empty where the file does not tell.
        encoder_class: :class:`~sslam.networks.AudioViT` or :class:`~sslam.networks.CNN14`, as the tensors tell.
    """

    kind: Literal["pre_trained", "fine_tuned", "contrastive"]
    tensors: dict[str, Tensor]
    hyper_parameters: dict[str, Any]
    source_sha256: str
    skipped: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    class_names: list[str] = field(default_factory=list)
    encoder_class: type[AudioViT] | type[CNN14] = AudioViT

    def encoder_arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``encoder_class``.

        Raises:
            CheckpointError: If the number of heads is not known.
        """
        arguments: dict[str, Any] = self.hyper_parameters["encoder"]
        if "num_heads" in arguments and arguments["num_heads"] is None:
            raise CheckpointError(
                f"The file does not state the number of attention heads and its width {arguments['width']} is not a "
                f"multiple of {published.HEAD_WIDTH}, which would tell it. Give num_heads."
            )
        return arguments

    def build_encoder(self, weights: Literal["student", "teacher"] = "student", drop_path: float = 0.0) -> Encoder:
        """The encoder in training mode, on the CPU; see :func:`load_encoder`.

        Raises:
            CheckpointError: If the file holds no such encoder.
        """
        if weights not in ("student", "teacher"):
            raise CheckpointError(f"weights must be 'student' or 'teacher', got {weights!r}.")
        prefix = "teacher.encoder." if weights == "teacher" else "student."
        if self.kind != "pre_trained" and weights == "student":
            prefix = "encoder."
        state = {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}
        if not state:
            raise CheckpointError(
                f"The file holds no {weights}. Use weights='student', or a file of pre-training with its teacher."
            )
        encoder = self.new_encoder(drop_path)
        encoder.load_state_dict(state)
        return encoder

    def new_encoder(self, drop_path: float = 0.0) -> Encoder:
        """An encoder of this architecture with random weights.

        Raises:
            CheckpointError: If it has no stochastic depth and some is asked for.
        """
        if self.encoder_class is AudioViT:
            return AudioViT(**self.encoder_arguments(), drop_path=drop_path)
        if drop_path:
            raise CheckpointError(
                f"drop_path must be 0 for {self.encoder_class.__name__}, which has no stochastic depth, got "
                f"{drop_path}. Pass --model.drop_path 0."
            )
        return self.encoder_class(**self.encoder_arguments())

    def build_frontend(self) -> Frontend:
        """The front end that the weights were trained with, with as many frames as then.

        Raises:
            CheckpointError: If the file states none, as published ones do not.
        """
        arguments = self.hyper_parameters.get("frontend")
        if arguments is None:
            raise CheckpointError(
                "The checkpoint does not state its front end. Give one that fits, such as --model.frontend "
                "sslam.frontends.KaldiFbank --model.whole_clips true for EAT and SSLAM."
            )
        return LogMel(**arguments) if "log_offset" in arguments else KaldiFbank(**arguments)


def read_checkpoint(
    path: str | Path, allow_unknown: bool = False, num_heads: int | None = None, num_mel_bins: int | None = None
) -> Checkpoint:
    """Read and check a checkpoint of any kind: ours (safetensors), a run's (Lightning), or a published one.

    Args:
        path: The file.
        allow_unknown: Leave out tensors that belong to no part, and list them, instead of raising.
        num_heads: Of the encoder; by default what the file states, else width / 64.
        num_mel_bins: Of the features; by default what the file states, else 128.

    Raises:
        CheckpointError: If there is no such file, it is damaged or unsafe, or tensors are missing, unknown or of
            another shape.
    """
    path = Path(path)
    with open_contents(path) as contents:
        names = contents.shapes.keys()
        if any(name.startswith(SEPARATOR) for name in names):
            raise CheckpointError(
                f"{path} holds a separator (MixIT), no encoder. Load it with load_separator, or give a checkpoint of "
                "EAT, SSLAM or an encoder of this project."
            )
        is_ours = any(name.startswith(("student.", "encoder.")) for name in names)
        fine_tuned = any(name.startswith("encoder." if is_ours else "model.") for name in names)
        contrastive = is_ours and fine_tuned and not any(name.startswith(FINE_TUNED_PARTS[1:]) for name in names)
        parts = FINE_TUNED_PARTS if fine_tuned else PRE_TRAINED_PARTS
        positions = [] if is_ours else [name for name in names if name.endswith(published.POSITIONS)]
        ignored = sorted(name for name in names if is_ours and name.startswith(LEFT_OUT))

        # From here on tensors have our names; `file_names` leads back.
        file_names: dict[str, str] = {}
        for name in names - {*positions, *ignored}:
            ours = name if is_ours else published.our_name(name, fine_tuned)
            if ours in file_names:
                raise CheckpointError(
                    f"{printable(name)} and {printable(file_names[ours])} would both become {printable(ours)}. Give a "
                    "checkpoint of EAT, SSLAM or this project."
                )
            file_names[ours] = name
        shapes = {ours: contents.shapes[name] for ours, name in file_names.items()}
        sizes = published.sizes_of(shapes, parts)
        present = [part for part in parts if part == parts[0] or any(name.startswith(part) for name in shapes)]
        expected = published.expected_shapes(sizes, present)
        unknown = sorted(file_names[name] for name in shapes.keys() - expected.keys())
        refused = [] if allow_unknown else unknown
        problems = list_problems(shapes, expected, refused, str if is_ours else published.published_name)
        if problems:
            only_unknown = not list_problems(shapes, expected, [])
            remedy = "Leave the unknown ones out with allow_unknown" if only_unknown else "Give a whole checkpoint"
            raise CheckpointError(f"The file's tensors are not those of our networks. {remedy}.\n{problems}")

        stated = contents.stated
        num_mel_bins = num_mel_bins or stated.encoder.get("num_mel_bins", 64 if sizes.channels else 128)
        num_rows, remainder = divmod(num_mel_bins, sizes.patch_size)
        if num_rows < 1 or (remainder and not sizes.channels):
            raise CheckpointError(
                f"num_mel_bins must be a multiple of the patch size {sizes.patch_size}, got {num_mel_bins}. Give "
                "num_mel_bins."
            )
        for name in positions:
            published.check_positions(name, contents.read(name), sizes.width, num_rows)
        return Checkpoint(
            kind="contrastive" if contrastive else "fine_tuned" if fine_tuned else "pre_trained",
            tensors={name: contents.read(file_names[name]) for name in expected},
            hyper_parameters=_hyper_parameters(sizes, num_heads, num_mel_bins, stated),
            source_sha256=contents.source_sha256,
            skipped=[
                *(f"no {part.rstrip('.')} in the file" for part in parts if part not in present and not contrastive),
                *(f"{name} (the encoder computes it)" for name in positions),
                *ignored,
                *contents.skipped,
            ],
            unknown=unknown,
            class_names=_class_names(stated, sizes),
            encoder_class=CNN14 if sizes.channels else AudioViT,
        )


def load_encoder(
    path: str | Path,
    weights: Literal["student", "teacher"] = "student",
    num_heads: int | None = None,
    drop_path: float = 0.0,
) -> Encoder:
    """The encoder of a checkpoint of any kind: an :class:`~sslam.networks.AudioViT` or a CNN14.

    Args:
        path: See :func:`read_checkpoint`.
        weights: Of a pre-trained file, whose encoder: the published evaluations use the student.
        num_heads: See :func:`read_checkpoint`.
        drop_path: Stochastic depth for fine-tuning, see :class:`~sslam.networks.AudioViT`.

    Returns:
        The encoder in training mode, on the CPU.

    Raises:
        CheckpointError: If the file cannot be used or holds no such encoder.
    """
    return read_checkpoint(path, num_heads=num_heads).build_encoder(weights, drop_path)


def load_pretraining_state(path: str | Path) -> dict[str, Tensor]:
    """Weights that pre-training can start from: ``student.*``, ``decoder.*`` and ``teacher.encoder.*``, all there.

    Raises:
        CheckpointError: If the file cannot be used, is fine-tuned, or has no decoder or teacher.
    """
    checkpoint = read_checkpoint(path)
    absent = [part for part in PRE_TRAINED_PARTS if not any(name.startswith(part) for name in checkpoint.tensors)]
    if absent:
        raise CheckpointError(
            f"{path} is a {checkpoint.kind} checkpoint without {', '.join(part.rstrip('.') for part in absent)}. "
            "Pre-training starts from a student, its decoder and its teacher: give a checkpoint of pre-training."
        )
    return checkpoint.tensors


def _num_heads(width: int, stated: int | None) -> int | None:
    if stated is None:
        return None if width % published.HEAD_WIDTH else width // published.HEAD_WIDTH
    if stated < 1 or width % stated:
        raise CheckpointError(f"num_heads must divide the width {width}, got {stated}. Give num_heads.")
    return stated


def _encoder(sizes: Sizes, num_heads: int | None, num_mel_bins: int, stated: Stated) -> dict[str, Any]:
    if sizes.channels:
        return {"width": sizes.width, "channels": list(sizes.channels), "num_mel_bins": num_mel_bins}
    return {
        "width": sizes.width,
        "depth": sizes.depth,
        "num_heads": _num_heads(sizes.width, num_heads or stated.encoder.get("num_heads")),
        "mlp_ratio": sizes.hidden_width / sizes.width,
        "patch_size": sizes.patch_size,
        "num_mel_bins": num_mel_bins,
    }


def _hyper_parameters(sizes: Sizes, num_heads: int | None, num_mel_bins: int, stated: Stated) -> dict[str, Any]:
    hyper_parameters: dict[str, Any] = {"encoder": _encoder(sizes, num_heads, num_mel_bins, stated)}
    if stated.frontend:
        hyper_parameters["frontend"] = _frontend(stated.frontend, num_mel_bins)
    if sizes.decoder_depth:
        hyper_parameters["decoder"] = {
            "width": sizes.width,
            "decoder_width": sizes.decoder_width,
            "depth": sizes.decoder_depth,
            "kernel_size": sizes.decoder_kernel_size,
            "groups": sizes.decoder_groups,
        }
    if sizes.num_classes:
        hyper_parameters["num_classes"] = sizes.num_classes
        hyper_parameters["head"] = _head(stated.head, sizes)
    return hyper_parameters


def _frontend(stated: dict[str, int | float], num_mel_bins: int) -> dict[str, int | float]:
    # Comparisons only, which hold for NaN and for integers of any size.
    rules = {
        f"num_mel_bins = {num_mel_bins}, as the encoder's": stated["num_mel_bins"] == num_mel_bins,
        "num_frames between 1 and 1e6": 1 <= stated["num_frames"] <= 1e6,
        "a sample_rate between 1000 and 768000 Hz": 1000 <= stated["sample_rate"] <= 768_000,
        "a mean between -1e6 and 1e6": -1e6 <= stated["mean"] <= 1e6,
        "a std greater than 0 and at most 1e6": 0 < stated["std"] <= 1e6,
    }
    if "log_offset" in stated:
        low, high = stated["low_frequency"], stated["high_frequency"]
        rules |= {
            "0 <= low_frequency < high_frequency <= sample_rate / 2": 0 <= low < high <= stated["sample_rate"] / 2,
            "a log_offset greater than 0 and at most 1": 0 < stated["log_offset"] <= 1,
        }
    for rule, kept in rules.items():
        if not kept:
            raise CheckpointError(
                f"The file states a front end with {printable(stated)}, and it must have {rule}. Give a checkpoint "
                "that was not altered."
            )
    return stated


def _head(stated: dict[str, str], sizes: Sizes) -> dict[str, str]:
    """What the published classifiers are where the file does not tell: CLS token, sigmoid (AudioSet)."""
    poolings = ("both",) if sizes.pooled_width > sizes.width else ("cls", "mean")
    head = {"pooling": poolings[0], "activation": ACTIVATIONS[0]} | stated
    for name, values in {"pooling": poolings, "activation": ACTIVATIONS}.items():
        if head[name] not in values:
            raise CheckpointError(
                f"The file states a classifier with {name} = {printable(head[name])}, and it must be "
                f"{' or '.join(values)}. Give a checkpoint that was not altered."
            )
    return head


def _class_names(stated: Stated, sizes: Sizes) -> list[str]:
    if not sizes.num_classes:
        return []  # an encoder alone, also where a shallow classifier, which is not read, had classes
    if stated.class_names and len(stated.class_names) != sizes.num_classes:
        raise CheckpointError(
            f"The file names {len(stated.class_names)} classes and its classifier has {sizes.num_classes}. Give a "
            "checkpoint that was not altered."
        )
    return stated.class_names


def file_sha256(*paths: Path) -> str:
    """Of a file, or of several one after the other, as ``cat FILE... | sha256sum`` gives it."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()
