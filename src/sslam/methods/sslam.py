"""SSLAM: masked latent bootstrapping, then audio mixtures with source retention (Alex et al., ICLR 2025).

Stage 1 is EAT (Chen et al., IJCAI 2024). Shape letters: B clips, K clones, N clips x clones, T samples, L frames, F mel
bins, P patches, V kept patches, Q patches of the mixed columns, D width.
"""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from sslam.checkpoints.loading import load_pretraining_state
from sslam.checks import at_least, within
from sslam.clip_contrast import ClipContrast
from sslam.ema import EMATeacher, TeacherTargets, ema_decay_at
from sslam.frontends import Frontend
from sslam.losses import cls_loss, masked_latent_loss, source_retention_cls_target, source_retention_target
from sslam.methods.method import Method, require_same_mel_bins
from sslam.metrics import LossMeans, Moments, PositionMeans, total
from sslam.networks import AudioViT, ConvDecoder
from sslam.optim import add_epsilon_before_correction, parameter_groups
from sslam.pretraining_losses import LOSS_NAMES, PretrainingLosses
from sslam.rebuildable import Rebuildable
from sslam.stages import Stage, stage_at
from sslam.transforms import (
    InverseBlockMasking,
    Masks,
    Mixing,
    PartialMixture,
    RandomSource,
    partner_of,
)


class SSLAM(Method):
    """Masked latent bootstrapping and source retention, in stages.

    The student sees 20 % of the patches of a clip; with a decoder it predicts, at the hidden patches, the latents that
    a teacher (the student's moving average) finds in the whole clip, and with its CLS token their mean. In the second
    stage the same is done for partial mixtures, from which the mean of both sources' latents must also be predicted.

    Args:
        encoder: Network that becomes the student; its copy becomes the teacher.
        decoder: Network that predicts the latents of the hidden patches; same width as the encoder.
        frontend: Waveform (B, T) to features, in float32 on the batch's device.
        masking: Draws of what the student sees.
        mixing: Maker of mixtures; published are partial ones.
        stages: Stages in their order; each restarts the optimizer, the schedule and the annealing of the teacher's
            decay, and goes on with student, decoder and teacher.
        cls_loss_weight: Weight of the CLS loss, averaged over rows. The published code sums it over the rows of one
            device, of which both published stages have 192 (12 clips x 16 clones; 12 x 8 x 2); as a weight it means
            the same at any batch size, number of clones and under gradient accumulation.
        mask_noise_std: Standard deviation of the noise that stands at hidden patches in the decoder's input.
        ema_decay: Decay of the teacher at the start of a stage.
        ema_end_decay: Decay after ``ema_anneal_steps`` optimizer steps of a stage, reached linearly.
        ema_anneal_steps: Optimizer steps of a stage in which the decay rises.
        weight_decay: Decoupled weight decay of Adam.
        weight_decay_exempt_1d: Whether biases and norm weights have no decay. The published code means to, but through
            a mistake decays everything; the reproduction YAMLs set this to false.
        betas: Decay rates of Adam's moments.
        clip_contrast: How clips are told apart in stages whose objectives have ``clip_contrast``; None as published.
        initial_checkpoint: Weights to start from: student, decoder and teacher of an earlier run, of a file that
            ``sslam convert`` wrote, or of a published EAT or SSLAM file. Not read where the trainer goes on from a
            checkpoint (``ckpt_path``).
        compile_blocks: Whether to compile the encoder blocks with ``torch.compile``.

    Raises:
        ValueError: If there are no stages or the parts do not fit together.
    """

    def __init__(
        self,
        encoder: AudioViT,
        decoder: ConvDecoder,
        frontend: Frontend,
        masking: InverseBlockMasking,
        mixing: Mixing,
        stages: list[Stage],
        cls_loss_weight: float = 192.0,
        mask_noise_std: float = 0.01,
        ema_decay: float = 0.9998,
        ema_end_decay: float = 0.99999,
        ema_anneal_steps: int = 100_000,
        weight_decay: float = 0.05,
        weight_decay_exempt_1d: bool = True,
        betas: tuple[float, float] = (0.9, 0.95),
        clip_contrast: ClipContrast | None = None,
        initial_checkpoint: str | None = None,
        compile_blocks: bool = False,
    ) -> None:
        super().__init__()
        if not stages:
            raise ValueError("stages is empty; pre-training needs at least one stage.")
        at_least(0, cls_loss_weight=cls_loss_weight, mask_noise_std=mask_noise_std)
        at_least(0, weight_decay=weight_decay, ema_anneal_steps=ema_anneal_steps)
        within(0, 1, ema_decay=ema_decay, ema_end_decay=ema_end_decay)
        for stage in stages:
            for name, layers in (("cls", stage.cls_target_layers), ("patch", stage.patch_target_layers)):
                if layers is not None and not 1 <= layers <= encoder.depth:
                    raise ValueError(
                        f"{name}_target_layers must be between 1 and the encoder's depth {encoder.depth}, got {layers}."
                    )
        if decoder.width != encoder.width:
            raise ValueError(f"The decoder's width must be the encoder's {encoder.width}, got {decoder.width}.")
        if clip_contrast is None and any(stage.objectives.clip_contrast for stage in stages):
            raise ValueError(
                "A stage has the objective clip_contrast, and clip_contrast is not given. Give "
                "sslam.clip_contrast.ClipContrast."
            )
        if clip_contrast is not None:
            clip_contrast.build_head(frontend, encoder)
        require_same_mel_bins(frontend, encoder)
        self.frontend = frontend
        self.masking = masking
        self.mixing = mixing
        self.student = encoder
        self.decoder = decoder
        self.teacher = EMATeacher(encoder)
        self.clip_contrast = clip_contrast
        self.stages = stages
        self.cls_loss_weight = cls_loss_weight
        self.mask_noise_std = mask_noise_std
        self.ema_decay = ema_decay
        self.ema_end_decay = ema_end_decay
        self.ema_anneal_steps = ema_anneal_steps
        self.weight_decay = weight_decay
        self.weight_decay_exempt_1d = weight_decay_exempt_1d
        self.betas = betas
        self.weights_to_start_from = initial_checkpoint
        self.restored_step = 0
        self.mean_losses = LossMeans(("loss", *LOSS_NAMES))
        self.position_means = PositionMeans()
        if compile_blocks:
            self.student.compile_blocks()
            self.teacher.encoder.compile_blocks()

    # ---- the method -------------------------------------------------------------------------------------------------

    def features(self, waveform_BT: Tensor, num_samples_B: Tensor | None, stage: Stage) -> tuple[Tensor, Tensor | None]:
        """Features (B, L, F) of clips and, where the stage mixes waveforms, of each clip plus its partner."""
        features_BLF = self.frontend(waveform_BT, num_samples_B)
        if not (self.mixing.of_waveforms and stage.objectives.uses_mixtures):
            return features_BLF, None
        longer_B = None if num_samples_B is None else torch.maximum(num_samples_B, partner_of(num_samples_B))
        return features_BLF, self.frontend(waveform_BT + partner_of(waveform_BT), longer_B)

    def losses(
        self,
        features_BLF: Tensor,
        stage: Stage,
        random: RandomSource,
        summed_BLF: Tensor | None = None,
        num_samples_B: Tensor | None = None,
    ) -> PretrainingLosses:
        """One batch of one stage: what the student predicts against what the teacher finds."""
        objectives = stage.objectives
        masks = self.draw_masks(features_BLF, stage.num_clones, random)
        patch_sum = cls_sum = source_retention_sum = source_retention_cls_sum = features_BLF.new_zeros(())
        compared: list[tuple[Tensor, Tensor]] = []  # predictions and their targets
        targets: dict[str, tuple[Tensor, Tensor | None]] = {}
        # Every mask hides the same number of patches, so these are means at any batch size and under accumulation. The
        # source retention losses are divided by all masked tokens and rows, although they have those of the mixtures.
        num_rows = len(features_BLF) * stage.num_clones * max(1, objectives.uses_clips + objectives.uses_mixtures)
        num_masked_tokens = num_rows * (masks.masked.shape[-1] - masks.kept_ids.shape[-1])
        hidden_times_BP = masks.masked.sum(dim=1)
        share_BP = hidden_times_BP / num_masked_tokens  # of a patch in the patch loss
        if objectives.uses_clips or objectives.retains_sources:
            clip_targets = self.teach(features_BLF, stage)
        if objectives.uses_clips:
            cls_BKD, prediction_BKPD = self.predict_latents(features_BLF, masks, random)
            target_BPD = clip_targets.patch_BPD
            patch_sum = objectives.unmixed * masked_latent_loss(prediction_BKPD, target_BPD, masks.masked)
            cls_sum = objectives.unmixed_cls * cls_loss(cls_BKD, clip_targets.cls_BPD).sum()
            compared.append((prediction_BKPD, target_BPD))
            targets["clip"] = (target_BPD, objectives.unmixed * share_BP if objectives.unmixed else None)
        if objectives.uses_mixtures:
            mixture = self.mixing(features_BLF, self.student.patch_size, random.cpu, summed_BLF)
            # A mixture is masked like the clip it was made from.
            cls_BKD, prediction_BKPD = self.predict_latents(mixture.features, masks, random)
            if objectives.bootstraps_mixtures:
                mixture_targets = self.teach(mixture.features, stage)
                target_BPD = mixture_targets.patch_BPD
                patch_sum = patch_sum + objectives.mixed * masked_latent_loss(prediction_BKPD, target_BPD, masks.masked)
                cls_sum = cls_sum + objectives.mixed_cls * cls_loss(cls_BKD, mixture_targets.cls_BPD).sum()
                compared.append((prediction_BKPD, target_BPD))
                targets["mixture"] = (target_BPD, objectives.mixed * share_BP if objectives.mixed else None)
            if objectives.retains_sources:
                target_BPD, target_B1D = self.retain_sources(clip_targets, mixture, stage)
                targets["sources"] = (target_BPD, None)
                retained = masked_latent_loss(prediction_BKPD, target_BPD, masks.masked)
                source_retention_sum = objectives.source_retention * retained
                retained_cls = cls_loss(cls_BKD, target_B1D).sum()
                source_retention_cls_sum = objectives.source_retention_global * retained_cls
                if not objectives.bootstraps_mixtures:
                    compared.append((prediction_BKPD, target_BPD))
        contrast = features_BLF.new_zeros(())
        if objectives.clip_contrast:
            assert self.clip_contrast is not None
            num_frames_B = None if num_samples_B is None else self.frontend.frames_in(num_samples_B)
            contrast = self.clip_contrast(
                self.student, features_BLF, self.masking, self.frontend.log_scale, random, num_frames_B
            )
        return PretrainingLosses(
            patch=patch_sum / num_masked_tokens,
            cls=self.cls_loss_weight * cls_sum / num_rows,
            source_retention=source_retention_sum / num_masked_tokens,
            source_retention_cls=self.cls_loss_weight * source_retention_cls_sum / num_rows,
            clip_contrast=objectives.clip_contrast * contrast,
            target_moments=total([Moments.of(target, hidden_times_BP) for _, target in compared]),
            prediction_moments=total([Moments.of(predicted, masks.masked) for predicted, _ in compared]),
            targets=targets,
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
        patches_BPD = self.teacher.encoder.embed(features_BLF)
        return self.teacher(patches_BPD, stage.cls_target_layers, stage.patch_target_layers)

    @torch.no_grad()
    def retain_sources(self, own: TeacherTargets, mixture: PartialMixture, stage: Stage) -> tuple[Tensor, Tensor]:
        """Targets of source retention, local (B, P, D) and global (B, 1, D): own latents and the partner's.

        The teacher hears the partner alone, and of it only the columns that are mixed.
        """
        num_rows = self.student.num_rows
        mixed_columns = mixture.mixed_columns.to(own.embedded_BPD.device, non_blocking=True)
        partner_patches_BPD = partner_of(own.embedded_BPD)
        partner_patches_BQD = partner_patches_BPD.unflatten(1, (-1, num_rows))[:, mixed_columns].flatten(1, 2)
        partner = self.teacher(partner_patches_BQD, stage.cls_target_layers, stage.patch_target_layers)
        how = stage.source_combination
        local_BPD = source_retention_target(own.patch_BPD, partner.patch_BPD, mixed_columns, num_rows, how)
        return local_BPD, source_retention_cls_target(own.cls_BPD, partner.cls_BPD, how)

    # ---- training ---------------------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        stage, _ = stage_at(self.stages, self.global_step)
        features_BLF, summed_BLF = self.features(batch["waveform"], batch.get("num_samples"), stage)
        losses = self.losses(features_BLF, stage, self.random_source(batch_idx), summed_BLF, batch.get("num_samples"))
        self.log_training_loss(losses.total)
        self.log_dict({f"train/{name}": loss.detach() for name, loss in losses.by_name(stage.objectives).items()})
        if losses.target_moments is not None and losses.prediction_moments is not None:
            self.log("train/target_std", losses.target_moments.standard_deviation())
            self.log("train/prediction_std", losses.prediction_moments.standard_deviation())
        # A falling loss is no evidence: the place of a patch alone may explain most of its target.
        patch_losses = self.position_means.compare(losses.patch, losses.targets)
        if patch_losses is not None:
            self.log("train/patch_loss_above_position", patch_losses.above_position())
            self.log("train/position_share", patch_losses.position_share())
        return {
            "loss": losses.total,
            "target_moments": losses.target_moments,
            "prediction_moments": losses.prediction_moments,
            "patch_losses": patch_losses,
        }

    def learning_rate_at(self, step: int, peak: float) -> float:
        """Learning rate of the run's optimizer step ``step`` (from 0); every stage has a peak of its own."""
        stage, step = stage_at(self.stages, step)
        return stage.learning_rate_at(step)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        _, step = stage_at(self.stages, self.global_step)
        if step == 0:
            optimizer.state.clear()
        add_epsilon_before_correction(optimizer, step)  # as fairseq does

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        # Called once per optimizer step, also under gradient accumulation, so the teacher moves as often.
        super().optimizer_step(*args, **kwargs)
        _, step = stage_at(self.stages, self.global_step)
        decay = ema_decay_at(step + 1, self.ema_decay, self.ema_end_decay, self.ema_anneal_steps)
        self.teacher.update(self.student, decay)
        self.log("train/ema_decay", torch.full((), decay, device=self.device))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = parameter_groups(self, self.weight_decay, self.weight_decay_exempt_1d)
        # The learning rate is set before every batch.
        return torch.optim.AdamW(groups, lr=self.stages[0].learning_rate_at(0), betas=self.betas, eps=1e-8, fused=True)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        ddp_arguments = getattr(self.trainer.strategy, "_ddp_kwargs", {"find_unused_parameters": True})
        if self.clip_contrast is not None and not ddp_arguments.get("find_unused_parameters"):
            raise ValueError(
                "With clip_contrast a stage may leave the decoder, or the head of clip_contrast, without "
                "gradients, which several processes must know. Give --trainer.strategy ddp_find_unused_parameters_true."
            )
        total_steps = sum(stage.steps for stage in self.stages)
        if self.trainer.max_steps > total_steps:
            raise ValueError(
                f"trainer.max_steps is {self.trainer.max_steps}, but the stages end after {total_steps} steps. "
                "Leave trainer.max_steps out, or lengthen a stage."
            )
        if self.trainer.max_steps == -1:
            self.trainer.fit_loop.epoch_loop.max_steps = total_steps

    # ---- evaluation -------------------------------------------------------------------------------------------------

    def evaluation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """The losses of the weights' stage with masks and mixtures that are the same at every evaluation."""
        stage, _ = stage_at(self.stages, self.step_of_weights)
        if len(batch["waveform"]) < 2 and stage.objectives.compares_clips:
            return  # the last clip of an odd set has no other one beside it
        features_BLF, summed_BLF = self.features(batch["waveform"], batch.get("num_samples"), stage)
        random = RandomSource.seeded(self.device, batch_idx)
        losses = self.losses(features_BLF, stage, random, summed_BLF, batch.get("num_samples"))
        self.mean_losses.update({"loss": losses.total} | losses.by_name(stage.objectives), len(features_BLF))

    def finish_evaluation(self, split: str) -> None:
        """Log means over all clips of all processes; every process takes part, also one that has had no clip."""
        means = self.mean_losses.compute()
        if not means:
            rank_zero_warn(
                f"No clip could be evaluated, so there is no {split}/loss. Mixtures, and clips that are told "
                "apart, need two: give more data or a larger batch_size."
            )
        self.log_results(split, means)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Embeddings of whole clips: ``cls`` (B, D) and ``mean`` over the patches (B, D), with the clips' ``index``."""
        tokens_BPD = self.student(self.frontend(batch["waveform"], batch.get("num_samples"))).float()
        return {"index": batch["index"], "cls": tokens_BPD[:, 0], "mean": tokens_BPD[:, 1:].mean(dim=1)}

    @property
    def step_of_weights(self) -> int:
        """Optimizer steps that the weights have seen: of this fit, or of the checkpoint that is evaluated."""
        return self.global_step if self.trainer.state.fn == TrainerFn.FITTING else self.restored_step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        # Lightning restores its own counter in a fit only.
        self.restored_step = checkpoint["global_step"]
        self.position_means.load_state_dict(checkpoint.get("position_means", {}))  # earlier checkpoints have none

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["position_means"] = self.position_means.state_dict()  # not among the weights

    # ---- weights ----------------------------------------------------------------------------------------------------

    def load_initial_weights(self, path: str | Path) -> None:
        """Take student, decoder and teacher from a file; where it has no decoder, the model keeps its own.

        Raises:
            ValueError: If the file cannot be used, or has other shapes than this model.
        """
        # Its configuration names these classes, so the file may.
        state = load_pretraining_state(path, [type(self.student), type(self.decoder), type(self.frontend)])
        own = ["clip_contrast."]  # whose head begins anew
        if not any(name.startswith("decoder.") for name in state):
            own.append("decoder.")
        state |= {name: tensor for name, tensor in self.state_dict().items() if name.startswith(tuple(own))}
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

    def stated_networks(self) -> dict[str, Rebuildable]:
        return {"encoder": self.student, "decoder": self.decoder, "frontend": self.frontend}
