"""Reading weights: a file of ``sslam convert``, a checkpoint of one of our runs, or published weights of EAT or SSLAM.

Nothing that a file says is executed, whatever its kind.
"""

import hashlib
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from sslam.checkpoints import audioset_classes, hub_layout, published
from sslam.checkpoints.architecture import Network, UserClasses, is_stated, read_networks
from sslam.checkpoints.contents import Contents, as_weights, list_problems, naming, read_contents
from sslam.checkpoints.location import resolve
from sslam.checkpoints.published import FINE_TUNED_PARTS, PRE_TRAINED_PARTS
from sslam.checkpoints.separators import SEPARATOR
from sslam.errors import CheckpointError, printable
from sslam.frontends import Frontend
from sslam.networks import AudioViT, ClassifierHead, Encoder, Readout
from sslam.networks.pooling import Pooling

# Parts of a run's checkpoint that are not read: the configuration makes them anew, they are the heads of a linear
# probe's other seeds, or those of contrastive losses.
LEFT_OUT = (
    *("frontend.", "masking.", "mixing.", "augmentation.", "loss.", "metrics.", "probes."),
    *("similarity_head.", "coincidence_head.", "clip_contrast."),
)
ACTIVATIONS = ("sigmoid", "softmax")


@dataclass(frozen=True)
class Checkpoint:
    """Checked weights under our names.

    Attributes:
        kind: ``pre_trained`` (stage 1 or 2, whose tensors are the same), ``fine_tuned``, or ``contrastive``: an encoder
            alone.
        tensors: ``student.*``, ``decoder.*``, ``teacher.encoder.*``, or ``encoder.*``, ``fc_norm.*``, ``head.*``,
            float32 where they are floating-point. Every part is whole; parts other than the encoder may be absent.
        networks: How to build ``encoder`` and, where the file has or states them, ``decoder``, ``frontend`` and
            ``head``.
        classifier: What a classifier takes, ``pooling`` and, where some are stated, ``layers`` (see :attr:`readout`),
            and its ``activation`` (``sigmoid`` or ``softmax``), which makes probabilities of logits; empty without one.
        source_sha256: SHA-256 of the file that ``sslam convert`` made this one from; empty for any other file.
        skipped: What the file holds besides, in words.
        unknown: Names of tensors that belong to no part; empty unless they were allowed.
        class_names: Names of a classifier's outputs in their order; empty where the file does not tell. Published
            classifiers with 527 outputs are AudioSet's.
    """

    kind: Literal["pre_trained", "fine_tuned", "contrastive"]
    tensors: dict[str, Tensor]
    networks: dict[str, Network]
    classifier: dict[str, Any] = field(default_factory=dict)
    source_sha256: str = ""
    skipped: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    class_names: list[str] = field(default_factory=list)

    @property
    def num_classes(self) -> int:
        """Outputs of the classifier, 0 without one."""
        return len(self.tensors.get("head.weight", ()))

    @property
    def readout(self) -> Readout:
        """What the classifier takes of the encoder."""
        return Readout(self.classifier["pooling"], self.classifier.get("layers"))

    def build_encoder(self, weights: Literal["student", "teacher"] = "student", drop_path: float = 0.0) -> Encoder:
        """The encoder in training mode, on the CPU; see :func:`load_encoder`.

        Raises:
            CheckpointError: If the file holds no such encoder.
        """
        if weights not in ("student", "teacher"):
            raise CheckpointError(f"weights must be 'student' or 'teacher', got {weights!r}.")
        student = "student." if self.kind == "pre_trained" else "encoder."
        prefix = "teacher.encoder." if weights == "teacher" else student
        state = {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}
        if not state and weights == "teacher":
            raise CheckpointError(
                "The file holds no teacher. Use weights='student', or a file of pre-training with its teacher."
            )
        encoder = self.new_encoder(drop_path)
        encoder.load_state_dict(state)
        return encoder

    def new_encoder(self, drop_path: float = 0.0) -> Encoder:
        """An encoder of this architecture with random weights.

        Raises:
            CheckpointError: If it has no stochastic depth and some is asked for.
        """
        network = self.networks["encoder"]
        encoder: Encoder
        if "drop_path" in inspect.signature(network.network_class).parameters:
            encoder = network.build(drop_path=drop_path)
        elif drop_path:
            raise CheckpointError(
                f"drop_path must be 0 for {network.network_class.__name__}, which has no stochastic depth, got "
                f"{drop_path}. Give drop_path 0."
            )
        else:
            encoder = network.build()
        return encoder

    def build_frontend(self, **changes: Any) -> Frontend:
        """The front end that the weights were trained with, with as many frames as then.

        Args:
            changes: Arguments to be replaced.

        Raises:
            CheckpointError: If the file states none and is not of EAT or SSLAM, whose front end is known.
        """
        if "frontend" not in self.networks:
            raise CheckpointError(
                "The checkpoint does not state its front end. Give one that fits, such as frontend "
                "sslam.frontends.KaldiFbank with whole_clips true for an AudioViT."
            )
        frontend: Frontend = self.networks["frontend"].build(**changes)
        return frontend


def read_checkpoint(
    path: str | Path,
    allow_unknown: bool = False,
    num_heads: int | None = None,
    num_mel_bins: int | None = None,
    user_classes: UserClasses = (),
) -> Checkpoint:
    """Read and check a checkpoint of any kind: ours (safetensors), a run's (Lightning), or a published one.

    Args:
        path: A file, a folder with its weights, or ``hf://owner/name[@revision][/file]``; see
            :func:`~sslam.checkpoints.location.resolve`.
        allow_unknown: Leave out tensors that belong to no part, and list them, instead of raising.
        num_heads: Attention heads of the encoder; by default what the file states, else width / 64.
        num_mel_bins: Mel bins of the features; by default what the file states, else 128.
        user_classes: Encoders and front ends of your own, or their import paths, that the file may name. These are
            imported; any other class that the file names outside sslam is refused.

    Raises:
        CheckpointError: If there is no such file, it is damaged or unsafe, names a class that is not allowed, or
            tensors are missing, unknown or of another shape.
    """
    file = resolve(path).file
    given = {"num_heads": num_heads, "num_mel_bins": num_mel_bins}
    given_numbers = {name: value for name, value in given.items() if value is not None}
    with naming(file):
        return _checked(read_contents(file), allow_unknown, given_numbers, user_classes)


def _checked(contents: Contents, allow_unknown: bool, given: dict[str, int], user_classes: UserClasses) -> Checkpoint:
    names = contents.tensors.keys()
    if any(name.startswith(SEPARATOR) for name in names):
        raise CheckpointError(
            "The file holds a separator (MixIT), no encoder. Load it with load_separator, or give a checkpoint of "
            "EAT, SSLAM or an encoder of this project."
        )
    is_hub = hub_layout.is_hub_layout(names)
    is_published = is_hub or any(published.IMAGE in name for name in names)
    fine_tuned_names = hub_layout.CLASSIFIER if is_hub else "model." if is_published else FINE_TUNED_PARTS
    parts = FINE_TUNED_PARTS if any(name.startswith(fine_tuned_names) for name in names) else PRE_TRAINED_PARTS
    our_name, their_name = published.our_name, published.published_name
    if is_hub:
        our_name, their_name = hub_layout.our_name, hub_layout.hub_name
    end_of_positions = hub_layout.POSITIONS if is_hub else published.POSITIONS
    positions = [name for name in names if is_published and name.endswith(end_of_positions)]
    ignored = sorted(name for name in names if not is_published and name.startswith(LEFT_OUT))

    # From here on tensors have our names; `file_names` leads back.
    is_fine_tuned = parts is FINE_TUNED_PARTS
    file_names = _file_names(
        names - {*positions, *ignored}, lambda name: our_name(name, is_fine_tuned) if is_published else name
    )
    tensors = {ours: contents.tensors[name] for ours, name in file_names.items()}

    networks = _networks(contents, tensors, parts, given, user_classes)
    encoder: Encoder = networks["encoder"].build_empty(_num_elements(tensors, parts[0]))
    modules: dict[str, nn.Module] = dict.fromkeys(("student.", "encoder.", "teacher.encoder."), encoder)
    if "decoder" in networks:
        modules["decoder."] = networks["decoder"].build_empty(_num_elements(tensors, "decoder."))
    classifier = _classifier(contents, tensors, encoder)
    num_classes = next(iter(tensors.get("head.weight", torch.empty(0)).shape), 0)
    if classifier:
        stated_head = networks.get("head", Network(ClassifierHead, {"num_classes": num_classes}))
        width = Readout(classifier["pooling"], classifier.get("layers")).width(encoder)
        networks["head"] = Network(stated_head.network_class, stated_head.arguments | {"width": width})
        head: ClassifierHead = networks["head"].build_empty(_num_elements(tensors, "head."))
        modules |= {"fc_norm.": head.fc_norm, "head.": head.head}
    else:
        networks.pop("head", None)  # a shallow one, which is not read
    present = [part for part in parts if part == parts[0] or any(name.startswith(part) for name in tensors)]
    expected = {
        part + name: tensor
        for part in present
        if part in modules
        for name, tensor in modules[part].state_dict().items()
    }
    unknown = sorted(file_names[name] for name in tensors.keys() - expected.keys())
    shown = {name: their_name(name) for name in expected} if is_published else {}
    problems = list_problems(tensors, expected, [] if allow_unknown else unknown, shown)
    if problems:
        only_unknown = not list_problems(tensors, expected, [], shown)
        remedy = "Leave the unknown ones out with allow_unknown" if only_unknown else "Give a whole checkpoint"
        raise CheckpointError(f"The file's tensors are not those of its networks. {remedy}.\n{problems}")
    if positions and isinstance(encoder, AudioViT):
        for name in positions:
            published.check_positions(name, contents.tensors[name].float(), encoder.width, encoder.num_rows)
    is_converted = bool(contents.source_sha256) and isinstance(encoder, AudioViT)
    if "frontend" not in networks and (is_published or is_converted):
        networks["frontend"] = published.published_frontend(encoder.num_mel_bins)
    if "frontend" in networks and networks["frontend"].build().num_mel_bins != encoder.num_mel_bins:
        raise CheckpointError(
            f"The file states a front end with {printable(networks['frontend'].arguments)}, and it must have "
            f"num_mel_bins = {encoder.num_mel_bins}, as the encoder's. Give a checkpoint that was not altered."
        )
    is_contrastive = not is_published and parts is FINE_TUNED_PARTS and not classifier
    class_names = contents.class_names if num_classes else []  # of an encoder alone they were a shallow classifier's
    if is_hub and isinstance(encoder, AudioViT):
        hub_layout.check_config(contents.hub_config, encoder, num_classes)
        if num_classes:
            class_names = class_names or hub_layout.class_names(contents.hub_config)
    if is_published and num_classes == audioset_classes.NUM_CLASSES:
        class_names = class_names or list(audioset_classes.audioset_class_names())
    if class_names and len(class_names) != num_classes:
        raise CheckpointError(
            f"The file names {len(class_names)} classes and its classifier has {num_classes}. Give a checkpoint that "
            "was not altered."
        )
    return Checkpoint(
        kind="contrastive" if is_contrastive else "fine_tuned" if parts is FINE_TUNED_PARTS else "pre_trained",
        tensors={name: as_weights(file_names[name], tensors[name], tensor) for name, tensor in expected.items()},
        networks=networks,
        classifier=classifier,
        source_sha256=contents.source_sha256,
        skipped=[
            *(f"no {part.rstrip('.')} in the file" for part in parts if part not in present and not is_contrastive),
            *(f"{name} (the encoder computes it)" for name in positions),
            *ignored,
            *contents.skipped,
        ],
        unknown=unknown,
        class_names=class_names,
    )


def load_encoder(
    path: str | Path,
    weights: Literal["student", "teacher"] = "student",
    num_heads: int | None = None,
    drop_path: float = 0.0,
    user_classes: UserClasses = (),
) -> Encoder:
    """The encoder of a checkpoint of any kind, of the class that the file states.

    Args:
        path: See :func:`read_checkpoint`.
        weights: Whose encoder of a pre-trained file: the published evaluations use the student.
        num_heads: See :func:`read_checkpoint`.
        drop_path: Stochastic depth for fine-tuning, see :class:`~sslam.networks.AudioViT`.
        user_classes: See :func:`read_checkpoint`.

    Returns:
        The encoder in training mode, on the CPU.

    Raises:
        CheckpointError: If the file cannot be used or holds no such encoder.
    """
    return read_checkpoint(path, num_heads=num_heads, user_classes=user_classes).build_encoder(weights, drop_path)


def load_pretraining_state(path: str | Path, user_classes: UserClasses = ()) -> dict[str, Tensor]:
    """Weights that pre-training can start from: ``student.*``, ``decoder.*`` and ``teacher.encoder.*``.

    Where a file of pre-training has no teacher, as on the Hub, it is a copy of the student; where it has no decoder,
    there is none, and that of the run stays as new as it is. Both are said in a warning.

    Args:
        path: See :func:`read_checkpoint`.
        user_classes: See :func:`read_checkpoint`.

    Raises:
        CheckpointError: If the file cannot be used, or is not of pre-training.
    """
    checkpoint = read_checkpoint(path, user_classes=user_classes)
    absent = [part for part in PRE_TRAINED_PARTS if not any(name.startswith(part) for name in checkpoint.tensors)]
    if checkpoint.kind != "pre_trained":
        raise CheckpointError(
            f"{path} is a {checkpoint.kind} checkpoint without {', '.join(part.rstrip('.') for part in absent)}. "
            "Pre-training starts from a student, its decoder and its teacher: give a checkpoint of pre-training."
        )
    student, decoder, teacher = PRE_TRAINED_PARTS
    state = dict(checkpoint.tensors)
    if teacher in absent:
        copies = {name: tensor.clone() for name, tensor in state.items() if name.startswith(student)}
        state |= {teacher + name.removeprefix(student): tensor for name, tensor in copies.items()}
    if absent:
        what = {decoder: "the decoder is new, with random weights", teacher: "the teacher is a copy of the student"}
        missing = " and no ".join(part.split(".")[0] for part in absent)
        warnings.warn(f"{path} holds no {missing}: {', and '.join(what[part] for part in absent)}.", stacklevel=2)
    return state


def _file_names(names: Iterable[str], our_name: Callable[[str], str]) -> dict[str, str]:
    """The file's names by ours."""
    file_names: dict[str, str] = {}
    for name in names:
        ours = our_name(name)
        if ours in file_names:
            raise CheckpointError(
                f"{printable(name)} and {printable(file_names[ours])} would both become {printable(ours)}. Give a "
                "checkpoint of EAT, SSLAM or this project."
            )
        file_names[ours] = name
    return file_names


def _networks(
    contents: Contents,
    tensors: Mapping[str, Tensor],
    parts: tuple[str, ...],
    given: Mapping[str, int],
    user_classes: UserClasses,
) -> dict[str, Network]:
    """What the file states, or else what its shapes tell; arguments of the encoder that are given win."""
    stated = contents.architecture
    if not is_stated(stated):
        encoder = hub_layout.stated_encoder(contents.hub_config) or stated.get("encoder")
        stated = {**stated, "encoder": {**(encoder if isinstance(encoder, dict) else {}), **given}}
        return published.infer_networks(tensors, parts, stated)
    networks = read_networks(stated, user_classes)
    if "encoder" not in networks:
        raise CheckpointError(
            "The file states no encoder. Give a checkpoint of EAT, SSLAM or an encoder of this project."
        )
    networks["encoder"].arguments.update(given)
    return networks


def _num_elements(tensors: Mapping[str, Tensor], part: str) -> int:
    return sum(tensor.numel() for name, tensor in tensors.items() if name.startswith(part))


def _classifier(contents: Contents, tensors: Mapping[str, Tensor], encoder: Encoder) -> dict[str, Any]:
    """Readout and activation of a classifier; where they are not stated, those of the published ones (AudioSet)."""
    if not any(name.startswith(FINE_TUNED_PARTS[1:]) for name in tensors):
        return {}
    stated = contents.architecture.get("head")
    stated = stated if isinstance(stated, dict) else {}
    classifier = {}
    poolings = _poolings_that_fit(encoder, stated.get("layers"), tensors.get("head.weight"))
    for name, values in {"pooling": poolings, "activation": ACTIVATIONS}.items():
        value = stated.get(name)
        classifier[name] = value if type(value) is str else values[0]
        if classifier[name] not in values:
            raise CheckpointError(
                f"The file states a classifier with {name} = {printable(classifier[name])}, and it must be "
                f"{' or '.join(values)}. Give a checkpoint that was not altered."
            )
    return classifier if stated.get("layers") is None else classifier | {"layers": stated["layers"]}


def _poolings_that_fit(encoder: Encoder, layers: Any, weight: Tensor | None) -> list[str]:
    """Poolings, of these layers, of the size that the head's weight has; all where it has none, or none fits."""
    if layers is not None and not (isinstance(layers, list) and all(type(layer) is int for layer in layers)):
        raise CheckpointError(
            f"The file states a classifier with layers = {printable(layers)}, and they must be numbers of layers. Give "
            "a checkpoint that was not altered."
        )
    try:
        poolings = {pooling: Readout(pooling, layers) for pooling in get_args(Pooling)}
        if not hasattr(encoder, "num_rows"):
            del poolings["row_statistics"]
        widths = {pooling: readout.width(encoder) for pooling, readout in poolings.items()}
    except ValueError as error:
        raise CheckpointError(
            f"The file states a classifier that its encoder has no tokens for: {printable(str(error))}"
        ) from error
    width = None if weight is None or weight.dim() != 2 else weight.shape[1]
    return [pooling for pooling, fits in widths.items() if fits == width] or list(widths)


def file_sha256(*paths: Path) -> str:
    """SHA-256 of a file, or of several one after the other, as ``cat FILE... | sha256sum`` gives it."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()
