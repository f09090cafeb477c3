"""SSLAM: masked latent bootstrapping, then audio mixtures with source retention (Alex et al., ICLR 2025).

Stage 1 is EAT (Chen et al., IJCAI 2024). Shape letters: B clips, K clones, N clips x clones, T samples, L frames, F mel
bins, P patches, V kept patches, Q patches of the mixed columns, D width.
"""

import operator
from collections import defaultdict
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from sslam.checkpoints.loading import load_pretraining_state
from sslam.ema import EMATeacher, TeacherTargets, ema_decay_at
from sslam.frontends import Frontend
from sslam.losses import cls_loss, masked_latent_loss, source_retention_target
from sslam.metrics import Moments
from sslam.networks import AudioViT, ConvDecoder
from sslam.optim import clip_finite_gradients, parameter_groups, warmup_cosine
from sslam.stages import Stage
from sslam.transforms import (
    InverseBlockMasking,
    Masks,
    PartialMixing,
    PartialMixture,
    RandomSource,
    partner_of,
)


class PretrainingLosses(NamedTuple):
    """The three terms, whose sum is minimised, and the moments of targets and predictions at masked patches."""

    patch: Tensor
    cls: Tensor
    source_retention: Tensor
    target_moments: Moments
    prediction_moments: Moments

    @property
    def total(self) -> Tensor:
        return self.patch + self.cls + self.source_retention


class SSLAM(pl.LightningModule):
    """Masked latent bootstrapping and source retention, in stages.

    The student sees 20 % of the patches of a clip; with a decoder it predicts, at the hidden patches, the latents that
    a teacher (the student's moving average) finds in the whole clip, and with its CLS token their mean. In the second
    stage the same is done for partial mixtures, from which the mean of both sources' latents must also be predicted.

    Args:
        encoder: Becomes the student; its copy becomes the teacher.
        decoder: Predicts the latents of the hidden patches; same width as the encoder.
        frontend: Waveform (B, T) to features, in float32 on the batch's device.
        masking: Draws what the student sees.
        mixing: Makes partial mixtures.
        stages: In this order; each restarts the optimizer, the schedule and the annealing of the teacher's decay, and
            goes on with student, decoder and teacher.
        cls_loss_weight: Weight of the CLS loss, averaged over rows. The published code sums it over the rows of one
            device, of which both published stages have 192 (12 clips x 16 clones; 12 x 8 x 2); as a weight it means
            the same at any batch size, number of clones and under gradient accumulation.
        mask_noise_std: Standard deviation of the noise that stands at hidden patches in the decoder's input.
        ema_decay: Decay of the teacher at the start of a stage.
        ema_end_decay: Decay after ``ema_anneal_steps`` optimizer steps of a stage, reached linearly.
        ema_anneal_steps: See above.
        weight_decay: Decoupled weight decay of Adam.
        weight_decay_exempt_1d: Give biases and norm weights no decay. The published code means to, but through a
            mistake decays everything; the reproduction YAMLs set this to false.
        betas: Of Adam.
        initial_checkpoint: Weights to start from: student, decoder and teacher of an earlier run, of a file that
            ``sslam convert`` wrote, or of a published EAT or SSLAM file. Where ``--ckpt_path`` is given too, that wins.
        compile_blocks: Compile the encoder blocks with ``torch.compile``.

    Raises:
        ValueError: If there are no stages or the parts do not fit together.
    """

    def __init__(
        self,
        encoder: AudioViT,
        decoder: ConvDecoder,
        frontend: Frontend,
        masking: InverseBlockMasking,
        mixing: PartialMixing,
        stages: list[Stage],
        cls_loss_weight: float = 192.0,
        mask_noise_std: float = 0.01,
        ema_decay: float = 0.9998,
        ema_end_decay: float = 0.99999,
        ema_anneal_steps: int = 100_000,
        weight_decay: float = 0.05,
        weight_decay_exempt_1d: bool = True,
        betas: tuple[float, float] = (0.9, 0.95),
        initial_checkpoint: str | None = None,
        compile_blocks: bool = False,
    ) -> None:
        super().__init__()
        if not stages:
            raise ValueError("stages is empty; pre-training needs at least one stage.")
        for name, value in {
            "cls_loss_weight": cls_loss_weight,
            "mask_noise_std": mask_noise_std,
            "weight_decay": weight_decay,
            "ema_anneal_steps": ema_anneal_steps,
        }.items():
            if value < 0:
                raise ValueError(f"{name} must be at least 0, got {value}.")
        for name, value in {"ema_decay": ema_decay, "ema_end_decay": ema_end_decay}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value}.")
        for stage in stages:
            if stage.cls_target_layers is not None and not 1 <= stage.cls_target_layers <= encoder.depth:
                raise ValueError(
                    f"cls_target_layers must be between 1 and the encoder's depth {encoder.depth}, "
                    f"got {stage.cls_target_layers}."
                )
        if decoder.width != encoder.width:
            raise ValueError(f"The decoder's width must be the encoder's {encoder.width}, got {decoder.width}.")
        if frontend.num_mel_bins != encoder.num_mel_bins:
            raise ValueError(
                f"The front end's num_mel_bins must be the encoder's {encoder.num_mel_bins}, "
                f"got {frontend.num_mel_bins}."
            )
        self.frontend = frontend
        self.masking = masking
        self.mixing = mixing
        self.student = encoder
        self.decoder = decoder
        self.teacher = EMATeacher(encoder)
        self.stages = stages
        self.cls_loss_weight = cls_loss_weight
        self.mask_noise_std = mask_noise_std
        self.ema_decay = ema_decay
        self.ema_end_decay = ema_end_decay
        self.ema_anneal_steps = ema_anneal_steps
        self.weight_decay = weight_decay
        self.weight_decay_exempt_1d = weight_decay_exempt_1d
        self.betas = betas
        self.initial_checkpoint = initial_checkpoint
        self.restored_step = 0
        self.evaluation_sums: defaultdict[str, Tensor | float] = defaultdict(float)
        if compile_blocks:
            self.student.compile_blocks()
            self.teacher.encoder.compile_blocks()

    # ---- the method -------------------------------------------------------------------------------------------------

    def losses(self, features_BLF: Tensor, stage: Stage, random: RandomSource) -> PretrainingLosses:
        """One batch of one stage: what the student predicts against what the teacher finds."""
        objectives = stage.objectives
        masks = self.draw_masks(features_BLF, stage.num_clones, random)
        patch_sum = cls_sum = source_retention_sum = features_BLF.new_zeros(())
        compared: list[tuple[Tensor, Tensor]] = []  # predictions and their targets
        if objectives.uses_clips or objectives.source_retention:
            clip_targets = self.teach(features_BLF, stage)
        if objectives.uses_clips:
            cls_BKD, prediction_BKPD = self.predict_latents(features_BLF, masks, random)
            target_BPD = clip_targets.patch_BPD
            patch_sum = objectives.unmixed * masked_latent_loss(prediction_BKPD, target_BPD, masks.masked)
            cls_sum = objectives.unmixed * cls_loss(cls_BKD, clip_targets.cls_BPD).sum()
            compared.append((prediction_BKPD, target_BPD))
        if objectives.uses_mixtures:
            mixture = self.mixing(features_BLF, self.student.patch_size, random.cpu)
            # A mixture is masked like the clip it was made from.
            cls_BKD, prediction_BKPD = self.predict_latents(mixture.features, masks, random)
            if objectives.mixed:
                mixture_targets = self.teach(mixture.features, stage)
                target_BPD = mixture_targets.patch_BPD
                patch_sum = patch_sum + objectives.mixed * masked_latent_loss(prediction_BKPD, target_BPD, masks.masked)
                cls_sum = cls_sum + objectives.mixed * cls_loss(cls_BKD, mixture_targets.cls_BPD).sum()
                compared.append((prediction_BKPD, target_BPD))
            if objectives.source_retention:
                target_BPD = self.retain_sources(clip_targets, mixture)
                retained = masked_latent_loss(prediction_BKPD, target_BPD, masks.masked)
                source_retention_sum = objectives.source_retention * retained
                if not objectives.mixed:
                    compared.append((prediction_BKPD, target_BPD))
        # Every mask hides the same number of patches, so these are means at any batch size and under accumulation. The
        # source retention loss is divided by all masked tokens as well, although it has those of the mixtures only.
        num_rows = len(features_BLF) * stage.num_clones * (objectives.uses_clips + objectives.uses_mixtures)
        num_masked_tokens = num_rows * (masks.masked.shape[-1] - masks.kept_ids.shape[-1])
        hidden_times_BP = masks.masked.sum(dim=1)
        target_moments = [Moments.of(target_BPD, hidden_times_BP) for _, target_BPD in compared]
        prediction_moments = [Moments.of(prediction_BKPD, masks.masked) for prediction_BKPD, _ in compared]
        return PretrainingLosses(
            patch=patch_sum / num_masked_tokens,
            cls=self.cls_loss_weight * cls_sum / num_rows,
            source_retention=source_retention_sum / num_masked_tokens,
            target_moments=reduce(operator.add, target_moments),
            prediction_moments=reduce(operator.add, prediction_moments),
        )

    def draw_masks(self, features_BLF: Tensor, num_clones: int, random: RandomSource) -> Masks:
        """Another mask for each clone: kept patches (B, K, V) and hidden patches (B, K, P)."""
        clips, num_frames, _ = features_BLF.shape
        kept_ids, masked = self.masking(clips * num_clones, self.student.grid(num_frames), random.device)
        return Masks(kept_ids.unflatten(0, (clips, num_clones)), masked.unflatten(0, (clips, num_clones)))

    def predict_latents(self, features_BLF: Tensor, masks: Masks, random: RandomSource) -> tuple[Tensor, Tensor]:
        """The student's CLS tokens (B, K, D) and its predictions at all patches (B, K, P, D)."""
        clips, clones, _ = masks.kept_ids.shape
        patches_BPD = self.student.embed(features_BLF)
        ids_BKVD = masks.kept_ids.unsqueeze(-1).expand(-1, -1, -1, self.student.width)
        kept_BKVD = patches_BPD.unsqueeze(1).expand(-1, clones, -1, -1).gather(2, ids_BKVD)
        tokens_BKVD = self.student.encode(kept_BKVD.flatten(0, 1)).unflatten(0, (clips, clones))
        cls_BKD, encoded_BKVD = tokens_BKVD[:, :, 0], tokens_BKVD[:, :, 1:]
        # Encoded tokens at their places, noise elsewhere; no positions and no CLS.
        decoder_input_BKPD = encoded_BKVD.new_empty(clips, clones, *patches_BPD.shape[1:])
        decoder_input_BKPD = decoder_input_BKPD.normal_(std=self.mask_noise_std, generator=random.device)
        decoder_input_BKPD = decoder_input_BKPD.scatter(2, ids_BKVD, encoded_BKVD)
        prediction_NPD = self.decoder(decoder_input_BKPD.flatten(0, 1), self.student.grid(features_BLF.shape[1]))
        return cls_BKD, prediction_NPD.unflatten(0, (clips, clones))

    @torch.no_grad()
    def teach(self, features_BLF: Tensor, stage: Stage) -> TeacherTargets:
        """The teacher's latents of whole clips, both (B, P, D)."""
        return self.teacher(self.teacher.encoder.embed(features_BLF), stage.cls_target_layers)

    @torch.no_grad()
    def retain_sources(self, own: TeacherTargets, mixture: PartialMixture) -> Tensor:
        """Target of the source retention loss (B, P, D): own latents, and the partner's where both sound.

        The teacher hears the partner alone, and of it only the columns that are mixed.
        """
        num_rows = self.student.num_rows
        mixed_columns = mixture.mixed_columns.to(own.embedded_BPD.device, non_blocking=True)
        partner_patches_BPD = partner_of(own.embedded_BPD)
        partner_patches_BQD = partner_patches_BPD.unflatten(1, (-1, num_rows))[:, mixed_columns].flatten(1, 2)
        partner_BQD = self.teacher(partner_patches_BQD).patch_BPD
        return source_retention_target(own.patch_BPD, partner_BQD, mixed_columns, num_rows)

    # ---- training ---------------------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        stage, _ = self.stage_at(self.global_step)
        features_BLF = self.frontend(batch["waveform"], batch.get("num_samples"))
        losses = self.losses(features_BLF, stage, self.random_source(self.global_step, batch_idx))
        spread = {
            "target_std": losses.target_moments.standard_deviation(),
            "prediction_std": losses.prediction_moments.standard_deviation(),
        }
        self.log("train/loss", losses.total.detach(), prog_bar=True)
        self.log_dict({f"train/{name}_loss": loss.detach() for name, loss in self.active_terms(losses, stage).items()})
        self.log_dict({f"train/{name}": value for name, value in spread.items()})
        return {
            "loss": losses.total,
            "target_moments": losses.target_moments,
            "prediction_moments": losses.prediction_moments,
        }

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluation_step(batch, batch_idx)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluation_step(batch, batch_idx)

    def on_validation_epoch_start(self) -> None:
        self.evaluation_sums.clear()

    def on_test_epoch_start(self) -> None:
        self.evaluation_sums.clear()

    def on_validation_epoch_end(self) -> None:
        self.log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self.log_evaluation("test")

    def evaluation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """The losses of the weights' stage with masks and mixtures that are the same at every evaluation."""
        stage, _ = self.stage_at(self.step_of_weights)
        features_BLF = self.frontend(batch["waveform"], batch.get("num_samples"))
        if len(features_BLF) < 2 and stage.objectives.uses_mixtures:
            return  # the last clip of an odd set has no partner
        losses = self.losses(features_BLF, stage, RandomSource.seeded(self.device, batch_idx))
        self.evaluation_sums["clips"] += len(features_BLF)
        self.evaluation_sums["loss"] += len(features_BLF) * losses.total
        for name, loss in self.active_terms(losses, stage).items():
            self.evaluation_sums[f"{name}_loss"] += len(features_BLF) * loss

    def log_evaluation(self, split: str) -> None:
        """Log means over all clips of all ranks; every rank takes part, also one that has had no clip."""
        stage, _ = self.stage_at(self.step_of_weights)
        names = ["clips", "loss", "patch_loss", "cls_loss", "source_retention_loss"]
        sums = torch.stack([torch.as_tensor(self.evaluation_sums[name], device=self.device).float() for name in names])
        clips, *totals = self.trainer.strategy.reduce(sums, reduce_op="sum")
        if clips == 0:
            rank_zero_warn(
                f"No clip could be evaluated, so there is no {split}/loss. A mixture needs two clips: give more data "
                "or a larger batch_size."
            )
            return
        means = {name: total / clips for name, total in zip(names[1:], totals, strict=True)}
        if not stage.objectives.source_retention:
            del means["source_retention_loss"]
        # Equal on all ranks already; sync_dist says so to Lightning.
        self.log_dict({f"{split}/{name}": mean for name, mean in means.items()}, sync_dist=True)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Embeddings of whole clips: ``cls`` (B, D) and ``mean`` over the patches (B, D), with the clips' ``index``."""
        tokens_BPD = self.student(self.frontend(batch["waveform"], batch.get("num_samples"))).float()
        return {"index": batch["index"], "cls": tokens_BPD[:, 0], "mean": tokens_BPD[:, 1:].mean(dim=1)}

    @staticmethod
    def active_terms(losses: PretrainingLosses, stage: Stage) -> dict[str, Tensor]:
        """The terms that the stage minimises, by name."""
        terms = {"patch": losses.patch, "cls": losses.cls}
        if stage.objectives.source_retention:
            terms["source_retention"] = losses.source_retention
        return terms

    def random_source(self, step: int, batch_idx: int) -> RandomSource:
        """Generators of one training batch: other draws on every rank and batch, the same after a resume."""
        return RandomSource.seeded(self.device, torch.initial_seed(), self.global_rank, step, batch_idx)

    # ---- stages -----------------------------------------------------------------------------------------------------

    @property
    def total_steps(self) -> int:
        """Optimizer steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[Stage, int]:
        """The stage that optimizer step ``step`` belongs to, and the step within it; the last stage at the end."""
        for stage in self.stages[:-1]:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        return self.stages[-1], step

    @property
    def step_of_weights(self) -> int:
        """Optimizer steps that the weights have seen: of this fit, or of the checkpoint that is evaluated."""
        return self.global_step if self.trainer.state.fn == TrainerFn.FITTING else self.restored_step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Lightning restores its own counter in a fit only.
        self.restored_step = checkpoint["global_step"]

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of optimizer step ``step`` (from 0) of the run."""
        stage, step = self.stage_at(step)
        return warmup_cosine(step, stage.learning_rate, stage.warmup_steps, stage.steps)

    def setup(self, stage: str) -> None:
        if self.trainer.precision not in ("32-true", "bf16-mixed"):
            raise ValueError(
                f"trainer.precision must be 32-true or bf16-mixed, got {self.trainer.precision}: the front end, the "
                "losses and the teacher need float32."
            )
        if stage != "fit" and self.initial_checkpoint is not None:
            self.load_initial_weights(Path(self.initial_checkpoint))

    def load_initial_weights(self, path: Path) -> None:
        """Take student, decoder and teacher from a file.

        Raises:
            ValueError: If the file cannot be used, or has other shapes than this model.
        """
        state = load_pretraining_state(path)
        wanted = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        wrong = [name for name in sorted(wanted | found) if wanted.get(name) != found.get(name)]
        if wrong:
            name = wrong[0]
            raise ValueError(
                f"The weights in {path} do not fit this model: {len(wrong)} tensors differ, such as {name} with shape "
                f"{found.get(name, 'absent')} in the file and {wanted.get(name, 'absent')} here. Give the encoder and "
                "the decoder the sizes that the file was made with."
            )
        self.load_state_dict(state)

    def on_fit_start(self) -> None:
        if self.initial_checkpoint is not None and self.trainer.ckpt_path is None:
            self.load_initial_weights(Path(self.initial_checkpoint))
        if self.trainer.max_steps > self.total_steps:
            raise ValueError(
                f"trainer.max_steps is {self.trainer.max_steps}, but the stages end after {self.total_steps} steps. "
                "Leave trainer.max_steps out, or lengthen a stage."
            )
        if self.trainer.max_steps == -1:
            self.trainer.fit_loop.epoch_loop.max_steps = self.total_steps

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        _, step = self.stage_at(self.global_step)
        if step == 0:
            optimizer.state.clear()
        learning_rate = self.learning_rate_at(self.global_step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        # A tensor made on the device: a number would be copied there, which waits for it.
        self.log("train/learning_rate", torch.full((), learning_rate, device=self.device))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        # Called once per optimizer step, also under gradient accumulation, so the teacher moves as often.
        super().optimizer_step(*args, **kwargs)
        _, step = self.stage_at(self.global_step)
        decay = ema_decay_at(step + 1, self.ema_decay, self.ema_end_decay, self.ema_anneal_steps)
        self.teacher.update(self.student, decay)
        self.log("train/ema_decay", torch.full((), decay, device=self.device))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        gradient_norm = clip_finite_gradients(
            self.parameters(), gradient_clip_val, gradient_clip_algorithm, self.global_step
        )
        self.log("train/gradient_norm", gradient_norm)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # The learning rate is set before every batch; stages restart it.
        return torch.optim.AdamW(
            parameter_groups(self, self.weight_decay, self.weight_decay_exempt_1d),
            lr=self.learning_rate_at(0),
            betas=self.betas,
            eps=1e-8,
            fused=True,
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Plain values, so that the encoder can be rebuilt from the file alone.
        checkpoint["architecture"] = {
            "encoder": self.student.architecture(),
            "decoder": self.decoder.architecture(),
            "frontend": self.frontend.architecture(),
        }

    # ---- for people -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def explain(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What the method does with the first clip of a batch, on the CPU; draws nothing from the run's generators.

        Returns:
            ``clip``, ``partner``, ``mixture`` (L, F); ``mixed_frames`` (L,), True where both sound; ``kept`` (columns,
            rows), True where the student sees the patch; ``target`` and ``prediction`` (P, D) of the mixture (of the
            clip in a stage without mixtures); ``grid`` (columns, rows); ``stage``, its name.
        """
        stage, _ = self.stage_at(self.global_step)
        random = RandomSource.seeded(self.device, self.global_step)
        features_BLF = self.frontend(batch["waveform"][:2], batch["num_samples"][:2])
        if len(features_BLF) < 2:
            features_BLF = features_BLF.repeat(2, 1, 1)
        grid = self.student.grid(features_BLF.shape[1])
        masks = self.draw_masks(features_BLF, 1, random)
        mixture = self.mixing(features_BLF, self.student.patch_size, random.cpu)
        if stage.objectives.uses_mixtures:
            own = self.teach(features_BLF, stage)
            target_BPD = self.retain_sources(own, mixture)
            if not stage.objectives.source_retention:
                target_BPD = self.teach(mixture.features, stage).patch_BPD
            _, prediction_BKPD = self.predict_latents(mixture.features, masks, random)
        else:
            target_BPD = self.teach(features_BLF, stage).patch_BPD
            _, prediction_BKPD = self.predict_latents(features_BLF, masks, random)
        mixed_columns = torch.zeros(grid[0], dtype=torch.bool).index_fill_(0, mixture.mixed_columns, True)
        return {
            "clip": features_BLF[0].cpu(),
            "partner": partner_of(features_BLF)[0].cpu(),
            "mixture": mixture.features[0].cpu(),
            "mixed_frames": mixed_columns.repeat_interleave(self.student.patch_size),
            "kept": ~masks.masked[0, 0].view(grid).cpu(),
            "target": target_BPD[0].cpu(),
            "prediction": prediction_BKPD[0, 0].float().cpu(),
            "grid": grid,
            "stage": stage.name,
        }
