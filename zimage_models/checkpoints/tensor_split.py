"""Which part of a tensor's dimension one rank holds."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One rank's part of a divided dimension: ``start:stop`` of it, then zeros up to ``size``."""

    dim: int
    start: int
    stop: int
    size: int
    full_size: int

    def take(self, tensor: Tensor) -> Tensor:
        """Copy this rank's part out of a whole tensor, padding included."""
        if tensor.shape[self.dim] != self.full_size:
            raise ValueError(f"dimension {self.dim} of {tuple(tensor.shape)} is not {self.full_size}")
        shape = list(tensor.shape)
        shape[self.dim] = self.size
        part = tensor.new_zeros(shape)
        length = self.stop - self.start
        part.narrow(self.dim, 0, length).copy_(tensor.narrow(self.dim, self.start, length))
        return part
