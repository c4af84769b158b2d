"""One block of a Z-Image transformer, with fewer and larger matrix products than diffusers' module.

Queries, keys and values come from one product, as do the two inputs of the feed-forward. A block's last norm
is taken together with the next one's first. The weights are those of the module, which keeps views of them,
so a block takes no further memory.

Shape legend: B batch, S sequence, D model width, C channels of a head.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zimage_models.models.denoisers.block_ops import kernels_or_plain

ALL = slice(None)
"""All tokens."""


class Block(nn.Module):
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
        """Run the block.

        Args:
            x_BSD: the tokens that are read (all by default).
            normed_BSD: all tokens, after the first norm and its scale.
            rotary_BSC2: cosine and sine of each token's turns, (B or 1, S, C / 2, 2) float32.
            attention_gate: this and the next two: of the tokens that are read, float32.
            feed_forward_scale: before the feed-forward.
            feed_forward_gate: after it.
            next_scale: of the next block's first norm; None for the last block.
            read: which tokens are read of this block.

        Returns:
            The tokens that are read, and the same after the next block's first norm and its scale.
        """
        qkv = functional.linear(normed_BSD, self.qkv).view(*normed_BSD.shape[:2], *self.head_shape)
        queries, keys = self.ops.rotated_queries_and_keys(qkv, self.qk_norm, rotary_BSC2, self.qk_eps)
        attended = functional.scaled_dot_product_attention(
            queries[:, read].transpose(1, 2), keys.transpose(1, 2), qkv[:, :, 2].transpose(1, 2)
        )
        # Without them, the feed-forward needs less memory beside it.
        del qkv, queries, keys
        output_BSD = self.out(attended.transpose(1, 2).flatten(2))
        del attended
        x_BSD, normed = self.ops.gated_residual(
            x_BSD, output_BSD, attention_gate, feed_forward_scale, self.eps
        )
        output_BSD = self.down(self.ops.gated_silu(functional.linear(normed, self.gate_and_up)))
        after: tuple[Tensor, Tensor | None] = self.ops.gated_residual(
            x_BSD, output_BSD, feed_forward_gate, next_scale, self.eps
        )
        return after


def join(linears: Sequence[Any]) -> Tensor:
    """Join the weights of linear layers with the same inputs into one; the layers keep views of it."""
    joined = torch.cat([linear.weight.detach() for linear in linears])
    parts = torch.split(joined, [len(linear.weight) for linear in linears])
    for linear, part in zip(linears, parts, strict=True):
        linear.weight.data = part
    return joined
