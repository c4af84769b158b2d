"""What a denoiser needs of a request at every step besides latents and time, and what it is made from.

Shape legend: C latent channels, H W height and width, L caption tokens, D model width, F feature width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Caption:
    """A refined prompt."""

    tokens_LD: Tensor
    """Padded, segment by segment."""
    lengths: Sequence[int]
    """Tokens of each segment, without padding."""


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """An encoded image that a model reads with the prompt."""

    latents_CHW: Tensor
    """float32."""
    features_HWF: Tensor | None
    """By rows and columns of SigLIP patches, not of latents; None without SigLIP."""


@dataclass(frozen=True, slots=True, eq=False)
class Control:
    """An encoded image that a ControlNet follows."""

    latents_CHW: Tensor
    """float32; to paint in an image, its mask and latents are channels after the control image's."""
    scale: float
    """Scale of the ControlNet's hints."""


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """The tensors of one request, computed once; only the denoiser that made them knows their meaning.

    Conditions of one bucket can share a forward: their tensors stack, so no attention mask is needed.
    """

    tensors: tuple[Tensor, ...]

    @property
    def bucket(self) -> tuple[torch.Size, ...]:
        """The shapes of the tensors."""
        return tuple(tensor.shape for tensor in self.tensors)


def stack(conditions: Sequence[Condition]) -> tuple[Tensor, ...]:
    """Stack the tensors of conditions of one bucket; the batch is the first dimension."""
    return tuple(torch.stack(tensors) for tensors in zip(*(c.tensors for c in conditions), strict=True))
