"""Check a request's pictures and scale them to the sizes that its model needs.

A model either starts from one image (img2img, inpainting) or reads several as conditions (edit).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from zimage_models.controlnet_spec import ControlNetSpec
from zimage_models.errors import InvalidRequest
from zimage_models.field_values import read_field, shown
from zimage_models.model_spec import PATCH_SIZE, ModelSpec
from zimage_models.pictures import Picture, area_size, fit, nearest_size, painted, resize_to
from zimage_models.request_fields import EDIT_SETTINGS, REQUEST_FIELDS

IMAGE_TO_IMAGE_STRENGTH = 0.6
INPAINTING_STRENGTH = 1.0
# Limits of a reference image (diffusers, Flux2ImageProcessor.check_image_input).
MIN_REFERENCE_SIDE = 64
MAX_REFERENCE_ASPECT = 8


def read_images(spec: ModelSpec, given: Mapping[str, Any]) -> Sequence[Picture]:
    """Read ``reference_images``: RGB pictures, at most as many as the model takes."""
    images = given.get("reference_images", ())
    if not isinstance(images, list | tuple) or not all(_is_rgb(image) for image in images):
        raise InvalidRequest(
            f"reference_images: {shown(images)} is not a list of RGB pictures", field="reference_images"
        )
    limit = spec.variant.max_reference_images or spec.variant.max_start_images
    if len(images) > limit:
        raise InvalidRequest(
            f"reference_images: {len(images)} images; {spec.variant.name} takes at most {limit}",
            field="reference_images",
        )
    return images


def size_of_images(spec: ModelSpec, images: Sequence[Picture]) -> tuple[int, int]:
    """Choose the output size (height, width) from the images, for a request that gives none.

    A start image decides it; of several references, the last one does, as in diffusers.
    """
    if not images:
        return spec.default_height, spec.default_width
    if spec.variant.max_reference_images:
        height, width = _reference_size(spec, len(images), images[-1], spec.max_reference_pixels)
        return (
            height // spec.size_multiple * spec.size_multiple,
            width // spec.size_multiple * spec.size_multiple,
        )
    return nearest_size(
        images[0].height,
        images[0].width,
        size_multiple=spec.size_multiple,
        max_side=spec.max_side,
        max_pixels=spec.variant.max_pixels,
    )


def picture_fields(
    spec: ModelSpec, given: Mapping[str, Any], images: Sequence[Picture], height: int, width: int
) -> dict[str, Any]:
    """Return the picture fields of a request of ``height`` x ``width`` pixels."""
    if spec.variant.max_reference_images:
        for name in ("mask", "strength"):
            if name in given:
                raise InvalidRequest(
                    f"{name}: {spec.variant.name} reads reference images and does not start from one",
                    field=name,
                )
        is_sized = "size" in given or {"height", "width"} <= given.keys()
        area = height * width if is_sized else spec.max_reference_pixels
        references = tuple(_references(spec, images, area))
        return {"reference_images": references, **_settings(spec, given, "reference_images")}
    return {
        **_settings(spec, given, "reference_images"),
        "reference_images": tuple(fit(image, height, width) for image in images),
        "mask": _mask(spec, given, images[0], height, width) if "mask" in given else None,
        "strength": None if "control_image" in given else _strength(spec, given),
    }


def read_control(spec: ModelSpec, given: Mapping[str, Any]) -> Picture | None:
    """Read ``control_image``, an RGB picture for the engine's ControlNet; None if it is not given."""
    image = given.get("control_image")
    if image is None:
        return None
    if spec.controlnet is None:
        raise InvalidRequest(
            f"control_image: this {spec.variant.name} engine has no ControlNet",
            field="control_image",
        )
    if not _is_rgb(image):
        raise InvalidRequest(f"control_image: {shown(image)} is not an RGB picture", field="control_image")
    if given.get("reference_images"):
        _check_inpainting(spec.controlnet, given)
    assert isinstance(image, Picture)
    return image


def _check_inpainting(controlnet: ControlNetSpec, given: Mapping[str, Any]) -> None:
    """Require a mask, no strength (painting starts from noise) and a ControlNet that can paint."""
    if "mask" not in given:
        raise InvalidRequest(
            "reference_images: with control_image, a mask of where to paint is required",
            field="reference_images",
        )
    if "strength" in given:
        raise InvalidRequest(
            f"strength: {shown(given['strength'])} has no effect with control_image: painting starts"
            " from noise",
            field="strength",
        )
    if not controlnet.inpaints:
        raise InvalidRequest(
            "mask: this ControlNet takes only a control image; painting in an image needs 2.0 or later",
            field="mask",
        )


def control_fields(
    spec: ModelSpec, given: Mapping[str, Any], image: Picture, height: int, width: int
) -> dict[str, Any]:
    """Return the control fields of a request of ``height`` x ``width`` pixels."""
    return {"control_image": fit(image, height, width), **_settings(spec, given, "control_image")}


def _settings(spec: ModelSpec, given: Mapping[str, Any], picture_field: str) -> dict[str, Any]:
    """Read the settings that a picture field brings along; ``strength`` has rules of its own."""
    fields = (REQUEST_FIELDS[name] for name in EDIT_SETTINGS if name != "strength")
    return {field.name: read_field(field, spec, given) for field in fields if field.needs == picture_field}


def _is_rgb(image: Any) -> bool:
    return isinstance(image, Picture) and not image.is_mask


def _references(spec: ModelSpec, images: Sequence[Picture], area: int) -> list[Picture]:
    """Shrink references as diffusers does; they are cropped later, when they are encoded."""
    return [
        resize_to(image, *_reference_size(spec, number, image, area))
        for number, image in enumerate(images, start=1)
    ]


def _reference_size(spec: ModelSpec, number: int, image: Picture, area: int) -> tuple[int, int]:
    height, width = image.height, image.width
    name = f"reference_images: image {number} is {width}x{height} px"
    if min(height, width) < MIN_REFERENCE_SIDE:
        raise InvalidRequest(
            f"{name}; each side must be at least {MIN_REFERENCE_SIDE} px", field="reference_images"
        )
    if max(height, width) > MAX_REFERENCE_ASPECT * min(height, width):
        raise InvalidRequest(
            f"{name}; one side may be at most {MAX_REFERENCE_ASPECT} times the other",
            field="reference_images",
        )
    if height * width > spec.max_reference_pixels:
        height, width = area_size(height, width, area)
        name += f", shrunk to {width}x{height}"
    if not (spec.size_multiple <= min(height, width) and max(height, width) <= spec.max_reference_side):
        raise InvalidRequest(
            f"{name}; the model reads {spec.size_multiple}..{spec.max_reference_side} px per side",
            field="reference_images",
        )
    return height, width


def _mask(spec: ModelSpec, given: Mapping[str, Any], image: Picture, height: int, width: int) -> Picture:
    mask = given["mask"]
    if not isinstance(mask, Picture) or not mask.is_mask:
        raise InvalidRequest(f"mask: {shown(mask)} is not a one-channel picture", field="mask")
    if (mask.height, mask.width) != (image.height, image.width):
        raise InvalidRequest(
            f"mask: {mask.width}x{mask.height} px is not the size of the reference image,"
            f" {image.width}x{image.height} px",
            field="mask",
        )
    fitted = fit(mask, height, width)
    latent_scale = spec.size_multiple // PATCH_SIZE
    if not painted(fitted)[::latent_scale, ::latent_scale].any():
        raise InvalidRequest(
            f"mask: paints nothing: the model sees every {latent_scale}th row and column at"
            f" {width}x{height} px, and no pixel there is 128 or more",
            field="mask",
        )
    return fitted


def _strength(spec: ModelSpec, given: Mapping[str, Any]) -> float:
    default = INPAINTING_STRENGTH if "mask" in given else IMAGE_TO_IMAGE_STRENGTH
    strength: float = read_field(REQUEST_FIELDS["strength"], spec, {"strength": default, **given})
    return strength
