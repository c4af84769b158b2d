"""The functions of :mod:`.block_ops` as Triton kernels, each one pass over the tokens.

Prototypes of them, in a step of 4160 tokens on an H100: queries and keys took 1.5 ms instead of the 5.3 of
the compiler's kernels, residuals and norms 2.7 instead of 3.4. These themselves have not run on a GPU yet.

With ``IS_FP8`` they round what they store to float8, each row by its own scale; without it, they do not touch
the place of the scales.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from zimage_models.models.denoisers.fp8_linear import FP8, FP8_MAX, SMALLEST, Fp8Rows

_ROWS = 32
"""Heads of a program that turns queries and keys."""
_FP8_MAX, _SMALLEST = tl.constexpr(FP8_MAX), tl.constexpr(SMALLEST)


@triton.jit
def _store_row(
    x, out, out_scales, row, columns, is_inside, WIDTH: tl.constexpr, IS_FP8: tl.constexpr
):  # fmt: skip
    if IS_FP8:
        factor = tl.maximum(tl.max(tl.abs(x), 0), _SMALLEST) / _FP8_MAX
        tl.store(out_scales + row, factor)
        x = x / factor
    tl.store(out + row * WIDTH + columns, x.to(out.dtype.element_ty), mask=is_inside)


@triton.jit
def _store_scaled_norm(
    x, scale, out, out_scales, row, columns, is_inside, eps, WIDTH: tl.constexpr, IS_FP8: tl.constexpr
):
    inverse = tl.rsqrt(tl.sum(x * x, 0) / WIDTH + eps)
    factors = tl.load(scale + columns, mask=is_inside, other=0.0)
    _store_row(x * inverse * factors, out, out_scales, row, columns, is_inside, WIDTH, IS_FP8)


@triton.jit
def _scaled_norm(
    x, scale, out, out_scales, length, scale_item, scale_token, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, IS_FP8: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    item, place = token // length, token % length
    columns = tl.arange(0, BLOCK)
    is_inside = columns < WIDTH
    values = tl.load(x + token * WIDTH + columns, mask=is_inside, other=0.0).to(tl.float32)
    scale += item * scale_item + place * scale_token
    _store_scaled_norm(values, scale, out, out_scales, token, columns, is_inside, eps, WIDTH, IS_FP8)


@triton.jit
def _gated_residual(
    x, output, gate, scale, sum_out, norm_out, out_scales, length,
    gate_item, gate_token, scale_item, scale_token, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, HAS_NEXT: tl.constexpr, IS_FP8: tl.constexpr,
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
            rounded.to(tl.float32), scale, norm_out, out_scales, token, columns, is_inside, eps, WIDTH, IS_FP8
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
def _gated_silu(hidden, out, out_scales, WIDTH: tl.constexpr, BLOCK: tl.constexpr, IS_FP8: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_inside = columns < WIDTH
    at = hidden + token * (2 * WIDTH) + columns
    gate = tl.load(at, mask=is_inside, other=0.0).to(tl.float32)
    up = tl.load(at + WIDTH, mask=is_inside, other=0.0).to(tl.float32)
    made = gate * tl.sigmoid(gate) * up
    _store_row(made, out, out_scales, token, columns, is_inside, WIDTH, IS_FP8)


@triton.jit
def _to_fp8(x, out, out_scales, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    is_inside = columns < WIDTH
    values = tl.load(x + row * WIDTH + columns, mask=is_inside, other=0.0).to(tl.float32)
    _store_row(values, out, out_scales, row, columns, is_inside, WIDTH, True)


def to_fp8(x_BSK: Tensor) -> Fp8Rows:
    """Do as :func:`.block_ops.to_fp8` does."""
    x_BSK = x_BSK.contiguous()
    batch, length, width = x_BSK.shape
    rows = _room(x_BSK, width)
    _to_fp8[(batch * length,)](x_BSK, *rows, WIDTH=width, BLOCK=triton.next_power_of_2(width), num_warps=8)
    return rows


def scaled_norm(x_BSD: Tensor, scale: Tensor, eps: float, *, fp8: bool = False) -> Tensor | Fp8Rows:
    """Do as :func:`.block_ops.scaled_norm` does."""
    x_BSD = x_BSD.contiguous()
    batch, length, width = x_BSD.shape
    normed = _room(x_BSD, width) if fp8 else torch.empty_like(x_BSD)
    scale_item, scale_token = _strides(scale)
    _scaled_norm[(batch * length,)](
        x_BSD, scale, *_places(normed, scale), length, scale_item, scale_token, eps,
        WIDTH=width, BLOCK=triton.next_power_of_2(width), IS_FP8=fp8, num_warps=8,
    )  # fmt: skip
    return normed


def gated_residual(
    x_BSD: Tensor,
    output_BSD: Tensor,
    gate: Tensor,
    next_scale: Tensor | None,
    eps: float,
    *,
    fp8: bool = False,
) -> tuple[Tensor, Tensor | Fp8Rows | None]:
    """Do as :func:`.block_ops.gated_residual` does."""
    x_BSD, output_BSD = x_BSD.contiguous(), output_BSD.contiguous()
    batch, length, width = x_BSD.shape
    sum_BSD = torch.empty_like(x_BSD)
    # Without a next scale, the kernel reads and writes nothing in these places.
    scale = gate if next_scale is None else next_scale
    normed = sum_BSD if next_scale is None else _room(x_BSD, width) if fp8 else torch.empty_like(x_BSD)
    _gated_residual[(batch * length,)](
        x_BSD, output_BSD, gate, scale, sum_BSD, *_places(normed, scale),
        length, *_strides(gate), *_strides(scale), eps,
        WIDTH=width, BLOCK=triton.next_power_of_2(width), HAS_NEXT=next_scale is not None, IS_FP8=fp8,
        num_warps=8,
    )  # fmt: skip
    return sum_BSD, None if next_scale is None else normed


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


def gated_silu(gate_and_up_BSF: Tensor, *, fp8: bool = False) -> Tensor | Fp8Rows:
    """Do as :func:`.block_ops.gated_silu` does."""
    hidden = gate_and_up_BSF.contiguous()
    batch, length, width = *hidden.shape[:2], hidden.shape[2] // 2
    made = _room(hidden, width) if fp8 else hidden.new_empty(batch, length, width)
    # A row in float8 is of one program, which finds its largest value.
    block = triton.next_power_of_2(width) if fp8 else min(triton.next_power_of_2(width), 4096)
    _gated_silu[(batch * length, triton.cdiv(width, block))](
        hidden, *_places(made, hidden), WIDTH=width, BLOCK=block, IS_FP8=fp8, num_warps=16 if fp8 else 8
    )
    return made


def _room(like_BSK: Tensor, width: int) -> Fp8Rows:
    """Make room for as many rows in float8, of that width."""
    rows = like_BSK.shape[:-1]
    return Fp8Rows(
        like_BSK.new_empty(*rows, width, dtype=FP8), like_BSK.new_empty(*rows, 1, dtype=torch.float32)
    )


def _places(made: Tensor | Fp8Rows, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return where a kernel writes values and, if there are any, scales; ``other`` stands in for these."""
    return made if isinstance(made, Fp8Rows) else (made, other)


def _strides(factors: Tensor) -> tuple[int, int]:
    """Return how far apart the factors of items and of tokens are; 0 where all share them."""
    items, tokens, _ = factors.shape
    assert factors.stride(-1) == 1
    return (0 if items == 1 else factors.stride(0)), (0 if tokens == 1 else factors.stride(1))
