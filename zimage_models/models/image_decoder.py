"""Decode latents to pixels. It knows nothing about schedulers or denoisers.

Shape legend: B batch, C latent channels, H W height and width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from zimage_models.errors import BlankImage
from zimage_models.pictures import painted
from zimage_models.requests import ImageRequest

_PREVIEW_LATENT_SIDE = 16
_MAX_DECODE_PIXELS = 4 * 1024 * 1024


class ImageDecoder:
    """Runs a VAE's decoder."""

    def __init__(self, vae: Any) -> None:
        self._vae = vae

    def compile(self, *, backend: str) -> None:
        """Compile the decoder, with its channels last: 39 ms on an H100 for a 1024 x 1024 image, not 91.

        Not on a CPU, for which torch chooses convolutions by size: each size would be compiled.
        """
        if self._vae.device.type == "cpu":
            return
        self._vae.decoder.to(memory_format=torch.channels_last)
        self._vae.decoder.compile(backend=backend)

    @torch.inference_mode()
    def decode(
        self, latents: Sequence[Tensor], requests: Sequence[ImageRequest]
    ) -> list[npt.NDArray[np.uint8] | BlankImage]:
        """Decode finished latents of one size to uint8 (H, W, 3) pixels, or to the error of a blank image.

        Args:
            latents: float32 (C, H, W) each.
            requests: one for each of the latents.
        """
        first = requests[0]
        chunk = max(1, _MAX_DECODE_PIXELS // (first.height * first.width))
        results: list[npt.NDArray[np.uint8] | BlankImage] = []
        for start in range(0, len(requests), chunk):
            part = requests[start : start + chunk]
            images_BCHW = self._decode(torch.stack(list(latents[start : start + chunk])))
            finite_B = images_BCHW.isfinite().flatten(1).all(1)
            pixels_BHWC = _to_pixels(images_BCHW)
            uniform_B = (pixels_BHWC == pixels_BHWC[:, :1, :1]).flatten(1).all(1)
            pixels = pixels_BHWC.cpu().numpy()
            flags = zip(finite_B.tolist(), uniform_B.tolist(), strict=True)
            results += [
                _finished(image, request, finite=finite, uniform=uniform)
                for image, request, (finite, uniform) in zip(pixels, part, flags, strict=True)
            ]
        return results

    @torch.inference_mode()
    def preview(self, estimate_CHW: Tensor) -> npt.NDArray[np.uint8]:
        """Decode latents to a small preview; uint8 (h, w, 3).

        They are first shrunk to at most 16 x 16, which makes decoding far cheaper than a step.
        """
        factor = -(-max(estimate_CHW.shape[-2:]) // _PREVIEW_LATENT_SIDE)
        images_BCHW = self._decode(functional.avg_pool2d(estimate_CHW[None], factor))
        pixels: npt.NDArray[np.uint8] = _to_pixels(images_BCHW)[0].cpu().numpy()
        return pixels

    def _decode(self, latents_BCHW: Tensor) -> Tensor:
        config = self._vae.config
        scaled = latents_BCHW.to(self._vae.dtype) / config.scaling_factor + config.shift_factor
        image: Tensor = self._vae.decode(scaled, return_dict=False)[0]
        return image


def _to_pixels(images_BCHW: Tensor) -> Tensor:
    """Round images in [-1, 1] to uint8 (B, H, W, C) as diffusers' VaeImageProcessor does; NaN becomes 0."""
    unit = (images_BCHW.float() / 2 + 0.5).clamp(0, 1).nan_to_num()
    return (unit * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def _finished(
    pixels_HWC: npt.NDArray[np.uint8], request: ImageRequest, *, finite: bool, uniform: bool
) -> npt.NDArray[np.uint8] | BlankImage:
    if not finite:
        return BlankImage("the image contains NaN or infinity: use bfloat16 or float32, or check the weights")
    if uniform:
        red, green, blue = pixels_HWC[0, 0].tolist()
        return BlankImage(f"the image is one uniform colour (every pixel is {red}, {green}, {blue})")
    if request.mask is not None:
        # Outside the mask, the image keeps its exact pixels instead of the VAE's version of them.
        return np.where(painted(request.mask)[:, :, None], pixels_HWC, request.reference_images[0].pixels)
    # A copy, so that one image does not keep its whole batch in memory.
    return pixels_HWC.copy()
