"""Which device, number type and threads a rank computes with."""

import os

import torch

from zimage_models.config import EngineConfig
from zimage_models.errors import InvalidRequest


def resolve_device(config: EngineConfig, *, index: int = 0) -> torch.device:
    """Find the device that a config names, and see that it is usable.

    Args:
        config: of several ranks it names a type only.
        index: which of several devices of that type, when there are several ranks.

    Raises:
        InvalidRequest: the device is not there, or one device is named for several ranks.
    """
    name = config.device
    num_ranks = config.parallel.tensor_parallel_size
    if name == "auto":
        device = torch.accelerator.current_accelerator(check_available=True)
        # Apple's is untried: it has to be asked for by name.
        device = torch.device("cpu") if device is None or device.type == "mps" else device
    else:
        device = _usable(name)
    if num_ranks == 1 or device.type == "cpu":
        return device
    if torch.device(name if name != "auto" else device.type).index is not None:
        raise InvalidRequest(
            f"device: {name!r} is one device; {num_ranks} ranks take {device.type}", field="device"
        )
    return _usable(f"{device.type}:{index}")


def _usable(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidRequest(f"device: {name!r} is not usable here ({error})", field="device") from error
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Read a config's type; ``auto`` is float32 on a CPU, else bfloat16."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def limit_threads(config: EngineConfig) -> None:
    """Set torch's threads: what the config says, or for several ranks an equal part of the cores at most."""
    num_ranks = config.parallel.tensor_parallel_size
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    elif num_ranks > 1:
        part = (os.cpu_count() or 1) // num_ranks
        torch.set_num_threads(max(1, min(part, torch.get_num_threads())))
