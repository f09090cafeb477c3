"""What a checkpoint states of its networks: their classes, by import path, and the arguments that build them.

A checkpoint of a run has it under ``architecture``, a file of ``sslam convert`` in its header::

    {"format_version": 2, "encoder": {"class_path": "sslam.networks.AudioViT", "init_args": {"width": 768, ...}}, ...}

A class path that stands in a file is only ever compared: with the classes of this package, and with those that the
user names. What is imported is what the user has named.
"""

import inspect
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from sslam import __version__, frontends, networks
from sslam.errors import CheckpointError, printable
from sslam.frontends import Frontend
from sslam.networks import ClassifierHead, ConvDecoder, Encoder, Separator
from sslam.rebuildable import Rebuildable

FORMAT_VERSION = 2
ROLES: dict[str, type[Rebuildable]] = {
    "encoder": Encoder,
    "decoder": ConvDecoder,
    "frontend": Frontend,
    "separator": Separator,
    "head": ClassifierHead,
}
"""What a checkpoint can state, and the base class of each."""
PLAIN_TYPES = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}
UserClasses = Iterable[str | type[Rebuildable]]
"""Classes of the user's own, or their import paths, that a checkpoint may name."""


def class_path(network_class: type) -> str:
    """Import path of a class, from the outermost package that re-exports it: ``sslam.networks.AudioViT``."""
    name, parts = network_class.__qualname__, network_class.__module__.split(".")
    packages = [".".join(parts[:end]) for end in range(1, len(parts))]
    outermost = [package for package in packages if getattr(sys.modules.get(package), name, None) is network_class]
    return f"{[*outermost, network_class.__module__][0]}.{name}"


def state_networks(modules: Mapping[str, Rebuildable]) -> dict[str, Any]:
    """What a checkpoint states of networks.

    Args:
        modules: Networks by their role, one of :data:`ROLES`.

    Raises:
        ValueError: If a network's arguments are not plain values.
    """
    return statement({role: Network(type(module), module.architecture()) for role, module in modules.items()})


def statement(stated: "Mapping[str, Network]", classifier: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """As :func:`state_networks`, of networks that need not exist; what a classifier has besides stands at its head."""
    entries: dict[str, dict[str, Any]] = {
        role: {"class_path": class_path(network.network_class), "init_args": network.arguments}
        for role, network in stated.items()
    }
    if classifier:
        entries["head"] |= classifier
    return {"format_version": FORMAT_VERSION, **entries}


def in_words(arguments: Mapping[str, Any]) -> str:
    """Arguments of a network for people: ``num_mel_bins 64, mean -4.268``."""
    return ", ".join(
        f"{name} {format(value, 'g') if type(value) in (int, float) else printable(value)}"
        for name, value in arguments.items()
    )


@dataclass(frozen=True)
class Network:
    """How to build a network.

    Attributes:
        network_class: Its class.
        arguments: Plain values for its constructor.
    """

    network_class: type[Rebuildable]
    arguments: dict[str, Any]

    def build(self, **changes: Any) -> Any:
        """The network with random weights.

        Args:
            changes: Arguments to be added or replaced.

        Raises:
            CheckpointError: If it cannot be built.
        """
        try:
            return self.network_class(**self.arguments | changes)
        except CheckpointError:
            raise
        except Exception as error:  # constructors raise anything for what a file may state
            reason = printable(str(error).partition("\n")[0])
            raise CheckpointError(
                f"The {self.network_class.__name__} that the file states cannot be built: {reason}"
            ) from error

    def build_empty(self, num_elements: int) -> Any:
        """The network on the meta device, with names and shapes but without memory; random numbers are left alone.

        Args:
            num_elements: Numbers that the file holds for it; building ends where it would need many more.

        Raises:
            CheckpointError: If it cannot be built, or is much larger.
        """
        left = 0

        def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
            nonlocal left
            left -= parameter.numel() + 1
            if left < 0:
                raise CheckpointError(
                    f"The {self.network_class.__name__} that the file states has far more weights than the file holds "
                    f"({printable(self.arguments)}). Give a checkpoint that was not altered."
                )

        with register_module_parameter_registration_hook(count), torch.random.fork_rng(devices=[]):
            try:
                left = 4 * num_elements + 10_000
                with torch.device("meta"):
                    return self.build()
            except CheckpointError:
                if left < 0:
                    raise
            # Constructors that look at values of tensors, as some do for a list of rates, need a device that has them.
            left = 4 * num_elements + 10_000
            return self.build()


def is_stated(architecture: Mapping[str, Any]) -> bool:
    """Whether a file states classes and arguments; False of published files and of ours in format 1, for arguments.

    Raises:
        CheckpointError: If the file is of a newer format.
    """
    version = architecture.get("format_version", 1)
    if type(version) is not int or version > FORMAT_VERSION:
        raise CheckpointError(
            f"The file states its networks in format {printable(version)}, and sslam {__version__} reads formats up to "
            f"{FORMAT_VERSION}. Update sslam."
        )
    return version == FORMAT_VERSION


def read_networks(architecture: Mapping[str, Any], user_classes: UserClasses = ()) -> dict[str, Network]:
    """What a file states, checked against the classes that it may name and their arguments; nothing is built.

    Args:
        architecture: See :func:`is_stated`; other entries than networks are passed over.
        user_classes: Classes, or their import paths, that the file may name beside those of this package.

    Raises:
        CheckpointError: If the file names another class or its arguments are no plain values of the right types, or
            a user's class cannot be imported or is no network.
    """
    allowed = _allowed_classes(user_classes)
    return {
        role: _read_network(role, base, architecture[role], allowed)
        for role, base in ROLES.items()
        if role in architecture
    }


def _read_network(role: str, base: type[Rebuildable], stated: Any, allowed: Mapping[str, type[Rebuildable]]) -> Network:
    path, arguments = (stated.get("class_path"), stated.get("init_args")) if isinstance(stated, dict) else (None, None)
    if type(path) is not str or not isinstance(arguments, dict):
        raise CheckpointError(
            f"The file states its {role} without class_path and init_args: {printable(stated)}. It is damaged or was "
            "altered; give another."
        )
    network_class = allowed.get(path)
    if network_class is None and path.startswith("sslam."):
        raise CheckpointError(
            f"The file's {role} is of the class {printable(path)}, which sslam {__version__} has not. Update sslam."
        )
    if network_class is None:
        raise CheckpointError(
            f"The file's {role} is of the class {printable(path)}, which is not sslam's; nothing of it was imported. "
            f"If you trust it, name it in user_classes: {printable(path)}."
        )
    if not issubclass(network_class, base):
        raise CheckpointError(
            f"The file's {role} is of the class {printable(path)}, which is no {base.__name__}. Give another."
        )
    parameters = inspect.signature(network_class).parameters
    for name, value in arguments.items():
        annotation = parameters[name].annotation if name in parameters else None
        types = PLAIN_TYPES.get(getattr(annotation, "__name__", str(annotation)))
        if types is not None and type(value) not in types:
            raise CheckpointError(
                f"The file states {name} = {printable(repr(value))} for its {role}, which must be "
                f"{types[-1].__name__}. Give a checkpoint that was not altered."
            )
    return Network(network_class, arguments)


def _allowed_classes(user_classes: UserClasses) -> dict[str, type[Rebuildable]]:
    ours = [value for package in (networks, frontends) for value in vars(package).values() if _is_network(value)]
    allowed = {class_path(network_class): network_class for network_class in ours}
    for given in user_classes:
        network_class = _import_class(given) if isinstance(given, str) else given
        if not _is_network(network_class):
            raise CheckpointError(
                f"user_classes names {given}, which is no encoder, decoder, front end or separator. Give classes that "
                "inherit from those of sslam.networks and sslam.frontends."
            )
        allowed |= {class_path(network_class): network_class}
        if isinstance(given, str):
            allowed[given] = network_class
    return allowed


def _is_network(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Rebuildable)


def _import_class(path: str) -> Any:
    try:
        return pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"user_classes names {path}, which cannot be imported ({error}). Give the import path of a class in a "
            "folder where Python looks, such as one in PYTHONPATH."
        ) from error
