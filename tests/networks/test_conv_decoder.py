"""The decoder against its formula written out, its residuals and its messages."""

import pytest
import torch
import torch.nn.functional as F

from sslam.networks import ConvDecoder


def test_conv_decoder__matches_the_formula_written_out() -> None:
    decoder = ConvDecoder(width=32, decoder_width=48, depth=3, groups=16)
    tokens = torch.randn(2, 12 * 4, 32)
    grid = tokens.transpose(1, 2).reshape(2, 32, 12, 4).contiguous()
    for block in decoder.blocks:
        convolved = F.conv2d(grid, block[0].weight, block[0].bias, padding=1, groups=16)
        mean = convolved.mean(1, keepdim=True)
        variance = convolved.var(1, keepdim=True, unbiased=False)
        output = F.gelu((convolved - mean) / (variance + 1e-5).sqrt())
        # The first block changes the width and so has no residual.
        grid = output + grid if output.shape == grid.shape else output
    expected = grid.reshape(2, 48, 48).transpose(1, 2) @ decoder.projection.weight.T + decoder.projection.bias
    torch.testing.assert_close(decoder(tokens, (12, 4)), expected, rtol=1e-4, atol=1e-5)


def test_conv_decoder__columns_and_rows_are_not_swapped() -> None:
    decoder = ConvDecoder(width=16, decoder_width=16, depth=1)
    tokens = torch.zeros(1, 10 * 4, 16)
    changed = tokens.clone()
    changed[0, 5 * 4 + 1] = 1.0  # column 5, row 1
    differs = (decoder(tokens, (10, 4)) != decoder(changed, (10, 4))).any(-1)[0].view(10, 4)
    assert differs.nonzero().tolist() == [[column, row] for column in (4, 5, 6) for row in (0, 1, 2)]


def test_conv_decoder__sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd, so that the grid keeps its size, got 4"):
        ConvDecoder(kernel_size=4)
    with pytest.raises(ValueError, match="groups must divide width and decoder_width, got groups=16, width=24"):
        ConvDecoder(width=24)
