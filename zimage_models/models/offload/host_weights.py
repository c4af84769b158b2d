"""The weights of a module in one piece of host memory, from which one copy brings them to a device."""

import torch
from torch import Tensor, nn

from zimage_models.models.device_memory import host_memory

_ALIGNMENT = 256


class HostWeights:
    """A module's weights, one after the other in host memory."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._tensors = _tensors_of(module)
        self._starts = []
        num_bytes = 0
        for tensor in self._tensors:
            self._starts.append(num_bytes)
            num_bytes += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        self.memory = host_memory(num_bytes, device)
        for tensor, place in zip(self._tensors, self._places(self.memory), strict=True):
            tensor.data = place.copy_(tensor)

    def come_home(self) -> None:
        """Make the module's tensors those in host memory again."""
        self.move_to(self.memory)

    def move_to(self, memory: Tensor) -> None:
        """Make the module's tensors those in a copy of the host memory."""
        for tensor, place in zip(self._tensors, self._places(memory), strict=True):
            tensor.data = place

    def _places(self, memory: Tensor) -> list[Tensor]:
        return [
            memory[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            for tensor, start in zip(self._tensors, self._starts, strict=True)
        ]


def _tensors_of(module: nn.Module) -> list[Tensor]:
    """Return what a module computes with: parameters, buffers and tensors that are plain attributes."""
    tensors = [
        tensor
        for part in module.modules()
        for owner in (part.__dict__, part._parameters, part._buffers)
        for tensor in owner.values()
        if isinstance(tensor, Tensor)
    ]
    return list({id(tensor): tensor for tensor in tensors}.values())
