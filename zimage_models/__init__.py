"""Z-Image models and their step-level engine: PyTorch and diffusers, no Ray, no HTTP, no storage."""

from importlib import import_module
from typing import TYPE_CHECKING

from zimage_models.config import EngineConfig, ParallelConfig
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
from zimage_models.field_spec import RequestField
from zimage_models.model_spec import DEFAULT_MODEL, KNOWN_MODELS, ModelSpec, read_model_spec
from zimage_models.request_fields import REQUEST_FIELDS
from zimage_models.variants import VARIANTS, VariantSpec

if TYPE_CHECKING:
    from zimage_models.engine.build_engine import EngineLike, build_engine
    from zimage_models.engine.request_handle import PreviewEvent, RequestHandle
    from zimage_models.pictures import Picture
    from zimage_models.requests import ImageRequest, ImageResult, Priority, Timings, build_request
else:
    # Every module of this package runs this file first, and those that tell a command line its options need
    # neither NumPy nor Pillow. So names whose modules import them come when they are asked for.
    _MODULES = {
        "engine.build_engine": ("EngineLike", "build_engine"),
        "engine.request_handle": ("PreviewEvent", "RequestHandle"),
        "pictures": ("Picture",),
        "requests": ("ImageRequest", "ImageResult", "Priority", "Timings", "build_request"),
    }

    def __getattr__(name: str) -> object:
        for module, names in _MODULES.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{module}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "DEFAULT_MODEL",
    "KNOWN_MODELS",
    "REQUEST_FIELDS",
    "VARIANTS",
    "BlankImage",
    "Cancelled",
    "CheckpointError",
    "DeadlineExceeded",
    "EngineConfig",
    "EngineDead",
    "EngineLike",
    "EngineOverloaded",
    "GenerationFailed",
    "ImageRequest",
    "ImageResult",
    "InvalidRequest",
    "ModelSpec",
    "OutOfMemory",
    "ParallelConfig",
    "Picture",
    "PreviewEvent",
    "Priority",
    "RequestField",
    "RequestHandle",
    "Timings",
    "VariantSpec",
    "ZImageError",
    "build_engine",
    "build_request",
    "read_model_spec",
]
