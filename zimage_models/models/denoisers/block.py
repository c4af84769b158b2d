"""One block of a Z-Image transformer, with fewer and larger matrix products than diffusers' module.

Queries, keys and values come from one product, as do the two inputs of the feed-forward. A block's last norm
is taken together with the next one's first. The weights are those of the module, which keeps views of them,
so a block takes no further memory. Inputs of layers in float8 (:class:`.Fp8Linear`) are rounded where they
are made.

Shape legend: B batch, S sequence, D model width, C channels of a head.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zimage_models.models.denoisers.block_ops import kernels_or_plain
from zimage_models.models.denoisers.fp8_linear import Fp8Linear, Fp8Rows

ALL = slice(None)
"""All tokens."""


class Block(nn.Module):
    """One block, from tokens and their scaled norm to those for the next block."""

    def __init__(self, block: Any, device: torch.device | None = None) -> None:
        """Take over a block's weights.

        Args:
            block: one of diffusers' blocks.
            device: where it will run; None for the one that its weights are on.
        """
        super().__init__()
        attention, feed_forward = block.attention, block.feed_forward
        self.qkv = join_layers([attention.to_q, attention.to_k, attention.to_v])
        self.gate_and_up = join_layers([feed_forward.w1, feed_forward.w3])
        # Called as modules: over several ranks, their outputs are summed.
        self.out = attention.to_out[0]
        self.down = feed_forward.w2
        self.qk_norm = torch.stack([attention.norm_q.weight, attention.norm_k.weight]).float()
        self.qk_eps: float = attention.norm_q.eps
        self.eps: float = block.attention_norm1.eps
        num_channels = attention.norm_q.weight.numel()
        self.head_shape = (3, len(self.qkv.weight) // 3 // num_channels, num_channels)
        self.fp8 = isinstance(self.qkv, Fp8Linear)
        self.ops = kernels_or_plain(device or self.qkv.weight.device, num_channels, fp8=self.fp8)

    def forward(
        self,
        x_BSD: Tensor,
        normed_BSD: Tensor | Fp8Rows,
        rotary_BSC2: Tensor,
        attention_gate: Tensor,
        feed_forward_scale: Tensor,
        feed_forward_gate: Tensor,
        next_scale: Tensor | None,
        read: slice = ALL,
    ) -> tuple[Tensor, Tensor | Fp8Rows | None]:
        """Run the block.

        Args:
            x_BSD: the tokens that are read (all by default).
            normed_BSD: all tokens, after the first norm and its scale; in float8 for layers in float8.
            rotary_BSC2: cosine and sine of each token's turns, (B or 1, S, C / 2, 2) float32.
            attention_gate: this and the next two: of the tokens that are read, float32.
            feed_forward_scale: before the feed-forward.
            feed_forward_gate: after it.
            next_scale: of the next block's first norm; None for the last block.
            read: which tokens are read of this block.

        Returns:
            The tokens that are read, and the same after the next block's first norm and its scale.
        """
        qkv = self.qkv(normed_BSD).unflatten(-1, self.head_shape)
        queries, keys = self.ops.rotated_queries_and_keys(qkv, self.qk_norm, rotary_BSC2, self.qk_eps)
        attended = functional.scaled_dot_product_attention(
            queries[:, read].transpose(1, 2), keys.transpose(1, 2), qkv[:, :, 2].transpose(1, 2)
        )
        # Without them, the feed-forward needs less memory beside it.
        del qkv, queries, keys
        attended = attended.transpose(1, 2).flatten(2)
        output_BSD = self.out(self.ops.to_fp8(attended) if self.fp8 else attended)
        del attended
        x_BSD, normed = self.ops.gated_residual(
            x_BSD, output_BSD, attention_gate, feed_forward_scale, self.eps, fp8=self.fp8
        )
        output_BSD = self.down(self.ops.gated_silu(self.gate_and_up(normed), fp8=self.fp8))
        after: tuple[Tensor, Tensor | Fp8Rows | None] = self.ops.gated_residual(
            x_BSD, output_BSD, feed_forward_gate, next_scale, self.eps, fp8=self.fp8
        )
        return after


def join_layers(linears: Sequence[Any]) -> nn.Linear | Fp8Linear:
    """Make one of linear layers without biases and with the same inputs; they keep views of its weight."""
    weight, first = join(linears), linears[0]
    if isinstance(first, Fp8Linear):
        return Fp8Linear(weight, join(linears, "scales"), first.dtype)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


def join(linears: Sequence[Any], name: str = "weight") -> Tensor:
    """Join the weights of linear layers with the same inputs into one; the layers keep views of it."""
    weights = [getattr(linear, name) for linear in linears]
    joined = torch.cat([weight.detach() for weight in weights])
    parts = torch.split(joined, [len(weight) for weight in weights])
    for weight, part in zip(weights, parts, strict=True):
        weight.data = part
    return joined
