"""Fine-tuning of a whole pre-trained encoder, as EAT and SSLAM do it (SSLAM sec. 4 and its appendix).

Shape letters: B clips, T samples, L frames, F mel bins, W pooled width, C classes.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sslam.checks import positive, within
from sslam.methods.classifier import Classifier
from sslam.networks import Readout, TokenPooling
from sslam.networks.heads import ClassifierHead
from sslam.networks.token_heads import TokenHead
from sslam.optim import add_epsilon_before_correction, layer_decayed_groups, warmup_cosine
from sslam.transforms import Augmentation


class FineTune(Classifier):
    """Encoder and head learn together from augmented clips, lower layers more slowly.

    With ``freeze_encoder`` the head learns alone: the published linear evaluation of SPASS, whose encoder sees every
    clip anew. With ``token_pooling`` the head takes all patches instead of pooled ones: an attentive or a prototypical
    probe. ``sslam embed --tags`` does not know such heads. The length of training is the trainer's, ``max_steps`` or
    ``max_epochs``.

    Args:
        augmentation: Augmentation of the training clips.
        learning_rate: Highest learning rate, that of the head. Published: 5e-5, on Speech Commands 2e-4.
        warmup_fraction: Share of the run in which the learning rate rises; all published recipes have a tenth.
        min_learning_rate: Learning rate at which the half cosine starts and ends.
        layer_decay: Learning rate of a block over that of the block above it.
        weight_decay: Decoupled weight decay of Adam.
        weight_decay_exempt_1d: Give biases and norm weights no decay. The published code means to, but through a
            mistake decays everything; the reproduction YAMLs set this to false.
        betas: Betas of Adam.
        drop_path: Stochastic depth of the last block, rising linearly from 0 at the first one; on a frozen encoder too,
            as in the published code.
        freeze_encoder: Leave the encoder as it is. Tables then call the method a linear probe.
        token_pooling: What the head does with all tokens, in place of ``pooling`` and ``layers``; None for a linear one
            on pooled tokens.
        method_name: Name of the method in tables, written like a class; None for its own.
        seeds: Seeds of several heads that learn at once on a frozen encoder; None for one head, from the run's seed.
        **kwargs: Arguments of :class:`~sslam.methods.classifier.Classifier`.

    Raises:
        ValueError: If a value is out of its range, ``token_pooling`` is given beside ``pooling`` or ``layers``, or see
            :class:`~sslam.methods.classifier.Classifier`.
    """

    def __init__(
        self,
        augmentation: Augmentation,
        learning_rate: float = 5e-5,
        warmup_fraction: float = 0.1,
        min_learning_rate: float = 1e-6,
        layer_decay: float = 0.65,
        weight_decay: float = 0.05,
        weight_decay_exempt_1d: bool = True,
        betas: tuple[float, float] = (0.9, 0.95),
        drop_path: float = 0.1,
        freeze_encoder: bool = False,
        token_pooling: TokenPooling | None = None,
        method_name: str | None = None,
        seeds: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        new_head = ClassifierHead if token_pooling is None else token_pooling.new_head
        super().__init__(new_head, seeds, drop_path=drop_path, **kwargs)
        if token_pooling is not None and self.readout != Readout():
            raise ValueError(
                f"Give token_pooling, whose head takes all tokens, or pooling and layers, got both: {token_pooling} "
                f"and {self.readout}. Leave one of them out."
            )
        self.token_pooling = token_pooling
        self.method_name = method_name
        positive(learning_rate=learning_rate)
        within(0, 1, "[)", warmup_fraction=warmup_fraction)
        within(0, 1, "(]", layer_decay=layer_decay)
        if seeds is not None and not freeze_encoder:
            raise ValueError(f"seeds need a frozen encoder, got {list(seeds)}. Set freeze_encoder, or give no seeds.")
        self.augmentation = augmentation
        self.learning_rate = learning_rate
        self.warmup_fraction = warmup_fraction
        self.min_learning_rate = min_learning_rate
        self.layer_decay = layer_decay
        self.weight_decay = weight_decay
        self.weight_decay_exempt_1d = weight_decay_exempt_1d
        self.betas = betas
        self.is_frozen = freeze_encoder
        if freeze_encoder:
            self.freeze_encoder()

    @property
    def name(self) -> str:
        return self.method_name or ("LinearProbe" if self.is_frozen else super().name)

    def embed(self, features_BLF: Tensor) -> Tensor:
        """Pooled tokens (B, W), or all tokens (B, 1 + P, D) for a head that takes these, float32."""
        if self.token_pooling is None:
            return super().embed(features_BLF)
        tokens_BPD: Tensor = self.encoder(features_BLF)
        return tokens_BPD.float()

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        predicted = super().predict_step(batch, batch_idx)
        if self.token_pooling is None:
            return predicted
        (head, *_) = self.heads
        assert isinstance(head, TokenHead)
        return predicted | {"embedding": head.pool(predicted["embedding"])}

    def training_facts(self) -> dict[str, Any]:
        facts = super().training_facts()
        return facts if self.token_pooling is None else facts | {"readout": "tokens"}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        random = self.random_source(batch_idx)
        waveform_BT = self.augmentation.waveforms(batch["waveform"], batch["num_samples"], random)
        features_BLF = self.frontend(waveform_BT, batch["num_samples"])
        features_BLF, labels_BC = self.augmentation.features(features_BLF, batch["labels"], random)
        with random.as_global():  # which stochastic depth draws from
            embedding_BW = self.embed(features_BLF)
        losses = [self.loss(head(embedding_BW), labels_BC) for head in self.heads]
        # A sum, so that every head has the gradient it would have alone.
        loss = torch.stack(losses).sum()
        self.log_training_loss(loss / len(losses))
        return loss

    def total_steps(self) -> int:
        """Optimizer steps of the whole training, which the learning rate follows.

        Raises:
            ValueError: If the training has no end.
        """
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ValueError(
                "The learning rate follows the length of training, and the trainer's max_steps and max_epochs are both "
                "-1. Give one of them."
            )
        return int(steps)

    def learning_rate_at(self, step: int, peak: float) -> float:
        total_steps = self.total_steps()
        warmup_steps = int(self.warmup_fraction * total_steps)
        return warmup_cosine(step, peak, warmup_steps, total_steps, self.min_learning_rate)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        add_epsilon_before_correction(optimizer, self.global_step)  # as fairseq does, in which EAT and SSLAM fine-tune

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        progress = checkpoint.get("loops", {}).get("fit_loop", {})
        manual = progress.get("epoch_loop.manual_optimization.optim_step_progress")
        if manual and manual["total"]["completed"]:
            # Heads on a frozen encoder were trained by a linear probe, which counted its steps itself.
            progress["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"] = manual

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = layer_decayed_groups(
            self.encoder,
            self.heads,
            self.learning_rate,
            self.layer_decay,
            self.weight_decay,
            self.weight_decay_exempt_1d,
        )
        return torch.optim.AdamW(groups, lr=self.learning_rate, betas=self.betas, eps=1e-8, fused=True)
