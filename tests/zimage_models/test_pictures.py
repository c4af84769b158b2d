import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.flux2.image_processor import Flux2ImageProcessor
from PIL import Image

from zimage_models.errors import InvalidRequest
from zimage_models.pictures import Ingredient, Picture, crop_to_multiple, fit, nearest_size, painted, stand_in

LIMITS = {"size_multiple": 16, "max_side": 512, "max_pixels": 256 * 256}


def image(height: int, width: int, seed: int = 0) -> Picture:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Picture(pixels=pixels)


def test_equality_is_by_content() -> None:
    one = image(4, 6)
    same = Picture(pixels=np.asfortranarray(one.pixels))
    assert one == same
    assert hash(one) == hash(same)
    assert len(one.sha256) == 64
    assert (one.height, one.width, one.is_mask) == (4, 6, False)
    others = [image(4, 6, seed=1), Picture(pixels=one.pixels.reshape(6, 4, 3))]
    others.append(Picture(pixels=one.pixels.reshape(12, 6)))
    assert one not in others
    assert "pixels" not in repr(one)


def test_pictures_cross_processes() -> None:
    one = image(4, 6)
    copy = pickle.loads(pickle.dumps(one))
    assert copy == one
    assert np.array_equal(copy.pixels, one.pixels)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((4, 0, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.bool_),
    ],
)
def test_foreign_arrays_are_refused(pixels: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^pixels: .* of shape \(4.* neither .* nor"):
        Picture(pixels=pixels)


def test_a_picture_that_fits_stays_itself() -> None:
    one = image(4, 6)
    assert fit(one, 4, 6) is one


def test_what_sticks_out_is_cropped_on_both_sides() -> None:
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 200
    fitted = fit(Picture(pixels=pixels), 8, 8)
    assert (fitted.pixels == 200).all()
    pixels = np.repeat(np.arange(0, 240, 10, dtype=np.uint8), 8).reshape(24, 8)
    halved = fit(Picture(pixels=np.stack([pixels] * 3, axis=2)), 4, 4).pixels[:, :, 0]
    # Rows 8 to 16 of 24, two into one.
    assert np.abs(halved[:, 0].astype(int) - [85, 105, 125, 145]).max() <= 10


def test_a_mask_is_fitted_like_its_image_and_stays_hard() -> None:
    square = np.zeros((30, 60), np.uint8)
    square[10:20, 25:35] = 255
    mask = fit(Picture(pixels=square), 60, 60)
    fitted = fit(Picture(pixels=np.stack([square] * 3, axis=2)), 60, 60)
    assert set(np.unique(mask.pixels)) == {0, 255}
    assert painted(mask).sum() == 20 * 20
    assert ((fitted.pixels[:, :, 0] > 127) == painted(mask)).all()


def test_half_and_more_of_a_mask_is_painted() -> None:
    assert painted(Picture(pixels=np.array([[0, 127, 128, 255]], np.uint8))).tolist() == [
        [False, False, True, True]
    ]


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (64, 96, (64, 96)),
        (60, 105, (64, 112)),
        (3, 5, (16, 16)),
        # Within the pixels allowed, aspect kept.
        (256, 256, (256, 256)),
        (512, 512, (256, 256)),
        (300, 1200, (128, 512)),
        (1024, 1000, (256, 256)),
        # Both sides rounded up would be too many pixels.
        (201, 326, (192, 320)),
        # Within the side allowed, at least one multiple.
        (5000, 10, (512, 16)),
        (1, 100_000, (16, 512)),
    ],
)
def test_the_nearest_size_allowed(height: int, width: int, expected: tuple[int, int]) -> None:
    assert nearest_size(height, width, **LIMITS) == expected


@pytest.mark.parametrize(("height", "width"), [(64, 96), (75, 100), (95, 81)])
def test_edges_are_cut_off_as_in_diffusers(height: int, width: int) -> None:
    picture = image(height, width)
    cropped = crop_to_multiple(picture, 16)
    expected = Flux2ImageProcessor(vae_scale_factor=16).preprocess(
        Image.fromarray(picture.pixels), height=height // 16 * 16, width=width // 16 * 16, resize_mode="crop"
    )
    found = torch.from_numpy(cropped.pixels.copy()).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("is_mask", [False, True])
def test_stand_in_takes_no_memory_and_keeps_its_hash(is_mask: bool) -> None:
    outline = stand_in(40_000, 40_000, sha256="ab" * 32, is_mask=is_mask)
    fitted = fit(outline, 20_000, 30_000)
    assert (fitted.height, fitted.width, fitted.is_mask) == (20_000, 30_000, is_mask)
    assert fitted == outline
    assert not is_mask or painted(stand_in(2, 2, sha256="c", is_mask=True)).all()


def test_fitted_picture_keeps_what_its_file_said() -> None:
    one = replace(image(4, 6), ingredient=Ingredient(document_id="did"))
    assert fit(one, 8, 8).ingredient.document_id == "did"
