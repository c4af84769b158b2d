"""The functions of :mod:`.block_ops` as Triton kernels, each one pass over the tokens.

Prototypes of them, in a step of 4160 tokens on an H100: queries and keys took 1.5 ms instead of the 5.3 of
the compiler's kernels, residuals and norms 2.7 instead of 3.4. These themselves have not run on a GPU yet.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 32
"""Heads of a program that turns queries and keys."""


@triton.jit
def _store_scaled_norm(x, scale, out, columns, is_inside, eps, WIDTH: tl.constexpr):
    inverse = tl.rsqrt(tl.sum(x * x, 0) / WIDTH + eps)
    factors = tl.load(scale + columns, mask=is_inside, other=0.0)
    tl.store(out + columns, (x * inverse * factors).to(out.dtype.element_ty), mask=is_inside)


@triton.jit
def _scaled_norm(
    x, scale, out, length, scale_item, scale_token, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    item, place = token // length, token % length
    columns = tl.arange(0, BLOCK)
    is_inside = columns < WIDTH
    values = tl.load(x + token * WIDTH + columns, mask=is_inside, other=0.0).to(tl.float32)
    scale += item * scale_item + place * scale_token
    _store_scaled_norm(values, scale, out + token * WIDTH, columns, is_inside, eps, WIDTH)


@triton.jit
def _gated_residual(
    x, output, gate, scale, sum_out, norm_out, length, gate_item, gate_token, scale_item, scale_token, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, HAS_NEXT: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    item, place = token // length, token % length
    columns = tl.arange(0, BLOCK)
    is_inside = columns < WIDTH
    at = token * WIDTH + columns
    made = tl.load(output + at, mask=is_inside, other=0.0).to(tl.float32)
    inverse = tl.rsqrt(tl.sum(made * made, 0) / WIDTH + eps)
    gates = tl.load(gate + item * gate_item + place * gate_token + columns, mask=is_inside, other=0.0)
    values = tl.load(x + at, mask=is_inside, other=0.0).to(tl.float32) + gates * (made * inverse)
    # As the next block will read it.
    rounded = values.to(sum_out.dtype.element_ty)
    tl.store(sum_out + at, rounded, mask=is_inside)
    if HAS_NEXT:
        scale += item * scale_item + place * scale_token
        _store_scaled_norm(
            rounded.to(tl.float32), scale, norm_out + token * WIDTH, columns, is_inside, eps, WIDTH
        )


@triton.jit
def _rotate(
    qkv, weight, rotary, queries, keys, rows, length, rotary_item, eps,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    which = tl.program_id(1)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    is_inside = row < rows
    token, head = row // HEADS, row % HEADS
    item, place = token // length, token % length
    channels, pairs = tl.arange(0, CHANNELS), tl.arange(0, CHANNELS // 2)
    at = token * (3 * HEADS * CHANNELS) + (which * HEADS + head) * CHANNELS
    x = tl.load(qkv + at[:, None] + channels[None, :], mask=is_inside[:, None], other=0.0).to(tl.float32)
    inverse = tl.rsqrt(tl.sum(x * x, 1) / CHANNELS + eps)
    x = x * inverse[:, None] * tl.load(weight + which * CHANNELS + channels)[None, :]
    first, second = tl.split(tl.reshape(x, (ROWS, CHANNELS // 2, 2)))
    angle = rotary + (item * rotary_item + place * CHANNELS)[:, None] + 2 * pairs[None, :]
    cosine = tl.load(angle, mask=is_inside[:, None], other=0.0)
    sine = tl.load(angle + 1, mask=is_inside[:, None], other=0.0)
    turned = tl.join(first * cosine - second * sine, first * sine + second * cosine)
    out = (queries if which == 0 else keys) + row[:, None] * CHANNELS + channels[None, :]
    tl.store(out, tl.reshape(turned, (ROWS, CHANNELS)).to(queries.dtype.element_ty), mask=is_inside[:, None])


@triton.jit
def _gated_silu(hidden, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_inside = columns < WIDTH
    at = hidden + token * (2 * WIDTH) + columns
    gate = tl.load(at, mask=is_inside, other=0.0).to(tl.float32)
    up = tl.load(at + WIDTH, mask=is_inside, other=0.0).to(tl.float32)
    made = gate * tl.sigmoid(gate) * up
    tl.store(out + token * WIDTH + columns, made.to(out.dtype.element_ty), mask=is_inside)


def scaled_norm(x_BSD: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Do as :func:`.block_ops.scaled_norm` does."""
    batch, length, width = x_BSD.shape
    x_BSD, out_BSD = x_BSD.contiguous(), torch.empty_like(x_BSD, memory_format=torch.contiguous_format)
    scale_item, scale_token = _strides(scale)
    _scaled_norm[(batch * length,)](
        x_BSD, scale, out_BSD, length, scale_item, scale_token, eps,
        WIDTH=width, BLOCK=triton.next_power_of_2(width), num_warps=8,
    )  # fmt: skip
    return out_BSD


def gated_residual(
    x_BSD: Tensor, output_BSD: Tensor, gate: Tensor, next_scale: Tensor | None, eps: float
) -> tuple[Tensor, Tensor | None]:
    """Do as :func:`.block_ops.gated_residual` does."""
    batch, length, width = x_BSD.shape
    x_BSD, output_BSD = x_BSD.contiguous(), output_BSD.contiguous()
    sum_BSD = torch.empty_like(x_BSD)
    normed_BSD = None if next_scale is None else torch.empty_like(x_BSD)
    gate_item, gate_token = _strides(gate)
    scale_item, scale_token = (0, 0) if next_scale is None else _strides(next_scale)
    # Without a next scale, the kernel reads and writes neither of the two in its place.
    _gated_residual[(batch * length,)](
        x_BSD, output_BSD, gate, gate if next_scale is None else next_scale,
        sum_BSD, sum_BSD if normed_BSD is None else normed_BSD,
        length, gate_item, gate_token, scale_item, scale_token, eps,
        WIDTH=width, BLOCK=triton.next_power_of_2(width), HAS_NEXT=next_scale is not None, num_warps=8,
    )  # fmt: skip
    return sum_BSD, normed_BSD


def rotated_queries_and_keys(
    qkv_BS3HC: Tensor, norm_weight_2C: Tensor, rotary_BSC2: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Do as :func:`.block_ops.rotated_queries_and_keys` does; C must be a power of two."""
    batch, length, _, heads, channels = qkv_BS3HC.shape
    qkv_BS3HC, rotary_BSC2 = qkv_BS3HC.contiguous(), rotary_BSC2.contiguous()
    queries = qkv_BS3HC.new_empty(batch, length, heads, channels)
    keys = torch.empty_like(queries)
    num_rows = batch * length * heads
    _rotate[(triton.cdiv(num_rows, _ROWS), 2)](
        qkv_BS3HC, norm_weight_2C, rotary_BSC2, queries, keys,
        num_rows, length, 0 if len(rotary_BSC2) == 1 else length * channels, eps,
        HEADS=heads, CHANNELS=channels, ROWS=_ROWS, num_warps=4,
    )  # fmt: skip
    return queries, keys


def gated_silu(gate_and_up_BSF: Tensor) -> Tensor:
    """Do as :func:`.block_ops.gated_silu` does."""
    hidden = gate_and_up_BSF.contiguous()
    batch, length, width = *hidden.shape[:2], hidden.shape[2] // 2
    out_BSF = hidden.new_empty(batch, length, width)
    block = min(triton.next_power_of_2(width), 4096)
    _gated_silu[(batch * length, triton.cdiv(width, block))](
        hidden, out_BSF, WIDTH=width, BLOCK=block, num_warps=8
    )
    return out_BSF


def _strides(factors: Tensor) -> tuple[int, int]:
    """Return how far apart the factors of items and of tokens are; 0 where all share them."""
    items, tokens, _ = factors.shape
    assert factors.stride(-1) == 1
    return (0 if items == 1 else factors.stride(0)), (0 if tokens == 1 else factors.stride(1))
