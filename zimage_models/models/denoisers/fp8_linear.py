"""Linear layers in 8-bit floats: half of bfloat16's memory, and on GPUs with units for them twice its speed.

Inputs and weights are float8 e4m3 (Micikevicius et al. 2022, "FP8 Formats for Deep Learning"). Each row, a
token of the inputs or an output channel of the weights, has a float32 scale that puts its largest value at
the format's largest.

Shape legend: K inputs, N outputs; ``...`` tokens.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
"""The largest value of the format."""
SMALLEST = 1e-12
"""Stands in for the largest value of a row of zeros."""


class Fp8Rows(NamedTuple):
    """A tensor in float8 with a scale for each row."""

    values: Tensor
    """float8 (..., K)."""
    scales: Tensor
    """float32 (..., 1); a row is its values times its scale."""


def to_fp8(x: Tensor) -> Fp8Rows:
    """Round each row of a tensor (..., K) to float8."""
    scales = x.abs().amax(dim=-1, keepdim=True).float().clamp_min(SMALLEST) / FP8_MAX
    return Fp8Rows((x / scales).to(FP8), scales)


class Fp8Linear(nn.Module):
    """A linear layer without bias whose weight and inputs are float8."""

    bias = None

    def __init__(
        self, weight: Tensor, scales: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Make a layer of a weight in float8, or take the place of one with a weight to :meth:`quantize`.

        Args:
            weight: (N, K).
            scales: float32 (N, 1), of a weight in float8.
            dtype: of the outputs, for a weight in float8.
        """
        super().__init__()
        self.weight = _fixed(weight)
        self.scales = None if scales is None else _fixed(scales)
        self.dtype = dtype or weight.dtype

    def quantize(self, weight: Tensor) -> None:
        """Take over a weight (N, K), rounded to float8, on its device; outputs get its dtype."""
        self.dtype = weight.dtype
        self.weight, self.scales = map(_fixed, to_fp8(weight))

    def forward(self, x: Fp8Rows) -> Tensor:
        """Return the product (..., N) of inputs (..., K) and the weight, in the weight's former dtype."""
        assert self.scales is not None, "quantize() comes first"
        if self.weight.is_cuda:
            made: Tensor = torch._scaled_mm(
                x.values.flatten(0, -2),
                self.weight.t(),
                scale_a=x.scales.flatten(0, -2),
                scale_b=self.scales.t(),
                out_dtype=self.dtype,
                use_fast_accum=True,
            )
            return made.view(*x.values.shape[:-1], -1)
        # The same arithmetic, slowly: no CPU has units for it.
        made = functional.linear(x.values.float(), self.weight.float())
        return (made * x.scales * self.scales.t()).to(self.dtype)


def _fixed(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
