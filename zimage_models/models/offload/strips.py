"""A VAE that runs over strips of an image: in less memory, and with the same results up to rounding.

Each convolution sees one row beyond its strip, and each norm takes the mean and variance of the whole image.
So there are no seams, unlike with tiles that are decoded on their own and blended. Only the coarsest level,
with its attention, runs over the whole image at once.

Shape legend: B batch, C channels, H W height and width.
"""

from typing import Any

import torch
from torch import Tensor, nn

from zimage_models.memory.vae_maps import STRIP_VALUES, strip_map_bytes
from zimage_models.models.offload.strip_maps import StripMaps


def use_strips(vae: Any, *, max_map_bytes: int) -> None:
    """Let an AutoencoderKL run over strips, and over one image at a time.

    Args:
        vae: it is changed.
        max_map_bytes: feature maps that may be on its device at once; larger ones are kept in host memory.
    """
    vae.encoder = _StripEncoder(vae.encoder, vae.config.block_out_channels, max_map_bytes)
    vae.decoder = _StripDecoder(vae.decoder, vae.config.block_out_channels, max_map_bytes)
    vae.enable_slicing()


class _StripCoder(nn.Module):
    """What the encoder and the decoder share."""

    def __init__(self, whole: Any, channels: tuple[int, ...], max_map_bytes: int) -> None:
        super().__init__()
        self._whole = whole
        self._channels = channels
        self._scale: int = 2 ** (len(channels) - 1)
        self._max_map_bytes = max_map_bytes

    def compile(self, *_: Any, **__: Any) -> None:
        """Do nothing: each number of strips would be a graph of its own, with all strips in it."""

    def _maps(self, x_BCHW: Tensor, num_pixels: int) -> StripMaps:
        """Decide where the feature maps of an image are kept."""
        num_bytes = strip_map_bytes(self._channels, num_pixels, x_BCHW.element_size())
        home = x_BCHW.device if num_bytes <= self._max_map_bytes else torch.device("cpu")
        return StripMaps(device=x_BCHW.device, home=home)

    def _num_rows(self, width: int) -> int:
        """Return the rows of a strip at the coarsest level, for images of a width in pixels."""
        values_of_row = max(self._channels[:2]) * width * self._scale
        return max(1, STRIP_VALUES // values_of_row)


class _StripDecoder(_StripCoder):
    def forward(self, latents_BCHW: Tensor) -> Tensor:
        whole = self._whole
        height, width = (side * self._scale for side in latents_BCHW.shape[2:])
        maps = self._maps(latents_BCHW, height * width)
        strips = maps.cut(whole.mid_block(whole.conv_in(latents_BCHW)), self._num_rows(width))
        for block in whole.up_blocks:
            for resnet in block.resnets:
                maps.replace(strips, resnet)
            for upsampler in block.upsamplers or ():
                strips = list(maps.convolved(strips, upsampler.conv, is_doubled=True))
        before = maps.normed(whole.conv_norm_out, whole.conv_act, strips)
        return maps.join(list(maps.convolved(strips, whole.conv_out, before)))


class _StripEncoder(_StripCoder):
    def forward(self, image_BCHW: Tensor) -> Tensor:
        whole = self._whole
        height, width = image_BCHW.shape[2:]
        maps = self._maps(image_BCHW, height * width)
        strips = maps.cut(image_BCHW, self._num_rows(width) * self._scale)
        strips = list(maps.convolved(strips, whole.conv_in))
        for block in whole.down_blocks:
            for resnet in block.resnets:
                maps.replace(strips, resnet)
            for downsampler in block.downsamplers or ():
                strips = list(maps.convolved(strips, downsampler.conv))
        x_BCHW = whole.mid_block(maps.join(strips))
        output: Tensor = whole.conv_out(whole.conv_act(whole.conv_norm_out(x_BCHW)))
        return output
