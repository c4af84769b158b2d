"""Z-Image models and their step-level engine: PyTorch and diffusers, no Ray, no HTTP, no storage."""

from zimage_models.config import EngineConfig
from zimage_models.errors import (
    BlankImage,
    Cancelled,
    CheckpointError,
    DeadlineExceeded,
    EngineDead,
    EngineOverloaded,
    GenerationFailed,
    InvalidRequest,
    OutOfMemory,
    ZImageError,
)
from zimage_models.model_spec import DEFAULT_MODEL, KNOWN_MODELS, ModelSpec, read_model_spec
from zimage_models.requests import ImageRequest, ImageResult, Priority, Timings, build_request
from zimage_models.variants import VARIANTS, VariantSpec

__all__ = [
    "DEFAULT_MODEL",
    "KNOWN_MODELS",
    "VARIANTS",
    "BlankImage",
    "Cancelled",
    "CheckpointError",
    "DeadlineExceeded",
    "EngineConfig",
    "EngineDead",
    "EngineOverloaded",
    "GenerationFailed",
    "ImageRequest",
    "ImageResult",
    "InvalidRequest",
    "ModelSpec",
    "OutOfMemory",
    "Priority",
    "Timings",
    "VariantSpec",
    "ZImageError",
    "build_request",
    "read_model_spec",
]
