"""What a model can do, in the words of the HTTP API."""

from collections.abc import Mapping
from typing import Any

from zimage_models.model_spec import ModelSpec


def capabilities(spec: ModelSpec) -> list[str]:
    """Name what a model can do.

    ``edits`` is to follow an instruction on pictures; ``image_to_image`` and ``inpainting`` start from one.
    """
    variant = spec.variant
    return [
        "generations",
        *(["image_to_image", "inpainting"] if variant.max_start_images else []),
        *(["edits"] if variant.max_reference_images else []),
        *(["negative_prompt"] if variant.supports_negative_prompt else []),
    ]


def takes(spec: ModelSpec, field: str, values: Mapping[str, Any]) -> bool:
    """Say whether a model can take what a request has of one of the fields of an edit.

    Args:
        spec: the model.
        field: one of :data:`zimage_models.requests.EDIT_FIELDS`.
        values: fields by name, as for :func:`zimage_models.requests.build_request`.
    """
    variant = spec.variant
    if field == "reference_images":
        return len(values[field]) <= max(variant.max_start_images, variant.max_reference_images)
    return variant.max_start_images > 0
