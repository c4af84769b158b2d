"""A stack of a Z-Image transformer's blocks, with fewer and larger products than diffusers' modules.

Queries, keys and values come from one product, as do the two inputs of a feed-forward, and the modulation of
all blocks. A block's last norm is taken together with the next one's first. The weights are those of the
modules, which keep views of them, so a stack takes no further memory.

Shape legend: B batch, S sequence, D model width, T width of time embeddings, N blocks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zimage_models.models.denoisers.block_ops import kernels_or_plain

ALL = slice(None)
"""All tokens."""
_MAX_COMPILED_FORMS = 32
"""Of a block: with or without modulation, of one time or two, one image or more, one length or any."""
_FACTORS = 4
"""Of a block: the scale and the gate of its attention, and those of its feed-forward."""


@dataclass(frozen=True, slots=True, eq=False)
class Modulation:
    """The scales and gates of a stack's blocks, with the weights of the norms that they follow."""

    factors: Tensor
    """float32 (N, 4, B or 1, times, D)."""
    is_noisy_BS1: Tensor | None = None
    """Which tokens take the factors of the first of two times; None where there is one."""

    def of(self, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return a block's attention scale, attention gate, feed-forward scale and gate."""
        factors = self.factors[number]
        if self.is_noisy_BS1 is not None:
            factors = torch.where(self.is_noisy_BS1, factors[:, :, :1], factors[:, :, 1:])
        return factors[0], factors[1], factors[2], factors[3]


class _Block(nn.Module):
    """One block, from tokens and their scaled norm to those for the next block."""

    def __init__(self, block: Any) -> None:
        """Take over a block's weights."""
        super().__init__()
        attention, feed_forward = block.attention, block.feed_forward
        self.qkv = join([attention.to_q, attention.to_k, attention.to_v])
        self.gate_and_up = join([feed_forward.w1, feed_forward.w3])
        # Called as modules: over several ranks, their outputs are summed.
        self.out = attention.to_out[0]
        self.down = feed_forward.w2
        self.qk_norm = torch.stack([attention.norm_q.weight, attention.norm_k.weight]).float()
        self.qk_eps: float = attention.norm_q.eps
        self.eps: float = block.attention_norm1.eps
        num_channels = attention.norm_q.weight.numel()
        self.head_shape = (3, len(self.qkv) // 3 // num_channels, num_channels)
        self.ops = kernels_or_plain(self.qkv.device, num_channels)

    def forward(
        self,
        x_BSD: Tensor,
        normed_BSD: Tensor,
        rotary_BSC2: Tensor,
        attention_gate: Tensor,
        feed_forward_scale: Tensor,
        feed_forward_gate: Tensor,
        next_scale: Tensor | None,
        read: slice = ALL,
    ) -> tuple[Tensor, Tensor | None]:
        qkv = functional.linear(normed_BSD, self.qkv).view(*normed_BSD.shape[:2], *self.head_shape)
        queries, keys = self.ops.rotated_queries_and_keys(qkv, self.qk_norm, rotary_BSC2, self.qk_eps)
        attended = functional.scaled_dot_product_attention(
            queries[:, read].transpose(1, 2), keys.transpose(1, 2), qkv[:, :, 2].transpose(1, 2)
        )
        output_BSD = self.out(attended.transpose(1, 2).flatten(2))
        x_BSD, normed = self.ops.gated_residual(
            x_BSD, output_BSD, attention_gate, feed_forward_scale, self.eps
        )
        output_BSD = self.down(self.ops.gated_silu(functional.linear(normed, self.gate_and_up)))
        after: tuple[Tensor, Tensor | None] = self.ops.gated_residual(
            x_BSD, output_BSD, feed_forward_gate, next_scale, self.eps
        )
        return after


class BlockStack:
    """Runs blocks of one kind, one after the other."""

    def __init__(self, blocks: Sequence[Any]) -> None:
        """Take over the weights of diffusers' blocks (ZImageTransformerBlock, or a ControlNet's)."""
        self._blocks = [_Block(block) for block in blocks]
        self._ops = self._blocks[0].ops
        self._is_compiled = False
        self._eps = self._blocks[0].eps
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

    def compile(self, *, backend: str) -> None:
        """Compile the blocks, which share their compiled forms."""
        self._is_compiled = True
        for block in self._blocks:
            block.compile(fullgraph=True, backend=backend)

    def modulation(self, times_BMT: Tensor | None = None, is_noisy_BS: Tensor | None = None) -> Modulation:
        """Compute the scales and gates of all blocks.

        Args:
            times_BMT: embedded times, one or two for each item; None for blocks without modulation.
            is_noisy_BS: which tokens are at the first of two times.
        """
        norms = self._norms[:, :, None, None]
        if self._modulations is None or times_BMT is None:
            return Modulation(norms)
        factors = functional.linear(times_BMT, *self._modulations).float()
        factors = factors.view(*times_BMT.shape[:2], len(self._blocks), _FACTORS, -1)
        factors = factors.permute(2, 3, 0, 1, 4)
        # As in ZImageTransformerBlock.forward: scales are around 1, gates within -1 .. 1.
        factors = torch.stack([factors[:, 0::2] + 1, factors[:, 1::2].tanh()], dim=2).flatten(1, 2) * norms
        return Modulation(factors, None if is_noisy_BS is None else is_noisy_BS[..., None])

    def run(
        self,
        x_BSD: Tensor,
        rotary_BSC2: Tensor,
        modulation: Modulation,
        *,
        add: Callable[[int], Tensor | None] | None = None,
        read: slice = ALL,
    ) -> Tensor:
        """Return the tokens after all blocks, or those that are read; arguments are those of :meth:`each`."""
        *_, x_BSD = self.each(x_BSD, rotary_BSC2, modulation, add=add, read=read)
        return x_BSD

    def each(
        self,
        x_BSD: Tensor,
        rotary_BSC2: Tensor,
        modulation: Modulation,
        *,
        add: Callable[[int], Tensor | None] | None = None,
        read: slice = ALL,
    ) -> Iterator[Tensor]:
        """Yield the tokens after each block.

        Args:
            x_BSD: the tokens before the first block.
            rotary_BSC2: cosine and sine of each token's turns, (B or 1, S, C / 2, 2) float32.
            modulation: of these blocks.
            add: returns what is added to the tokens after a block, by the block's number.
            read: which tokens are wanted of the last block; it computes the others only as keys and values.
        """
        if self._is_compiled:
            # Past this limit, a compiled block raises instead of running slowly. The limit is this thread's:
            # engines run in another than the one that loads them.
            torch._dynamo.config.recompile_limit = _MAX_COMPILED_FORMS
        factors = modulation.of(0)
        normed_BSD: Tensor | None = self._ops.scaled_norm(x_BSD, factors[0], self._eps)
        for number, block in enumerate(self._blocks):
            is_last = number + 1 == len(self._blocks)
            following = None if is_last else modulation.of(number + 1)
            next_scale = following[0] if following else None
            part = read if is_last else ALL
            if self._is_compiled:
                # One form for all blocks, and for whatever is read.
                next_scale, part = (following or factors)[0], ALL
            in_part = [f[:, part] if f.shape[1] > 1 else f for f in factors[1:]]
            x_BSD, normed_BSD = block(x_BSD[:, part], normed_BSD, rotary_BSC2, *in_part, next_scale, part)
            added_BSD = add(number) if add else None
            if added_BSD is not None:
                x_BSD = x_BSD + added_BSD[:, part]
                normed_BSD = (
                    None if next_scale is None else self._ops.scaled_norm(x_BSD, next_scale, self._eps)
                )
            yield x_BSD[:, read] if is_last and self._is_compiled else x_BSD
            factors = following or factors


def join(linears: Sequence[Any]) -> Tensor:
    """Join the weights of linear layers with the same inputs into one; the layers keep views of it."""
    joined = torch.cat([linear.weight.detach() for linear in linears])
    parts = torch.split(joined, [len(linear.weight) for linear in linears])
    for linear, part in zip(linears, parts, strict=True):
        linear.weight.data = part
    return joined
