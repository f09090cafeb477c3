"""The model card: what a model is, what it learnt from and how, what was measured, and how to load it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import sslam
from sslam.checkpoints.architecture import Network, in_words
from sslam.checkpoints.loading import Checkpoint
from sslam.exporting.licences import LICENCES
from sslam.exporting.source import Source
from sslam.report.comparison import Comparison
from sslam.report.tables import build_table
from sslam.report.texts import markdown
from sslam.templates import templates_of

KINDS = {
    "pre_trained": "Audio encoder, pre-trained without labels",
    "contrastive": "Audio encoder, trained by contrastive learning",
    "fine_tuned": "Audio classifier: an encoder with a classifier",
    "separator": "Separator of sound mixtures (MixIT)",
}
PIPELINES = {
    "pre_trained": "feature-extraction",
    "contrastive": "feature-extraction",
    "fine_tuned": "audio-classification",
    "separator": "audio-to-audio",
}


@dataclass(frozen=True)
class Licence:
    """An identifier of :data:`~sslam.exporting.licences.LICENCES`, and the text where it was given."""

    identifier: str
    text: str = ""


@dataclass(frozen=True)
class Written:
    """What lies in the folder beside the card.

    Attributes:
        files: SHA-256 of each file by its name.
        is_hub_layout: Whether the tensors have the names of EAT and SSLAM on the Hub.
        onnx: What the ONNX file holds, in words, line by line; empty without one.
    """

    files: Mapping[str, str]
    is_hub_layout: bool
    onnx: tuple[str, ...] = ()


def kind_of(source: Source) -> str:
    """Kind of the model, a key of :data:`KINDS`."""
    return source.checkpoint.kind if isinstance(source.checkpoint, Checkpoint) else "separator"


def stated_networks(source: Source) -> dict[str, Network]:
    """Networks of the model by their role."""
    checkpoint = source.checkpoint
    return checkpoint.networks if isinstance(checkpoint, Checkpoint) else {"separator": checkpoint.network}


def model_card(source: Source, name: str, address: str, licence: Licence, written: Written) -> str:
    """The text of README.md, in Markdown with the head that the Hub reads.

    Args:
        source: The model.
        name: Title of the card.
        address: What a user gives to load it: the folder or ``hf://owner/name``.
        licence: Licence of the weights.
        written: The other files.
    """
    template = templates_of("sslam.exporting").get_template("card.md")  # foreign values are quoted, for it escapes none
    kind, checkpoint = kind_of(source), source.checkpoint
    networks = stated_networks(source)
    frontend = networks["frontend"].build() if "frontend" in networks else None
    comparison = Comparison(build_table(source.results)) if source.results else None
    return template.render(
        name=name,
        address=address,
        kind=kind,
        title=KINDS[kind],
        head=yaml.safe_dump(_head(kind, licence), sort_keys=False).strip(),
        licence=licence,
        licence_name=LICENCES[licence.identifier],
        networks={
            role: (network.network_class.__name__, in_words(network.arguments)) for role, network in networks.items()
        },
        parameters=sum(tensor.numel() for tensor in checkpoint.tensors.values()),
        class_names=checkpoint.class_names if isinstance(checkpoint, Checkpoint) else [],
        num_classes=checkpoint.num_classes if isinstance(checkpoint, Checkpoint) else 0,
        sample_rate=frontend.sample_rate if frontend else checkpoint.build().sample_rate,  # type: ignore[union-attr]
        frontend=frontend,
        data=source.data,
        config=yaml.safe_dump(source.config, sort_keys=False, allow_unicode=True).strip() if source.config else "",
        results=markdown(comparison).strip() if comparison else "",
        source=source,
        written=written,
        version=sslam.__version__,
    )


def _head(kind: str, licence: Licence) -> dict[str, Any]:
    head: dict[str, Any] = {
        "license": licence.identifier,
        "library_name": "sslam",
        "pipeline_tag": PIPELINES[kind],
        "tags": ["audio", "sslam", kind.replace("_", "-")],
    }
    if licence.identifier == "other":
        head |= {"license_name": "see-license-file", "license_link": "LICENSE"}
    return head


def write_licence(folder: Path, licence: Licence) -> None:
    """The licence's text as LICENSE, where it was given."""
    if licence.text:
        (folder / "LICENSE").write_text(licence.text, encoding="utf-8")


def config_json(source: Source, statement: Mapping[str, Any], licence: Licence) -> str:
    """``config.json`` of our layout, for people and programs; loading needs the weights' file alone."""
    checkpoint = source.checkpoint
    config: dict[str, Any] = {
        "model_type": "sslam",
        "kind": kind_of(source),
        "sslam_version": sslam.__version__,
        "license": licence.identifier,
        "architecture": dict(statement),
    }
    if isinstance(checkpoint, Checkpoint) and checkpoint.class_names:
        config["id2label"] = {str(number): label for number, label in enumerate(checkpoint.class_names)}
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"
