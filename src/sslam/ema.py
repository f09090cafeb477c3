"""The teacher: a slowly moving copy of the student that gives the targets. It is part of the method, not a callback.

Shape letters: B clips, P patches, D width.
"""

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslam.networks.audio_vit import AudioViT, instance_norm_over_tokens


def ema_decay_at(step: int, start: float, end: float, anneal_steps: int) -> float:
    """Decay of the teacher after ``step`` optimizer steps: linear from ``start`` to ``end``, then constant."""
    return end if step >= anneal_steps else start + (end - start) * step / anneal_steps


class TeacherTargets(NamedTuple):
    """Latent targets of the patches for either loss, float32, normalised over D, and what they were made from.

    Attributes:
        patch_BPD: Targets of the patch loss, shape (B, P, D).
        cls_BPD: Targets of the CLS loss, shape (B, P, D).
        embedded_BPD: Embedded patches, shape (B, P, D), which need not be embedded again for another selection.
    """

    patch_BPD: Tensor
    cls_BPD: Tensor
    embedded_BPD: Tensor


class EMATeacher(nn.Module):
    """Exponential moving average of an encoder: evaluation mode, float32, no gradient, storage of its own.

    Args:
        encoder: Student, which is copied.
    """

    def __init__(self, encoder: AudioViT) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).float().requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "EMATeacher":
        # The trainer puts the whole module into training mode; the teacher never drops a path.
        return super().train(False)

    @torch.no_grad()
    def update(self, student: nn.Module, decay: float) -> None:
        """Move every parameter by ``1 - decay`` of its way to the student's; call once per optimizer step."""
        teacher_parameters: list[Tensor] = list(self.encoder.parameters())
        student_parameters = [parameter.detach().float() for parameter in student.parameters()]
        torch._foreach_lerp_(teacher_parameters, student_parameters, 1.0 - decay)

    @torch.no_grad()
    def forward(
        self, patches_BPD: Tensor, cls_target_layers: int | None = None, patch_target_layers: int | None = None
    ) -> TeacherTargets:
        """Targets of any selection of embedded patches.

        A layer's target is its MLP output of the patch tokens, instance-normalised over the tokens. The layers'
        targets are averaged as they come, so that no more than one layer is in memory, and the average is normalised
        over D (LayerNorm without affine parameters).

        Args:
            patches_BPD: Patches from the teacher's own ``embed``, shape (B, P, D).
            cls_target_layers: Number of last layers that the CLS targets average; None for all.
            patch_target_layers: Number of last layers that the patch targets average; None for all.
        """
        depth = self.encoder.depth
        first_layers = [0 if number is None else depth - number for number in (patch_target_layers, cls_target_layers)]
        before: dict[int, Tensor] = {}  # sums of the layers below each first one
        tokens_BPD = self.encoder.prepare_tokens(patches_BPD)
        total_BPD = torch.zeros_like(patches_BPD, dtype=torch.float32)
        for layer, block in enumerate(self.encoder.blocks):
            if layer in first_layers:
                before[layer] = total_BPD
            tokens_BPD, mlp_output_BPD = block(tokens_BPD)
            total_BPD = total_BPD + instance_norm_over_tokens(mlp_output_BPD[:, 1:])
        targets = {
            first: F.layer_norm((total_BPD - below_BPD) / (depth - first), (self.encoder.width,))
            for first, below_BPD in before.items()
        }
        patch_BPD, cls_BPD = (targets[first] for first in first_layers)
        return TeacherTargets(patch_BPD, cls_BPD, patches_BPD)
