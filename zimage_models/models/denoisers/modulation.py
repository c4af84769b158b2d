"""The scales and gates of a stack of blocks, which depend on the time that tokens are at.

Shape legend: B batch, M times, S sequence, D model width, T width of time embeddings, N blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from zimage_models.models.denoisers.block import join

_FACTORS = 4
"""Of a block: the scale and the gate of its attention, and those of its feed-forward."""


@dataclass(frozen=True, slots=True, eq=False)
class Modulation:
    """The scales and gates of a stack's blocks, with the weights of the norms that they follow."""

    factors: Tensor
    """float32 (N, 4, B or 1, M, D)."""
    is_noisy_BS1: Tensor | None = None
    """Which tokens take the factors of the first of two times; None where there is one."""

    def attention_scale(self, number: int) -> Tensor:
        """Return the scale before a block's attention; float32 (B or 1, 1 or S, D)."""
        return self._factor(number, 0)

    def gates_and_scale(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return a block's attention gate, and its feed-forward's scale and gate."""
        return self._factor(number, 1), self._factor(number, 2), self._factor(number, 3)

    def _factor(self, number: int, place: int) -> Tensor:
        factor = self.factors[number, place]
        if self.is_noisy_BS1 is None:
            return factor
        return torch.where(self.is_noisy_BS1, factor[:, :1], factor[:, 1:])


class Modulator:
    """Computes the modulation of all blocks of a stack from one product."""

    def __init__(self, blocks: Sequence[Any]) -> None:
        """Take over the weights of diffusers' blocks."""
        self._num_blocks = len(blocks)
        norms = [
            (block.attention_norm1, block.attention_norm2, block.ffn_norm1, block.ffn_norm2)
            for block in blocks
        ]
        # Made as what is computed later is: compiled blocks tell both kinds of tensors apart.
        with torch.inference_mode():
            self._norms = torch.stack(
                [torch.stack([norm.weight for norm in of_block]).float() for of_block in norms]
            )
        self._modulations: tuple[Tensor, Tensor] | None = None
        if blocks[0].modulation:
            linears = [block.adaLN_modulation[0] for block in blocks]
            self._modulations = join(linears), torch.cat([linear.bias for linear in linears])

    def __call__(self, times_BMT: Tensor | None = None, is_noisy_BS: Tensor | None = None) -> Modulation:
        """Compute the scales and gates of all blocks.

        Args:
            times_BMT: embedded times, one or two for each item; None for blocks without modulation.
            is_noisy_BS: which tokens are at the first of two times.
        """
        norms = self._norms[:, :, None, None]
        if self._modulations is None or times_BMT is None:
            return Modulation(norms)
        factors = functional.linear(times_BMT, *self._modulations).float()
        factors = factors.view(*times_BMT.shape[:2], self._num_blocks, _FACTORS, -1)
        factors = factors.permute(2, 3, 0, 1, 4)
        # As in ZImageTransformerBlock.forward: scales are around 1, gates within -1 .. 1.
        factors = torch.stack([factors[:, 0::2] + 1, factors[:, 1::2].tanh()], dim=2).flatten(1, 2) * norms
        return Modulation(factors, None if is_noisy_BS is None else is_noisy_BS[..., None])
