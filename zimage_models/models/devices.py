"""The device, dtype and threads that a rank computes with."""

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from zimage_models.config import EngineConfig
from zimage_models.errors import InvalidRequest

_FP8_CAPABILITY = (8, 9)
_FP8_GPUS = "an NVIDIA GPU of compute capability 8.9 or more (L4, L40S, RTX 40, H100)"


def resolve_device(config: EngineConfig, *, index: int = 0) -> torch.device:
    """Find the device that a config names and check that it is usable.

    Args:
        config: for several ranks, it must name only a type.
        index: number of the device of that type; used only with several ranks.

    Raises:
        InvalidRequest: the device is not available, cannot do what ``precision`` asks for, or is one device
            for several ranks.
    """
    name = config.device
    num_ranks = config.parallel.tensor_parallel_size
    if name == "auto":
        device = torch.accelerator.current_accelerator(check_available=True)
        # Apple's is untested, so it must be named explicitly.
        device = torch.device("cpu") if device is None or device.type == "mps" else device
    else:
        device = _usable(name)
    if config.precision == "fp8":
        is_nvidia = device.type == "cuda" and torch.version.hip is None
        capability = torch.cuda.get_device_capability(device) if is_nvidia else None
        check_fp8(device.type, capability, dtype=config.dtype)
    if num_ranks == 1 or device.type == "cpu":
        return device
    if torch.device(name if name != "auto" else device.type).index is not None:
        raise InvalidRequest(
            f"device: {name!r} is one device; for {num_ranks} ranks, use {device.type!r}", field="device"
        )
    return _usable(f"{device.type}:{index}")


def check_fp8(device_type: str, capability: tuple[int, int] | None, *, dtype: str) -> None:
    """Refuse float8 where a device has no units for it; a CPU computes the same, slowly.

    Args:
        device_type: torch's name of it.
        capability: compute capability of an NVIDIA GPU; None for other devices.
        dtype: the engine's.

    Raises:
        InvalidRequest: the device cannot do it, or not with this dtype.
    """
    if device_type == "cpu":
        return
    if capability is None or capability < _FP8_CAPABILITY:
        found = device_type if capability is None else "one of {}.{}".format(*capability)
        raise InvalidRequest(f"precision: fp8 needs {_FP8_GPUS}, not {found}", field="precision")
    if dtype == "float32":
        raise InvalidRequest(
            "precision: fp8 on a GPU computes the rest in bfloat16; leave out the dtype float32",
            field="precision",
        )


def _usable(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidRequest(f"device: {name!r} is not usable here ({error})", field="device") from error
    return device


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Make a device this thread's current one: Triton's kernels run there, wherever their tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype that a config names; ``auto`` is float32 on a CPU, else bfloat16."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def limit_threads(config: EngineConfig) -> None:
    """Set torch's threads: the config's number, or for several ranks at most an equal share of the cores."""
    num_ranks = config.parallel.tensor_parallel_size
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    elif num_ranks > 1:
        part = (os.cpu_count() or 1) // num_ranks
        torch.set_num_threads(max(1, min(part, torch.get_num_threads())))
