"""Encode pictures as VAE latents. It knows nothing about schedulers or requests.

Shape legend: C latent channels, H W latent height and width.
"""

from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from zimage_models.models.device_memory import upload
from zimage_models.models.tensor_cache import TensorCache
from zimage_models.pictures import Picture, painted


class ImageEncoder:
    """Runs a VAE's encoder and caches posteriors: one serves every seed, and each request samples from it."""

    def __init__(self, vae: Any, *, cache_bytes: int) -> None:
        self._vae = vae
        self._kept: TensorCache[str] = TensorCache(cache_bytes)

    @torch.inference_mode()
    def encode(self, picture: Picture, generator: torch.Generator) -> Tensor:
        """Sample the latents of an RGB picture as diffusers' ``prepare_latents`` does; float32 (C, H, W).

        Args:
            picture: its sides must be multiples of the VAE's scale.
            generator: a CPU generator; it draws one normal number for each value.
        """
        posterior = DiagonalGaussianDistribution(self._moments_of(picture))
        config = self._vae.config
        latents_CHW: Tensor = (posterior.sample(generator)[0] - config.shift_factor) * config.scaling_factor
        return latents_CHW

    @torch.inference_mode()
    def mode(self, picture: Picture, *, hidden: Picture | None = None) -> Tensor:
        """Return the most likely latents of an RGB picture, as models read them; float32 (C, H, W).

        Args:
            picture: its sides must be multiples of the VAE's scale.
            hidden: a mask of the same size; the painted part is replaced with grey.
        """
        config = self._vae.config
        latents = DiagonalGaussianDistribution(self._moments_of(picture, hidden)).mode()[0]
        scaled: Tensor = (latents - config.shift_factor) * config.scaling_factor
        return scaled

    def _moments_of(self, picture: Picture, hidden: Picture | None = None) -> Tensor:
        key = picture.sha256 + (hidden.sha256 if hidden else "")
        moments = self._kept.get(key)
        if moments is None:
            unit = torch.from_numpy(picture.pixels.astype(np.float32) / 255)
            signed = unit * 2 - 1
            if hidden:
                signed[torch.from_numpy(painted(hidden))] = 0.0
            image = upload(signed.permute(2, 0, 1)[None], self._vae.device).to(self._vae.dtype)
            moments = self._vae.encode(image).latent_dist.parameters.float()
            self._kept.put(key, moments)
        return moments
