"""Fine-tuning of a whole pre-trained encoder, as EAT and SSLAM do it (SSLAM sec. 4 and its appendix).

Shape letters: B clips, T samples, L frames, F mel bins, C classes.
"""

from typing import Any

import torch
from torch import Tensor

from sslam.methods.classifier import Classifier
from sslam.optim import PEAK, layer_decayed_groups, warmup_cosine
from sslam.transforms import Augmentation, RandomSource


class FineTune(Classifier):
    """Encoder and head learn together from augmented clips, lower layers more slowly.

    The length of training is the trainer's, ``max_steps`` or ``max_epochs``.

    Args:
        augmentation: Of the training clips.
        learning_rate: Highest learning rate, of the head. Published: 5e-5, on Speech Commands 2e-4.
        warmup_fraction: Share of the run in which the learning rate rises; all published recipes have a tenth.
        min_learning_rate: Where the half cosine starts and ends.
        layer_decay: Learning rate of a block over that of the block above it.
        weight_decay: Decoupled weight decay of Adam.
        weight_decay_exempt_1d: Give biases and norm weights no decay. The published code means to, but through a
            mistake decays everything; the reproduction YAMLs set this to false.
        betas: Of Adam.
        drop_path: Stochastic depth of the last block, rising linearly from 0 at the first one.
        **kwargs: Of :class:`~sslam.methods.classifier.Classifier`.

    Raises:
        ValueError: If a value is out of its range, or see :class:`~sslam.methods.classifier.Classifier`.
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
        **kwargs: Any,
    ) -> None:
        super().__init__(drop_path=drop_path, **kwargs)
        if learning_rate <= 0:
            raise ValueError(f"learning_rate must be greater than 0, got {learning_rate}.")
        if not 0 <= warmup_fraction < 1:
            raise ValueError(f"warmup_fraction must be at least 0 and less than 1, got {warmup_fraction}.")
        if not 0 < layer_decay <= 1:
            raise ValueError(f"layer_decay must be greater than 0 and at most 1, got {layer_decay}.")
        self.augmentation = augmentation
        self.learning_rate = learning_rate
        self.warmup_fraction = warmup_fraction
        self.min_learning_rate = min_learning_rate
        self.layer_decay = layer_decay
        self.weight_decay = weight_decay
        self.weight_decay_exempt_1d = weight_decay_exempt_1d
        self.betas = betas

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        random = RandomSource.seeded(self.device, torch.initial_seed(), self.global_rank, self.global_step, batch_idx)
        waveform_BT = self.augmentation.waveforms(batch["waveform"], batch["num_samples"], random)
        features_BLF = self.frontend(waveform_BT, batch["num_samples"])
        features_BLF, labels_BC = self.augmentation.features(features_BLF, batch["labels"], random)
        with random.as_global():  # which stochastic depth draws from
            logits_BC = self(features_BLF)
        loss: Tensor = self.loss(logits_BC, labels_BC)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate_at(self.global_step, group[PEAK])
        self.log("train/learning_rate", self.learning_rate_at(self.global_step, self.learning_rate))

    def learning_rate_at(self, step: int, peak: float) -> float:
        """Learning rate of optimizer step ``step`` (from 0) of parameters with this highest one."""
        total_steps = self.total_steps()
        warmup_steps = int(self.warmup_fraction * total_steps)
        return warmup_cosine(step, peak, warmup_steps, total_steps, self.min_learning_rate)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = layer_decayed_groups(
            self.encoder,
            [self.fc_norm, self.head],
            self.learning_rate,
            self.layer_decay,
            self.weight_decay,
            self.weight_decay_exempt_1d,
        )
        return torch.optim.AdamW(groups, betas=self.betas, eps=1e-8, fused=True)
