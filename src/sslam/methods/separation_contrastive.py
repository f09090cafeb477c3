"""Contrastive learning from automatically separated sound scenes (Fonseca et al., WASPAA 2021).

Shape letters: B clips, V views of a clip, S sources (mixture and channels), T samples, C samples of a snippet, L
frames, F mel bins, D width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sslam.audio import SAMPLE_RATE
from sslam.checks import positive
from sslam.frontends import Frontend
from sslam.losses import Coincidence, NTXent
from sslam.methods.method import Method, require_same_mel_bins
from sslam.metrics import LossMeans
from sslam.networks import CoincidenceHead, Encoder, ProjectionHead
from sslam.rebuildable import Rebuildable
from sslam.separation import Processors
from sslam.transforms import Comparison, RandomSource, SpecAugment, ViewDraws, crop_views, draw_views


class SeparationContrastive(Method):
    """Snippets of a clip and of its separated channels are told from those of other clips.

    Of every clip two snippets are taken, from the mixture or from a channel that a frozen separator makes of it, at
    places of their own. An encoder embeds them. Two tasks, alone or together: their projections must be similar
    (NT-Xent), and a small network must see that they coincide. Each task has its own pair of snippets.

    Args:
        encoder: Network that learns; its first token is the embedding. Published: CNN14 with a width of 128 or 1024.
        frontend: Waveform to features; its number of frames is the length of a snippet. Published: 96 frames.
        comparison: Sources that are compared. Published: the mixture with a channel.
        processors: Separators that make the channels; None where the comparison needs none.
        similarity: Loss of the similarity task; None leaves the task out.
        coincidence: Loss of the coincidence task; None leaves the task out. Together they count equally.
        spec_augment: Augmentation of every snippet; None for none.
        temporal_proximity: Whether each snippet has a place of its own; False takes both snippets of a pair from the
            same place.
        projection_hidden: Hidden units of the similarity head.
        projection_width: Size of the similarity head's output.
        coincidence_hidden: Units of both hidden layers of the coincidence head.
        learning_rate: Learning rate of Adam. Published: 1e-4, or 3e-4 for the similarity task alone.

    Raises:
        ValueError: If there is no task, the comparison has no separator, or sizes do not fit.
    """

    def __init__(
        self,
        encoder: Encoder,
        frontend: Frontend,
        comparison: Comparison,
        processors: Processors | None = None,
        similarity: NTXent | None = None,
        coincidence: Coincidence | None = None,
        spec_augment: SpecAugment | None = None,
        temporal_proximity: bool = True,
        projection_hidden: int = 256,
        projection_width: int = 128,
        coincidence_hidden: int = 512,
        learning_rate: float = 1e-4,
    ) -> None:
        super().__init__()
        if similarity is None and coincidence is None:
            raise ValueError(
                "There is no task: similarity and coincidence are both null. Give similarity (sslam.losses.NTXent), "
                "coincidence (sslam.losses.Coincidence), or both."
            )
        if comparison.uses_channels and processors is None:
            raise ValueError(
                f"{type(comparison).__name__} needs separated channels. Give processors with the checkpoints of "
                "separators, or the comparison sslam.transforms.MixtureAgainstMixture."
            )
        if comparison.uses_channels and processors is not None and processors.num_channels < comparison.min_channels:
            raise ValueError(
                f"{type(comparison).__name__} needs separators with at least {comparison.min_channels} channels, got "
                f"{processors.num_channels}. Give other checkpoints, or another comparison."
            )
        if frontend.sample_rate != SAMPLE_RATE:
            raise ValueError(
                f"The front end's sample_rate must be the clips' {SAMPLE_RATE} Hz, got {frontend.sample_rate}."
            )
        positive(learning_rate=learning_rate)
        require_same_mel_bins(frontend, encoder)
        self.encoder = encoder
        self.frontend = frontend
        self.comparison = comparison
        # Not a module: frozen weights that have their own files do not belong into this one's checkpoints.
        self.processors = processors if comparison.uses_channels else None
        self.similarity = similarity
        self.coincidence = coincidence
        self.similarity_head = None
        self.coincidence_head = None
        if similarity is not None:
            self.similarity_head = ProjectionHead(encoder.width, projection_hidden, projection_width)
        if coincidence is not None:
            self.coincidence_head = CoincidenceHead(encoder.width, coincidence_hidden)
        self.num_pairs = (similarity is not None) + (coincidence is not None)
        self.spec_augment = spec_augment
        self.temporal_proximity = temporal_proximity
        self.learning_rate = learning_rate
        self.mean_losses = LossMeans(["loss"])

    # ---- the method -------------------------------------------------------------------------------------------------

    def losses(
        self, waveform_BT: Tensor, num_samples_B: Tensor, paths: Sequence[str] | None, random: RandomSource
    ) -> dict[str, Tensor]:
        """The terms that are minimised, by name; their sum is the joint loss (sec. 4.2)."""
        snippets_BVC = self.views(waveform_BT, num_samples_B, paths, random)
        embedding_BVD = self.embed_snippets(snippets_BVC, random)
        pairs = iter(embedding_BVD.float().unflatten(1, (self.num_pairs, 2)).unbind(1))
        terms = {}
        if self.similarity is not None and self.similarity_head is not None:
            first_BD, second_BD = next(pairs).unbind(1)
            terms["similarity"] = self.similarity(self.similarity_head(first_BD), self.similarity_head(second_BD))
        if self.coincidence is not None and self.coincidence_head is not None:
            first_BD, second_BD = next(pairs).unbind(1)
            terms["coincidence"] = self.coincidence(self.coincidence_head, first_BD, second_BD)
        return terms

    def views(
        self, waveform_BT: Tensor, num_samples_B: Tensor, paths: Sequence[str] | None, random: RandomSource
    ) -> Tensor:
        """Snippets (B, V, C): the two views of a clip for the first task, then those for the second."""
        if self.frontend.crop_samples >= waveform_BT.shape[1]:
            raise ValueError(
                f"Snippets of {self.frontend.num_frames} frames have {self.frontend.crop_samples} samples and clips "
                f"{waveform_BT.shape[1]}; snippets must be shorter. Give the front end a num_frames of 96 "
                "(as published), or the data a greater clip_seconds."
            )
        lengths_B = num_samples_B.cpu()  # in training they are there; else the device is waited for
        draws = self.draw_views(lengths_B, random)
        sources_BST = waveform_BT.unsqueeze(1)
        if self.processors is not None:
            channels_BNT = self.processors.channels(waveform_BT, lengths_B, draws.processor_B, paths)
            sources_BST = torch.cat([sources_BST, channels_BNT], dim=1)
        device = waveform_BT.device
        return crop_views(
            sources_BST,
            draws.source_BV.to(device, non_blocking=True),
            draws.start_BV.to(device, non_blocking=True),
            self.frontend.crop_samples,
        )

    def draw_views(self, num_samples_B: Tensor, random: RandomSource) -> ViewDraws:
        """What is compared, and where."""
        processors = self.processors
        return draw_views(
            self.comparison,
            num_samples_B,
            self.frontend.crop_samples,
            num_pairs=self.num_pairs,
            num_processors=0 if processors is None else len(processors),
            num_channels=0 if processors is None else processors.num_channels,
            temporal_proximity=self.temporal_proximity,
            generator=random.cpu,
        )

    def embed_snippets(self, snippets_BVC: Tensor, random: RandomSource) -> Tensor:
        """Snippets (B, V, C) to embeddings (B, V, D), all in one pass."""
        features_NLF = self.frontend(snippets_BVC.flatten(0, 1))
        if self.spec_augment is not None:
            features_NLF = self.spec_augment(features_NLF, random.device)
        return self.encoder(features_NLF)[:, 0].unflatten(0, snippets_BVC.shape[:2])

    @torch.no_grad()
    def embed(self, waveform_BT: Tensor, num_samples_B: Tensor | None = None) -> Tensor:
        """Embeddings (B, D) of whole clips, float32: the encoder is applied to all their frames, also those of padding.

        The paper does not say how clips are embedded from an encoder of 0.96 s; a convolutional encoder with global
        pooling and a transformer with positions for two minutes take them as they are.
        """
        frontend = self.frontend.of_length(waveform_BT.shape[1]).to(waveform_BT.device)
        return self.encoder(frontend(waveform_BT, num_samples_B))[:, 0].float()

    # ---- training and evaluation ------------------------------------------------------------------------------------

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        if self.trainer.training:  # lengths and numbers of clips are looked at where they are
            moved |= {key: batch[key] for key in ("num_samples", "index")}
        return moved

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        paths = None
        if self.processors is not None and self.processors.caches is not None:
            dataset = self.training_set()
            paths = [dataset.path(index) for index in batch["index"].tolist()]
        terms = self.losses(batch["waveform"], batch["num_samples"], paths, self.random_source(batch_idx))
        loss = torch.stack(list(terms.values())).sum()
        self.log_training_loss(loss)
        self.log_dict({f"train/{name}_loss": term.detach() for name, term in terms.items()})
        return loss

    def evaluation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """The loss with views that are the same at every evaluation, and always separated on the fly."""
        clips = len(batch["waveform"])
        if clips < 2:
            return  # the last clip of a set has no negatives
        random = RandomSource.seeded(self.device, self.global_rank, batch_idx)
        terms = self.losses(batch["waveform"], batch["num_samples"], None, random)
        self.mean_losses.update({"loss": torch.stack(list(terms.values())).sum()}, clips)

    def finish_evaluation(self, split: str) -> None:
        """Log the mean over all clips of all processes; every process takes part, also one that has had no clip."""
        self.log_results(split, self.mean_losses.compute())

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Embeddings of whole clips ``embedding`` (B, D), with the clips' ``index``."""
        return {"index": batch["index"], "embedding": self.embed(batch["waveform"], batch["num_samples"])}

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.processors is not None and self.processors.caches is not None:
            dataset = self.training_set()
            paths = [dataset.path(index) for index in range(len(dataset))]
            self.processors.check_caches(paths, round(dataset.clip_seconds * SAMPLE_RATE))

    def training_set(self) -> Any:
        """The data module's training clips, which must be files where channels are read from a cache."""
        dataset = getattr(self.trainer.datamodule, "train_set", None)  # type: ignore[attr-defined]
        if not hasattr(dataset, "path"):
            raise ValueError(
                f"The clips of {type(self.trainer.datamodule).__name__} are no files, "  # type: ignore[attr-defined]
                "so their channels cannot be read from a cache. Give processors without a cache."
            )
        return dataset

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate, fused=True)

    def stated_networks(self) -> dict[str, Rebuildable]:
        return {"encoder": self.encoder, "frontend": self.frontend}
