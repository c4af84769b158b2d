"""Measures seconds, memory and the arithmetic ceiling of a device, to the end of its queue."""

import statistics
import time
from collections.abc import Callable

import torch


def seconds(work: Callable[[], None], device: torch.device) -> float:
    """Time some work until the device has finished it."""
    if device.type == "cpu":
        start_s = time.perf_counter()
        work()
        return time.perf_counter() - start_s
    start, end = (torch.Event(device, enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start.record()
    work()
    end.record()
    torch.cuda.synchronize(device)
    return float(start.elapsed_time(end)) / 1000


def matmul_ceiling(side: int, device: torch.device) -> float:
    """Measure the rate of a ``side`` x ``side`` bfloat16 matrix product, in operations per second."""
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))

    def multiply() -> None:
        for _ in range(10):
            left @ right

    multiply()
    return 10 * 2 * side**3 / statistics.median(seconds(multiply, device) for _ in range(5))


def peak_memory(work: Callable[[], None], device: torch.device) -> dict[str, int] | None:
    """Return the bytes held before some work and at its peak, or None on a CPU."""
    if device.type == "cpu":
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return {"before_bytes": before, "peak_bytes": torch.cuda.max_memory_allocated(device)}
