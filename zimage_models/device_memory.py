"""Memory of the device an engine runs on: copies to it, and what it holds."""

import torch
from torch import Tensor

from zimage_models.engine_stats import process_peak_bytes


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor to the device without making the host wait for the device's queue."""
    if device.type == "cuda":
        # Only a copy from pinned memory is asynchronous.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def release_cached(device: torch.device) -> None:
    """Give the allocator's unused blocks back, so that a smaller request finds memory in one piece."""
    if device.type != "cpu":
        torch.accelerator.empty_cache()


def peak_bytes(device: torch.device) -> int:
    """Return the most memory held so far: of the accelerator, or of the process on a CPU."""
    if device.type != "cpu":
        return int(torch.accelerator.max_memory_allocated(device))
    return process_peak_bytes()
