"""Memory of an engine's device: copies to it, and how much it holds."""

import ctypes
import platform

import torch
from torch import Tensor

from zimage_models.models.process_memory import process_peak_bytes

# Parameters of mallopt, by their numbers in glibc's malloc.h. Blocks up to MMAP_THRESHOLD, here its maximum,
# come from the heaps, which shrink or are dropped only with as much unused at the end as the others say.
_MALLOC_OPTIONS = {-3: 32 * 2**20, -1: 2**30, -2: 64 * 2**20}  # MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD


def keep_freed(device: torch.device) -> None:
    """Make a process that computes on a CPU keep freed memory, because the next step needs as much again.

    glibc returns large blocks to the kernel at once, and fresh pages for each step cost up to a seventh of
    the step's time. With another C library, nothing changes.
    """
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        for option, value in _MALLOC_OPTIONS.items():
            ctypes.CDLL(None).mallopt(option, value)


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor to the device without making the host wait for the device's queue."""
    if device.type == "cuda":
        # Only a copy from pinned memory is asynchronous.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def release_cached(device: torch.device) -> None:
    """Release the allocator's unused blocks, so that a smaller request finds memory in one piece."""
    if device.type != "cpu":
        torch.accelerator.empty_cache()


def peak_bytes(device: torch.device) -> int:
    """Return the peak memory in bytes: the accelerator's, or on a CPU the process's."""
    if device.type != "cpu":
        return int(torch.accelerator.max_memory_allocated(device))
    return process_peak_bytes()
