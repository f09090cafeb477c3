"""Target of the source retention loss (SSLAM sec. 3.3).

Shape letters: B clips, T columns, R rows of the grid (P = T * R patches), D width.
"""

from torch import Tensor


def source_retention_target(own_BPD: Tensor, partner_BQD: Tensor, mixed_columns: Tensor, num_rows: int) -> Tensor:
    """What the student must find in a partial mixture: the mean of its two sources' latents where both sound.

    The partner's latents stand in for the clip's own ones at the mixed columns of a copy; the target is the mean of the
    own latents and that copy, so at unmixed columns it equals the own latents. It is not normalised again.

    Args:
        own_BPD: Latents of the unmixed clip, shape (B, P, D).
        partner_BQD: Latents of the partner alone, encoded from the patches of the mixed columns only, shape
            (B, number of mixed columns * R, D).
        mixed_columns: Columns in which both clips sound, ascending, int64.
        num_rows: Number R of patches in a column.

    Returns:
        Target, shape (B, P, D).
    """
    target_BTRD = own_BPD.unflatten(1, (-1, num_rows)).clone()
    target_BTRD[:, mixed_columns] = 0.5 * (target_BTRD[:, mixed_columns] + partner_BQD.unflatten(1, (-1, num_rows)))
    return target_BTRD.flatten(1, 2)
