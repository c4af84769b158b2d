"""Pictures that requests bring along: images to start from or to read, masks. It knows no file format."""

import hashlib
import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from zimage_models.errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingredient:
    """What the file of a picture says of itself; empty where it says nothing."""

    sha256: str = ""
    """Of the file."""
    document_id: str = ""
    instance_id: str = ""
    digital_source_type: str = ""
    """IPTC's mark, such as that of generated media."""
    has_c2pa: bool = False
    """Whether it holds Content Credentials."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image, uint8 (H, W, 3) RGB, or a mask, uint8 (H, W); equal to any other of the same content.

    Nobody writes to its pixels.
    """

    pixels: npt.NDArray[np.uint8] = field(compare=False, repr=False)
    sha256: str = ""
    """Of shape and pixels, unless another is given that stands for both; 64 hexadecimal digits."""
    ingredient: Ingredient = field(default=Ingredient(), compare=False, repr=False)
    """What its file said of itself."""

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if dtype != np.uint8 or not self.pixels.size or not (len(shape) == 2 or shape[2:] == (3,)):
            raise InvalidRequest(
                f"pixels: {dtype} of shape {shape} is neither uint8 (H, W, 3), an image, nor (H, W), a mask",
                field="pixels",
            )
        if self.sha256:
            return
        digest = hashlib.sha256(str(shape).encode())
        digest.update(np.ascontiguousarray(self.pixels).data)
        object.__setattr__(self, "sha256", digest.hexdigest())

    @property
    def height(self) -> int:
        """In pixels."""
        return len(self.pixels)

    @property
    def width(self) -> int:
        """In pixels."""
        return len(self.pixels[0])

    @property
    def is_mask(self) -> bool:
        """Whether it has one channel."""
        return self.pixels.ndim == 2


def stand_in(height: int, width: int, *, sha256: str, is_mask: bool) -> Picture:
    """Make a picture that is known by its size and hash alone, white all over; it takes no memory.

    It serves to plan a request before its picture is decoded.
    """
    shape = (height, width) if is_mask else (height, width, 3)
    return Picture(pixels=np.broadcast_to(np.uint8(255), shape), sha256=sha256)


def is_stand_in(picture: Picture) -> bool:
    """Say whether a picture has no pixels of its own."""
    return not any(picture.pixels.strides)


def painted(mask: Picture) -> npt.NDArray[np.bool_]:
    """Say of each pixel of a mask whether to paint it; bool (H, W), by diffusers' threshold of a half."""
    return mask.pixels >= 128


def fit(picture: Picture, height: int, width: int) -> Picture:
    """Scale a picture until it covers a size in pixels, and crop what sticks out on both sides."""
    if (picture.height, picture.width) == (height, width):
        return picture
    if is_stand_in(picture):
        return stand_in(height, width, sha256=picture.sha256, is_mask=picture.is_mask)
    method = Image.Resampling.NEAREST if picture.is_mask else Image.Resampling.LANCZOS
    fitted = ImageOps.fit(Image.fromarray(picture.pixels), (width, height), method=method)
    return Picture(pixels=np.asarray(fitted), ingredient=picture.ingredient)


def area_size(height: int, width: int, area: int) -> tuple[int, int]:
    """Say the size of an image scaled to an area in pixels (Flux2ImageProcessor._resize_to_target_area)."""
    scale = math.sqrt(area / (width * height))
    return int(height * scale), int(width * scale)


def resize_to(picture: Picture, height: int, width: int) -> Picture:
    """Scale an image to a size in pixels, whatever its aspect."""
    if (picture.height, picture.width) == (height, width):
        return picture
    if is_stand_in(picture):
        return stand_in(height, width, sha256=picture.sha256, is_mask=picture.is_mask)
    resized = Image.fromarray(picture.pixels).resize((width, height), Image.Resampling.LANCZOS)
    return Picture(pixels=np.asarray(resized), ingredient=picture.ingredient)


def crop_to_multiple(picture: Picture, size_multiple: int) -> Picture:
    """Cut a picture's edges off evenly until its sides are multiples (Flux2ImageProcessor, ``crop``)."""
    height, width = (side // size_multiple * size_multiple for side in (picture.height, picture.width))
    if (height, width) == (picture.height, picture.width):
        return picture
    top, left = (picture.height - height) // 2, (picture.width - width) // 2
    return Picture(pixels=picture.pixels[top : top + height, left : left + width])


def nearest_size(picture: Picture, *, size_multiple: int, max_side: int, max_pixels: int) -> tuple[int, int]:
    """Choose the output size nearest to a picture's, its aspect kept where it has to shrink.

    Returns:
        (height, width): multiples of ``size_multiple``, at least one, within both limits.
    """
    height, width = picture.height, picture.width
    scale = min(1.0, max_side / max(height, width), math.sqrt(max_pixels / (height * width)))
    exact = [side * scale / size_multiple for side in (height, width)]
    rows, columns = (max(1, round(side)) for side in exact)
    if rows * columns * size_multiple**2 > max_pixels:
        rows, columns = (max(1, int(side)) for side in exact)
    return rows * size_multiple, columns * size_multiple
