"""How much memory a VAE takes to decode an image, as a whole or over strips of it. It does not need torch.

Channels are those of the VAE's levels, from fine to coarse.
"""

from collections.abc import Sequence

STRIP_VALUES = 2**23
"""Values of the largest feature map in one strip of an image, where the VAE runs over strips."""
_STRIP_TENSORS = 6
_COARSE_TENSORS = 8
"""In the attention of the VAE's coarsest level, which runs over the whole image."""


def whole_decode_bytes(channels: Sequence[int], num_pixels: int, itemsize: int) -> int:
    """Return the most that a VAE has in memory at once when it decodes an image as a whole.

    It is feature maps of the residual blocks at the image's own size: in the first, the input, its norm and
    that after activation; in others, what the first began with, the input, the change, their sum, the output.
    """
    fine, coarse = channels[0], max(channels[:2])
    return max(3 * coarse, coarse + 4 * fine) * num_pixels * itemsize


def strip_decode_bytes(channels: Sequence[int], num_pixels: int, itemsize: int, *, on_device: bool) -> int:
    """Return the most that a VAE has on its device at once when it decodes an image over strips.

    Args:
        channels: of its levels, from fine to coarse.
        num_pixels: of the image.
        itemsize: bytes of a value.
        on_device: whether the feature maps are there too.
    """
    map_bytes = strip_map_bytes(channels, num_pixels, itemsize)
    in_strips = min(map_bytes, itemsize * _STRIP_TENSORS * STRIP_VALUES) + (map_bytes if on_device else 0)
    num_coarse: int = num_pixels // 4 ** (len(channels) - 1)
    return max(in_strips, itemsize * _COARSE_TENSORS * channels[-1] * num_coarse)


def strip_map_bytes(channels: Sequence[int], num_pixels: int, itemsize: int) -> int:
    """Return the size of the feature maps that a VAE has in memory at once when it runs over strips.

    They are the input and the output of the first convolution at the image's own size.
    """
    return sum(channels[:2]) * num_pixels * itemsize
