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


def takes_pictures(spec: ModelSpec, values: Mapping[str, Any]) -> bool:
    """Say whether a model takes so many pictures, and what a request wants done with them.

    Args:
        spec: the model.
        values: fields by name, as for :func:`zimage_models.requests.build_request`.
    """
    num_images = len(values.get("reference_images") or ())
    starts = values.get("mask") is not None or values.get("strength") is not None
    variant = spec.variant
    return num_images <= variant.max_start_images or (
        num_images <= variant.max_reference_images and not starts
    )
