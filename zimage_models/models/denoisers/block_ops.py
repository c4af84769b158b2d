"""What a transformer block computes between its matrix products: norms, rotary encoding and gates.

Each function is one pass over the tokens where a compiler or a kernel fuses it. Norms are root mean square
norms (Zhang and Sennrich 2019), computed in float32; their weights are folded into the scales and gates that
follow them, so that these are rounded once. With ``fp8``, what goes into a product is rounded to float8 and
not to the tokens' dtype.

Shape legend: B batch, S sequence, D model width, H heads, C channels of a head, F hidden units. Scales and
gates are float32 and (B, 1, D), (B, S, D) or (1, 1, D).
"""

import logging
import sys
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from zimage_models.models.denoisers.fp8_linear import Fp8Rows, to_fp8

logger = logging.getLogger(__name__)

_KERNELS = "zimage_models.models.denoisers.block_kernels"


def scaled_norm(x_BSD: Tensor, scale: Tensor, eps: float, *, fp8: bool = False) -> Tensor | Fp8Rows:
    """Return ``scale * norm(x)``, in x's dtype."""
    scaled_BSD = (x_BSD * _inverse_rms(x_BSD, eps)).mul_(scale)
    return to_fp8(scaled_BSD) if fp8 else scaled_BSD.to(x_BSD.dtype)


def gated_residual(
    x_BSD: Tensor,
    output_BSD: Tensor,
    gate: Tensor,
    next_scale: Tensor | None,
    eps: float,
    *,
    fp8: bool = False,
) -> tuple[Tensor, Tensor | Fp8Rows | None]:
    """Return ``x + gate * norm(output)``, and that after :func:`scaled_norm` where there is a next scale."""
    change_BSD = output_BSD * _inverse_rms(output_BSD, eps)
    x_BSD = torch.addcmul(x_BSD, change_BSD, gate).to(x_BSD.dtype)
    return x_BSD, None if next_scale is None else scaled_norm(x_BSD, next_scale, eps, fp8=fp8)


def rotated_queries_and_keys(
    qkv_BS3HC: Tensor, norm_weight_2C: Tensor, rotary_BSC2: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Norm queries and keys by head, and turn each pair of channels by its position's angle.

    Args:
        qkv_BS3HC: queries, keys and values.
        norm_weight_2C: float32, of queries and of keys.
        rotary_BSC2: float32, cosine and sine for each pair of channels, (B or 1, S, C / 2, 2).
        eps: added to the mean square.

    Returns:
        Queries and keys, both (B, S, H, C).
    """
    qk_BS2HC = qkv_BS3HC[:, :, :2]
    normed_BS2HC = (qk_BS2HC * _inverse_rms(qk_BS2HC, eps)).mul_(norm_weight_2C[:, None])
    pairs = torch.view_as_complex(normed_BS2HC.view(*normed_BS2HC.shape[:-1], -1, 2))
    turns = torch.view_as_complex(rotary_BSC2)[:, :, None, None]
    queries, keys = torch.view_as_real(pairs * turns).flatten(-2).to(qkv_BS3HC.dtype).unbind(2)
    return queries, keys


def gated_silu(gate_and_up_BSF: Tensor, *, fp8: bool = False) -> Tensor | Fp8Rows:
    """Return ``silu(gate) * up`` of both, which lie one after the other; (B, S, F)."""
    gate_BSF, up_BSF = gate_and_up_BSF.chunk(2, dim=-1)
    if fp8:
        return to_fp8(functional.silu(gate_BSF.float()).mul_(up_BSF))
    return functional.silu(gate_BSF).mul_(up_BSF)


def kernels_or_plain(device: torch.device, num_channels: int, *, fp8: bool = False) -> Any:
    """Return the Triton kernels where these run, else this module; both have these functions and ``to_fp8``.

    Args:
        device: of the tokens.
        num_channels: of a head; the kernels need a power of two, as the release has.
        fp8: whether they are to round to float8.
    """
    is_power_of_two = num_channels & (num_channels - 1) == 0
    if torch.version.cuda and device.type == "cuda" and is_power_of_two and _kernels_run(device, fp8):
        return import_module(_KERNELS)
    return sys.modules[__name__]


@cache
def _kernels_run(device: torch.device, fp8: bool) -> bool:
    """Try a kernel: Triton may be missing, or the compiler that it needs."""
    x_BSD = torch.randn(1, 2, 8, device=device)
    scale = torch.ones(1, 1, 8, device=device)
    # A value may be rounded to the next one in float8.
    tolerance = 0.125 if fp8 else 1e-5
    try:
        with torch.cuda.device(device):
            found = import_module(_KERNELS).scaled_norm(x_BSD, scale, 1e-5, fp8=fp8)
        for one, other in zip(found, scaled_norm(x_BSD, scale, 1e-5, fp8=fp8), strict=True):
            torch.testing.assert_close(one.float(), other.float(), rtol=tolerance, atol=tolerance)
    except Exception as error:  # whatever it is, plain PyTorch makes the same images
        logger.warning("Triton's kernels do not run on %s (%s): slower ones are used", device, error)
        return False
    return True


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    """Return one over the root mean square of the last dimension, which stays, with size 1; float32."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return torch.rsqrt(norm * norm / x.shape[-1] + eps)
