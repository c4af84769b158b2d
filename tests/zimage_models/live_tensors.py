"""Counts the memory of what is computed, tensor by tensor."""

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class LiveTensors(TorchDispatchMode):
    """While it is active, counts the bytes of the storages that are made, and the most at once.

    Args:
        device: count only those on a device of this type.
    """

    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self._device = device
        self.num_bytes = 0
        self.peak_bytes = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        seen = {argument.untyped_storage()._cdata for argument in args if isinstance(argument, Tensor)}
        tree_map_only(Tensor, lambda tensor: self._count(tensor, seen), result)
        return result

    def _count(self, tensor: Tensor, seen: set[int]) -> None:
        if self._device not in (None, tensor.device.type):
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in seen or key in self._known:
            return
        self._known.add(key)
        self.num_bytes += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self.num_bytes)
        weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self.num_bytes -= num_bytes
