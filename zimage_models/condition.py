"""What a denoiser knows of a request at every step, beside its latents and its time."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """The tensors of one request, computed once; only the denoiser that made them knows what they are.

    Conditions of one bucket may share a forward: their tensors stack, so that none needs an attention mask.
    """

    tensors: tuple[Tensor, ...]

    @property
    def bucket(self) -> tuple[torch.Size, ...]:
        """The shapes of the tensors."""
        return tuple(tensor.shape for tensor in self.tensors)


def stack(conditions: Sequence[Condition]) -> tuple[Tensor, ...]:
    """Stack the tensors of conditions of one bucket; the batch comes first."""
    return tuple(torch.stack(tensors) for tensors in zip(*(c.tensors for c in conditions), strict=True))
