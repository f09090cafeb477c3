"""Losses of masked latent bootstrapping (EAT sec. 3; the loss terms of SSLAM's second stage have the same form).

Shape letters: B clips, K clones, P patches, D width.
"""

from torch import Tensor


def scaled_squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """``sum over D of (prediction - target)^2 / sqrt(D)`` in float32: (..., D) to (...); the target has no gradient."""
    error = prediction.float() - target.detach().float()
    return error.square().sum(dim=-1) / error.shape[-1] ** 0.5


def masked_latent_loss(prediction_BKPD: Tensor, target_BPD: Tensor, masked_BKP: Tensor) -> Tensor:
    """Error of the predicted latents, summed over the masked patches of every clone.

    Args:
        prediction_BKPD: Decoder output, shape (B, K, P, D).
        target_BPD: Latents of the teacher, shape (B, P, D); the clones of a clip share them.
        masked_BKP: Mask that is True where the student did not see the patch, shape (B, K, P).

    Returns:
        Scalar sum; the method divides by the number of masked tokens.

    Raises:
        ValueError: If the shapes do not fit.
    """
    clips, clones, patches, width = prediction_BKPD.shape
    if target_BPD.shape != (clips, patches, width) or masked_BKP.shape != (clips, clones, patches):
        raise ValueError(
            f"Predictions {tuple(prediction_BKPD.shape)} need a target {(clips, patches, width)} and a mask "
            f"{(clips, clones, patches)}, got {tuple(target_BPD.shape)} and {tuple(masked_BKP.shape)}."
        )
    # Over all patches with a mask rather than gathering: nothing is repeated per clone, and no shape depends on data.
    return (scaled_squared_error(prediction_BKPD, target_BPD[:, None]) * masked_BKP).sum()


def cls_loss(cls_BKD: Tensor, target_BPD: Tensor) -> Tensor:
    """Error between the student's CLS token and the mean of its clip's latents over the patches.

    Args:
        cls_BKD: CLS output of the student, shape (B, K, D); no head in between.
        target_BPD: Latents of the teacher, shape (B, P, D).

    Returns:
        One value per clone, shape (B, K).
    """
    return scaled_squared_error(cls_BKD, target_BPD.float().mean(dim=1)[:, None])
