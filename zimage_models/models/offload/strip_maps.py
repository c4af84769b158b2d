"""What a VAE computes with the strips of its feature maps.

Shape legend: B batch, C channels, G groups of channels, H W height and width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Strips = list[Tensor]
"""A feature map from top to bottom, (B, C, H, W) each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StripMaps:
    """Computes on one device with feature maps that are kept on it or on another."""

    device: torch.device
    home: torch.device

    def cut(self, x_BCHW: Tensor, num_rows: int) -> Strips:
        """Cut a feature map into strips of so many rows; the last may have fewer."""
        return [strip.to(self.home) for strip in torch.split(x_BCHW, num_rows, dim=2)]

    def join(self, strips: Strips) -> Tensor:
        """Join strips to a feature map on the device."""
        return torch.cat([strip.to(self.device) for strip in strips], dim=2)

    def replace(self, strips: Strips, block: Any) -> None:
        """Replace the input of a ResnetBlock2D by its output, strip by strip."""
        hidden = list(
            self.convolved(strips, block.conv1, self.normed(block.norm1, block.nonlinearity, strips))
        )
        before = self.normed(block.norm2, block.nonlinearity, hidden)
        for number, change_BCHW in enumerate(self.convolved(hidden, block.conv2, before)):
            x_BCHW = strips[number].to(self.device)
            if block.conv_shortcut is not None:
                x_BCHW = block.conv_shortcut(x_BCHW)
            strips[number] = (x_BCHW + change_BCHW.to(self.device)).to(self.home)

    def convolved(
        self,
        strips: Strips,
        conv: nn.Conv2d,
        before: Callable[[Tensor], Tensor] | None = None,
        *,
        is_doubled: bool = False,
    ) -> Iterator[Tensor]:
        """Yield the strips after a convolution.

        Args:
            strips: its input.
            conv: with stride 2, it pads only on the right and below, as diffusers' Downsample2D does.
            before: what is computed first, value by value.
            is_doubled: whether the sides are doubled first, as in diffusers' Upsample2D.
        """
        above = 1 if conv.stride[0] == 1 else 0
        last = len(strips) - 1
        for number, strip in enumerate(strips):
            rows = [strip]
            if number and above:
                rows.insert(0, strips[number - 1][:, :, -1:])
            if number < last:
                rows.append(strips[number + 1][:, :, :1])
            x_BCHW = self.join(rows)
            if before:
                x_BCHW = before(x_BCHW)
            if is_doubled:
                # Of a neighbour's row, which is now two, the nearer one is seen.
                x_BCHW = functional.interpolate(x_BCHW, scale_factor=2.0, mode="nearest")
                x_BCHW = x_BCHW[:, :, 1 if number else 0 : -1 if number < last else None]
            padding = (0, 1 - above, 0 if number else above, 0 if number < last else 1)
            if any(padding):
                x_BCHW = functional.pad(x_BCHW, padding)
            convolved = functional.conv2d(x_BCHW, conv.weight, conv.bias, conv.stride, padding=(0, above))
            yield convolved.to(self.home)

    def normed(
        self, norm: nn.GroupNorm, activation: Callable[[Tensor], Tensor], strips: Strips
    ) -> Callable[[Tensor], Tensor]:
        """Return a function from a part of a feature map to its norm, with the moments of the whole map."""
        num_rows = sum(strip.shape[2] for strip in strips)
        moments = []
        for strip in strips:
            values_BGN = strip.to(self.device).float().reshape(len(strip), norm.num_groups, -1)
            variance_BG, mean_BG = torch.var_mean(values_BGN, dim=2, correction=0)
            of_strip = torch.stack([mean_BG, variance_BG + mean_BG**2]).double()
            moments.append(of_strip * (strip.shape[2] / num_rows))
        mean_BG, square_BG = torch.stack(moments).sum(0)
        inverse_BG = torch.rsqrt(square_BG - mean_BG**2 + norm.eps)
        of_group = norm.num_channels // norm.num_groups
        scale_BC = inverse_BG.repeat_interleave(of_group, 1) * norm.weight
        shift_BC = norm.bias - mean_BG.repeat_interleave(of_group, 1) * scale_BC
        scale_BC11, shift_BC11 = (both.float()[:, :, None, None] for both in (scale_BC, shift_BC))

        def apply(x_BCHW: Tensor) -> Tensor:
            return activation(torch.addcmul(shift_BC11, x_BCHW, scale_BC11).to(x_BCHW.dtype))

        return apply
