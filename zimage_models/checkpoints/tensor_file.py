"""Read slices of tensors from a safetensors file and count the bytes read.

``safetensors.safe_open(...).get_slice`` maps the file, so a few columns of a matrix read all of its pages
(measured: 174 MB from disk for 39 MB wanted of 157). Here every row's piece is read separately.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from zimage_models.checkpoints.safetensors_header import read_header
from zimage_models.checkpoints.tensor_split import Split
from zimage_models.errors import CheckpointError

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


class TensorFile:
    """One open safetensors file."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            CheckpointError: it is damaged or not a safetensors file.
        """
        self.path = path
        self.num_bytes_read = 0
        self._tensors = read_header(path)
        self._descriptor = os.open(path, os.O_RDONLY)
        if hasattr(os, "posix_fadvise"):
            # No read-ahead: it would also read the other ranks' pieces of each row.
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """List the tensors' names and shapes."""
        return {name: tensor.shape for name, tensor in self._tensors.items()}

    def read_into(self, target: Tensor, name: str, split: Split | None) -> None:
        """Fill a tensor of any device and floating-point type with a stored one, or with a slice of it.

        Args:
            target: has the stored shape or, with a split, the split's shape; padding is filled with 0.
            name: the stored tensor's name.
            split: along dimension 0, or along the last of two dimensions.
        """
        stored = self._tensors[name]
        dtype = _DTYPES.get(stored.dtype)
        if dtype is None:
            raise CheckpointError(f"{self.path}: {name} is {stored.dtype}, not one of {', '.join(_DTYPES)}")
        shape, offset = list(stored.shape), stored.offset
        if split is None:
            target.copy_(self._read_rows(shape, dtype, offset))
            return
        length = split.stop - split.start
        target.zero_()
        if length == 0:
            return
        row_bytes = dtype.itemsize * torch.Size(shape[1:]).numel()
        if split.dim == 0:
            part = self._read_rows([length, *shape[1:]], dtype, offset + split.start * row_bytes)
        else:
            part = torch.empty(shape[0], length, dtype=dtype)
            first = offset + split.start * dtype.itemsize
            for row in range(shape[0]):
                self._fill(part[row], first + row * row_bytes)
        target.narrow(split.dim, 0, length).copy_(part)

    def _read_rows(self, shape: list[int], dtype: torch.dtype, offset: int) -> Tensor:
        tensor = torch.empty(shape, dtype=dtype)
        self._fill(tensor.view(-1), offset)
        return tensor

    def _fill(self, tensor: Tensor, offset: int) -> None:
        """Read until a vector is full, because one call returns at most 2 GiB."""
        buffer = memoryview(tensor.view(torch.uint8).numpy().data)
        done = 0
        while done < len(buffer):
            count = os.preadv(self._descriptor, [buffer[done:]], offset + done)
            if count == 0:
                raise CheckpointError(f"{self.path}: ends before its tensors do")
            done += count
        self.num_bytes_read += done
