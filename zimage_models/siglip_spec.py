"""The configuration of a checkpoint's SigLIP2 encoder, which only edit models may have."""

from dataclasses import dataclass
from pathlib import Path

from zimage_models.component_config import ComponentConfig, names_class, read_json
from zimage_models.errors import CheckpointError

_CLASSES = {
    "siglip": ("Siglip2VisionModel",),
    "siglip_processor": ("Siglip2ImageProcessor", "Siglip2ImageProcessorPil", "Siglip2ImageProcessorFast"),
}
_PARTS = tuple(_CLASSES)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiglipSpec:
    """The encoder of a reference image's features."""

    patch_size: int
    """Side of a patch in pixels of the scaled image."""
    max_num_patches: int
    """Limit on patches of an image, which is scaled up or down to as many as fit."""


def has_siglip(directory: Path) -> bool:
    """Return whether a checkpoint names a SigLIP2 encoder; a pair of nulls counts as none."""
    index = read_json(directory / "model_index.json")
    return any(index.get(part) not in (None, [None, None]) for part in _PARTS)


def read_siglip_spec(directory: Path) -> SiglipSpec | None:
    """Read a checkpoint's SigLIP2 configuration; None if its transformer reads no features.

    Raises:
        CheckpointError: the transformer and the components in ``model_index.json`` do not fit together.
    """
    transformer = ComponentConfig(directory, "transformer")
    width = transformer.content.get("siglip_feat_dim")
    index_path = directory / "model_index.json"
    index = read_json(index_path)
    if width is None:
        if has_siglip(directory):
            raise CheckpointError(
                f"{index_path}: siglip is {index.get('siglip')!r}, but {transformer.path} has no"
                " siglip_feat_dim"
            )
        return None
    for part, classes in _CLASSES.items():
        if not names_class(index, part, classes):
            raise CheckpointError(
                f"{index_path}: {part} is {index.get(part)!r}, but {transformer.path} has siglip_feat_dim "
                f"{width!r}: expected {classes[0]}"
            )
    model = ComponentConfig(directory, "siglip")
    if model.integer("hidden_size") != width:
        raise CheckpointError(
            f"{directory}: siglip hidden_size {model.integer('hidden_size')} does not fit "
            f"transformer siglip_feat_dim {width!r}"
        )
    processor = ComponentConfig(directory, "siglip_processor")
    spec = SiglipSpec(
        patch_size=processor.integer("patch_size"), max_num_patches=processor.integer("max_num_patches")
    )
    if model.integer("patch_size") != spec.patch_size:
        raise CheckpointError(
            f"{processor.path}: patch_size {spec.patch_size} does not fit siglip patch_size "
            f"{model.integer('patch_size')}"
        )
    return spec
