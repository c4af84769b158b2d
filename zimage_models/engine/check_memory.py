"""Refuse an engine that does not fit its device, before any weights are read."""

import torch

from zimage_models.config import EngineConfig
from zimage_models.errors import InvalidRequest
from zimage_models.memory.machine import available_bytes
from zimage_models.memory.modes import MEMORY_MODES
from zimage_models.memory.plan import FreeMemory, MemoryPlan, gb, memory_plan
from zimage_models.model_spec import ModelSpec
from zimage_models.models.device_memory import free_bytes
from zimage_models.models.offload.model_sizes import read_model_sizes
from zimage_models.models.sequence_layout import num_image_tokens


def check_memory(
    config: EngineConfig, spec: ModelSpec, *, device: torch.device, dtype: torch.dtype, vae_dtype: torch.dtype
) -> None:
    """Check that an engine of one rank fits its device and the host, with one image of its model's own size.

    Raises:
        InvalidRequest: it does not; with the memory mode that does.
        CheckpointError: a configuration file cannot be read.
    """
    free = FreeMemory(
        device_bytes=free_bytes(device), host_bytes=None if device.type == "cpu" else available_bytes()
    )
    plans = memory_plans(config, spec, device=device, dtype=dtype, vae_dtype=vae_dtype)
    if not free.holds(plans[config.memory]):
        raise InvalidRequest(refusal(config.memory, plans, free, str(device)), field="memory")


def refusal(memory: str, plans: dict[str, MemoryPlan], free: FreeMemory, device: str) -> str:
    """Return what a memory mode lacks, and which one fits, as a message."""
    message = f"memory: {memory} needs {free.shortage(plans[memory], device)}"
    fitting = next((name for name, plan in plans.items() if free.holds(plan)), None)
    if fitting is None:
        return f"{message}; no memory mode fits"
    return f"{message}; --memory {fitting} needs {gb(plans[fitting].device_bytes)}"


def memory_plans(
    config: EngineConfig, spec: ModelSpec, *, device: torch.device, dtype: torch.dtype, vae_dtype: torch.dtype
) -> dict[str, MemoryPlan]:
    """Plan an engine's memory in each mode, for one image of its model's own size and its longest caption."""
    sizes = read_model_sizes(spec)
    height, width = spec.default_height, spec.default_width
    return {
        name: memory_plan(
            sizes,
            mode,
            itemsize=dtype.itemsize,
            layer_itemsize=1 if config.precision == "fp8" else None,
            vae_itemsize=vae_dtype.itemsize,
            num_tokens=num_image_tokens(height, width, spec.size_multiple) + spec.max_prompt_tokens,
            num_pixels=height * width,
            cache_bytes=config.caption_cache_bytes,
            device_is_host=device.type == "cpu",
        )
        for name, mode in MEMORY_MODES.items()
    }
