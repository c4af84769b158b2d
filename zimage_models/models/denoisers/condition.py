"""What a denoiser knows of a request at every step beside its latents and time, and what that is made of.

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
    """An image that a model reads beside the prompt, encoded."""

    latents_CHW: Tensor
    """float32."""
    features_HWF: Tensor | None
    """By rows and columns of patches, whose numbers are not those of the latents; None without SigLIP."""


@dataclass(frozen=True, slots=True, eq=False)
class Control:
    """An image that a ControlNet follows, encoded."""

    latents_CHW: Tensor
    """float32; to paint in an image, its mask and its latents are channels behind the control image's."""
    scale: float
    """Of the ControlNet's hints."""


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
