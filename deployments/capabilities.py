"""A model's capabilities, as the HTTP API names them."""

from collections.abc import Mapping
from typing import Any

from zimage_models.model_spec import ModelSpec
from zimage_models.request_fields import REQUEST_FIELDS


def capabilities(spec: ModelSpec) -> list[str]:
    """List what a model can do.

    ``edits``: follow an instruction about pictures. ``image_to_image`` and ``inpainting``: start from a
    picture. ``control_image``: follow the edges, depth or pose in a picture. ``control_image_inpainting``: do
    so within the mask of another picture.
    """
    variant, controlnet = spec.variant, spec.controlnet
    return [
        "generations",
        *(["image_to_image", "inpainting"] if variant.max_start_images else []),
        *(["edits"] if variant.max_reference_images else []),
        *(["control_image"] if controlnet else []),
        *(["control_image_inpainting"] if controlnet and controlnet.inpaints else []),
        *(["negative_prompt"] if variant.supports_negative_prompt else []),
    ]


def takes(spec: ModelSpec, field: str, values: Mapping[str, Any]) -> bool:
    """Return whether a model accepts a request's value of one edit field.

    Args:
        spec: the model.
        field: one of :data:`zimage_models.request_fields.EDIT_FIELDS`.
        values: fields by name, as for :func:`zimage_models.requests.build_request`.
    """
    variant, controlnet = spec.variant, spec.controlnet
    if field == "reference_images":
        return len(values[field]) <= max(variant.max_start_images, variant.max_reference_images)
    if "control_image" in (field, REQUEST_FIELDS[field].needs):
        return controlnet is not None
    if field == "mask" and values.get("control_image"):
        return controlnet is not None and controlnet.inpaints
    return variant.max_start_images > 0
