"""The objects that the embedded models know, as they should look: what pictures are recognised by."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

DATA = Path(__file__).parent / "data"
OBJECTS: list[dict[str, str]] = json.loads((DATA / "objects.json").read_text(encoding="utf-8"))
"""By emoji, English and Chinese name."""
WHITE = (255, 255, 255)


@cache
def cutouts() -> npt.NDArray[np.float32]:
    """Read every object, transparent around it: (256, 64, 64, 4) in 0..255."""
    sheet = np.asarray(Image.open(DATA / "object_cutouts.png"), dtype=np.float32)
    return sheet.reshape(16, 64, 16, 64, 4).transpose(0, 2, 1, 3, 4).reshape(256, 64, 64, 4)


@cache
def drawn(colour: tuple[int, int, int] = WHITE) -> npt.NDArray[np.float32]:
    """Put every object on a background: (256, 64, 64, 3) in 0..255."""
    alpha = cutouts()[..., 3:] / 255
    return cutouts()[..., :3] * alpha + np.float32(colour) * (1 - alpha)


def recognised(pixels_HWC: npt.NDArray[np.generic], colour: tuple[int, int, int] = WHITE) -> int:
    """Return the index of the object, on that background, whose drawing is nearest to a 64 x 64 picture."""
    distances = np.square(_prints(colour) - _halved(pixels_HWC[None].astype(np.float32)))
    return int(distances.sum(axis=1).argmin())


@cache
def _prints(colour: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    return _halved(drawn(colour))


def _halved(pictures_NHWC: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return pictures_NHWC.reshape(-1, 32, 2, 32, 2, 3).mean(axis=(2, 4)).reshape(len(pictures_NHWC), -1)
