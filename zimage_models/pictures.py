"""The pictures of a request: reference images, control images and masks. It knows no file formats."""

import hashlib
import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from zimage_models.errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingredient:
    """What a picture's file says about its origin; empty where it says nothing."""

    sha256: str = ""
    """Hash of the file."""
    document_id: str = ""
    instance_id: str = ""
    digital_source_type: str = ""
    """IPTC's mark, such as the one for generated media."""
    has_c2pa: bool = False
    """Whether the file contains Content Credentials."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image, uint8 (H, W, 3) RGB, or a mask, uint8 (H, W). Pictures with the same content are equal.

    Its pixels must not be changed.
    """

    pixels: npt.NDArray[np.uint8] = field(compare=False, repr=False)
    sha256: str = ""
    """Hash of shape and pixels, or a given one that represents both; 64 hexadecimal digits."""
    ingredient: Ingredient = field(default=Ingredient(), compare=False, repr=False)
    """What its file says about its origin."""

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if dtype != np.uint8 or not self.pixels.size or not (len(shape) == 2 or shape[2:] == (3,)):
            raise InvalidRequest(
                f"pixels: {dtype} of shape {shape} is neither an image, uint8 (H, W, 3), nor a mask, (H, W)",
                field="pixels",
            )
        if self.sha256:
            return
        digest = hashlib.sha256(str(shape).encode())
        digest.update(np.ascontiguousarray(self.pixels).data)
        object.__setattr__(self, "sha256", digest.hexdigest())

    @property
    def height(self) -> int:
        """Height in pixels."""
        return len(self.pixels)

    @property
    def width(self) -> int:
        """Width in pixels."""
        return len(self.pixels[0])

    @property
    def is_mask(self) -> bool:
        """Whether it is a mask, with one channel."""
        return self.pixels.ndim == 2


def stand_in(height: int, width: int, *, sha256: str, is_mask: bool) -> Picture:
    """Make a white picture with a real picture's size and hash; it takes no memory.

    With it, a request can be planned before its picture is decoded.
    """
    shape = (height, width) if is_mask else (height, width, 3)
    return Picture(pixels=np.broadcast_to(np.uint8(255), shape), sha256=sha256)


def is_stand_in(picture: Picture) -> bool:
    """Return whether a picture was made by :func:`stand_in` and stores no pixels."""
    return not any(picture.pixels.strides)


def painted(mask: Picture) -> npt.NDArray[np.bool_]:
    """Return which pixels of a mask to paint; bool (H, W), with diffusers' threshold of one half."""
    return mask.pixels >= 128


def fit(picture: Picture, height: int, width: int) -> Picture:
    """Scale a picture until it covers a size in pixels, then crop the excess evenly from both sides."""
    if (picture.height, picture.width) == (height, width):
        return picture
    if is_stand_in(picture):
        return stand_in(height, width, sha256=picture.sha256, is_mask=picture.is_mask)
    method = Image.Resampling.NEAREST if picture.is_mask else Image.Resampling.LANCZOS
    fitted = ImageOps.fit(Image.fromarray(picture.pixels), (width, height), method=method)
    return Picture(pixels=np.asarray(fitted), ingredient=picture.ingredient)


def area_size(height: int, width: int, area: int) -> tuple[int, int]:
    """Return an image's size scaled to an area in pixels (Flux2ImageProcessor._resize_to_target_area)."""
    scale = math.sqrt(area / (width * height))
    return int(height * scale), int(width * scale)


def resize_to(picture: Picture, height: int, width: int) -> Picture:
    """Scale an image to a size in pixels without keeping its aspect ratio."""
    if (picture.height, picture.width) == (height, width):
        return picture
    if is_stand_in(picture):
        return stand_in(height, width, sha256=picture.sha256, is_mask=picture.is_mask)
    resized = Image.fromarray(picture.pixels).resize((width, height), Image.Resampling.LANCZOS)
    return Picture(pixels=np.asarray(resized), ingredient=picture.ingredient)


def crop_to_multiple(picture: Picture, size_multiple: int) -> Picture:
    """Crop a picture's edges evenly until its sides are multiples (Flux2ImageProcessor, ``crop``)."""
    height, width = (side // size_multiple * size_multiple for side in (picture.height, picture.width))
    if (height, width) == (picture.height, picture.width):
        return picture
    top, left = (picture.height - height) // 2, (picture.width - width) // 2
    return Picture(pixels=picture.pixels[top : top + height, left : left + width])


def nearest_size(
    height: int, width: int, *, size_multiple: int, max_side: int, max_pixels: int
) -> tuple[int, int]:
    """Choose the output size nearest to a size in pixels; if it has to shrink, it keeps the aspect ratio.

    Returns:
        (height, width): positive multiples of ``size_multiple`` within both limits.
    """
    scale = min(1.0, max_side / max(height, width), math.sqrt(max_pixels / (height * width)))
    exact = [side * scale / size_multiple for side in (height, width)]
    rows, columns = (max(1, round(side)) for side in exact)
    if rows * columns * size_multiple**2 > max_pixels:
        rows, columns = (max(1, int(side)) for side in exact)
    return rows * size_multiple, columns * size_multiple
