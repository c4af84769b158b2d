"""A window on the device through which weights pass that are kept in host memory.

While one module computes, the weights of the next are copied into another slot of the window. On a CPU the
copies are plain ones within its memory, and everything else is the same.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zimage_models.models.offload.host_weights import HostWeights


@dataclass(slots=True, eq=False)
class _Slot:
    memory: Tensor
    is_filled: torch.Event | None = None
    """Set on a GPU, where the copy into the slot runs beside what computes."""


class Window:
    """Brings the weights of modules to a device, those of a few modules at once."""

    def __init__(self, device: torch.device, *, num_slots: int) -> None:
        """Make an empty window.

        Args:
            device: where the modules compute.
            num_slots: modules whose weights are there at once; with at least two, copies overlap computing.
        """
        self.device = device
        self.num_bytes_copied = 0
        """Bytes brought to the device so far."""
        self._num_slots = num_slots
        self._copies: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._taken: dict[nn.Module, HostWeights] = {}
        # The first has been in use the longest ago.
        self._slots: OrderedDict[nn.Module, _Slot] = OrderedDict()
        self._last: nn.Module | None = None
        self._followers: dict[nn.Module, nn.Module] = {}

    @property
    def num_bytes(self) -> int:
        """Bytes of device memory that the window takes when it is full."""
        return self._num_slots * self._slot_bytes

    @property
    def held(self) -> tuple[nn.Module, ...]:
        """The modules whose weights are on the device."""
        return tuple(self._slots)

    @property
    def _slot_bytes(self) -> int:
        return max(weights.memory.nbytes for weights in self._taken.values())

    def take(self, module: nn.Module) -> None:
        """Move a module's weights to host memory, until :meth:`enter` brings them."""
        self._taken[module] = HostWeights(module, self.device)

    def enter(self, module: nn.Module) -> None:
        """Bring a module's weights to the device, where it computes now, and begin to copy the next module's.

        Next is what followed last time: denoising steps repeat, whatever stacks they run.
        """
        if self._last is not None:
            self._followers[self._last] = module
        self._last = module
        # Weights must not become tensors of inference mode, which compiled blocks tell apart.
        with torch.inference_mode(False):
            slot = self._bring(module)
            if slot.is_filled is not None:
                torch.cuda.current_stream(self.device).wait_event(slot.is_filled)
            follower = self._followers.get(module)
            for _ in range(self._num_slots - 1):
                if follower is None or follower is module:
                    break
                self._bring(follower)
                follower = self._followers.get(follower)

    def _bring(self, module: nn.Module) -> _Slot:
        slot = self._slots.get(module)
        if slot is None:
            slot = self._free_slot()
            self._fill(slot, self._taken[module])
            self._slots[module] = slot
        self._slots.move_to_end(module)
        return slot

    def _free_slot(self) -> _Slot:
        if len(self._slots) < self._num_slots:
            return _Slot(torch.empty(self._slot_bytes, dtype=torch.uint8, device=self.device))
        module, slot = self._slots.popitem(last=False)
        self._taken[module].come_home()
        return slot

    def _fill(self, slot: _Slot, weights: HostWeights) -> None:
        target = slot.memory[: weights.memory.nbytes]
        if self._copies is None:
            target.copy_(weights.memory)
        else:
            # All that computes with what was in the slot is in this queue.
            self._copies.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self._copies):
                target.copy_(weights.memory, non_blocking=True)
                slot.is_filled = self._copies.record_event()
        self.num_bytes_copied += target.nbytes
        weights.move_to(target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Residency:
    """How blocks of a transformer and a ControlNet get to the device; without a window they stay there."""

    layers: Window | None = None
    refiners: Window | None = None


ON_DEVICE = Residency()
