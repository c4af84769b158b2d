"""Measures work on a device that may run behind its host, without waiting for it."""

import time

import torch


class Stopwatch:
    """Measures the time from its making to :meth:`stop`, on the device's own clock."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start = self._mark()
        self._end: float | torch.Event | None = None

    def stop(self) -> None:
        """Stop where the device will be when it has done all that it was given until now."""
        self._end = self._mark()

    def seconds(self) -> float | None:
        """Return the time measured; None while the device is not there yet."""
        if isinstance(self._start, float):
            return self._end - self._start if isinstance(self._end, float) else None
        if not isinstance(self._end, torch.Event) or not self._end.query():
            return None
        return self._start.elapsed_time(self._end) / 1000

    def _mark(self) -> float | torch.Event:
        if self._device.type == "cpu":
            return time.perf_counter()
        event = torch.Event(device=self._device, enable_timing=True)
        event.record()
        return event
