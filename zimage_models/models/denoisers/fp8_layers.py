"""A transformer whose main blocks make their matrix products in float8.

They have 86 % of the release's weights and nearly all of its work. Embedders, refiners, modulation and final
layer stay as they are: rounding them costs more of the image and saves little.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zimage_models.models.denoisers.fp8_linear import Fp8Linear

_MULTIPLE = 16
"""Sides of matrices that float8 products take are multiples of it (torch._scaled_mm)."""
_HIDDEN_DIMENSION = {"feed_forward.w1": 0, "feed_forward.w3": 0, "feed_forward.w2": 1}
"""Which dimension of a weight counts hidden units: their number may be padded."""


def use_fp8(transformer: Any) -> None:
    """Replace the linear layers of a transformer's main blocks, real or on the meta device, by Fp8Linears."""
    for block in transformer.layers:
        for name, module in list(block.named_modules()):
            if isinstance(module, nn.Linear) and not name.startswith("adaLN"):
                block.set_submodule(name, Fp8Linear(module.weight))


def place_in_fp8(transformer: Any, device: torch.device) -> Any:
    """Put a transformer on a device, with its main blocks in float8.

    They are quantised there one matrix at a time, so that the device never holds more of them unquantised.
    """
    use_fp8(transformer)
    for name, layer in _fp8_linears(transformer):
        layer.quantize(_padded(layer.weight.to(device), _HIDDEN_DIMENSION.get(name)))
    return transformer.to(device).eval().requires_grad_(False)


def _fp8_linears(transformer: Any) -> Iterator[tuple[str, Fp8Linear]]:
    """Yield the layers with their names in their block."""
    for block in transformer.layers:
        for name, module in block.named_modules():
            if isinstance(module, Fp8Linear):
                yield name, module


def _padded(weight: Tensor, dimension: int | None) -> Tensor:
    """Pad the hidden units with zeros, which add nothing, to a multiple that products take."""
    if dimension is None:
        return weight
    missing = -weight.shape[dimension] % _MULTIPLE
    return functional.pad(weight, (0, 0, 0, missing) if dimension == 0 else (0, missing))
