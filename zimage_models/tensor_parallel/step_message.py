"""The message of a call from rank 0 to the other ranks: a small header, then all tensors in a flat payload.

The header is 44 whole numbers: the verb, the number of tensors, and each one's type, dimensions and shape
(which give batch, height, width and caption length). No Python objects are sent.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zimage_models.models.ranks import Verb

_MAX_TENSORS = 7
_MAX_DIMENSIONS = 4
HEADER_NUMBERS = 2 + _MAX_TENSORS * (2 + _MAX_DIMENSIONS)
_DTYPES = (torch.float32, torch.bfloat16, torch.int32)
_ALIGNMENT = 16
"""Alignment of each tensor in bytes, which views of another type need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorLayout:
    """Type and shape of one tensor of a payload."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the values in bytes."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()


def write_header(verb: Verb, tensors: Sequence[Tensor]) -> Tensor:
    """Write a call's header, one int64 tensor of ``HEADER_NUMBERS`` on the CPU."""
    assert len(tensors) <= _MAX_TENSORS, "the header has room for seven tensors"
    numbers = [int(verb), len(tensors)]
    for tensor in tensors:
        assert tensor.ndim <= _MAX_DIMENSIONS, "the header has room for four dimensions"
        padding = [0] * (_MAX_DIMENSIONS - tensor.ndim)
        numbers += [_DTYPES.index(tensor.dtype), tensor.ndim, *tensor.shape, *padding]
    return torch.tensor(numbers + [0] * (HEADER_NUMBERS - len(numbers)), dtype=torch.int64)


def read_header(header: Tensor) -> tuple[Verb, list[TensorLayout]]:
    """Read a header that :func:`write_header` wrote."""
    verb, num_tensors, *numbers = header.tolist()
    layouts = []
    for start in range(0, num_tensors * (2 + _MAX_DIMENSIONS), 2 + _MAX_DIMENSIONS):
        dtype, num_dimensions, *shape = numbers[start : start + 2 + _MAX_DIMENSIONS]
        layouts.append(TensorLayout(dtype=_DTYPES[dtype], shape=tuple(shape[:num_dimensions])))
    return Verb(verb), layouts


def layouts_of(tensors: Sequence[Tensor]) -> list[TensorLayout]:
    """Return the layouts of tensors."""
    return [TensorLayout(dtype=tensor.dtype, shape=tuple(tensor.shape)) for tensor in tensors]


def empty_payload(layouts: Sequence[TensorLayout], device: torch.device) -> Tensor:
    """Make an empty uint8 payload with room for all tensors."""
    num_bytes = sum(_aligned(layout.num_bytes) for layout in layouts)
    return torch.empty(num_bytes, dtype=torch.uint8, device=device)


def payload_views(payload: Tensor, layouts: Sequence[TensorLayout]) -> Iterator[Tensor]:
    """Yield a payload's tensors as views of it."""
    offset = 0
    for layout in layouts:
        yield payload[offset : offset + layout.num_bytes].view(layout.dtype).view(layout.shape)
        offset += _aligned(layout.num_bytes)


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
