"""A cache of tensors such as refined captions, because many images of a batch share a prompt or a picture."""

from collections import OrderedDict
from typing import Generic, TypeVar

from torch import Tensor

Key = TypeVar("Key")


class TensorCache(Generic[Key]):
    """Keeps tensors up to a number of bytes; the least recently used are dropped first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._tensors: OrderedDict[Key, Tensor] = OrderedDict()
        self.num_bytes = 0
        self.num_hits = 0
        self.num_misses = 0

    def get(self, key: Key) -> Tensor | None:
        """Return a tensor, or None if it is not cached."""
        tensor = self._tensors.get(key)
        if tensor is None:
            self.num_misses += 1
            return None
        self.num_hits += 1
        self._tensors.move_to_end(key)
        return tensor

    def put(self, key: Key, tensor: Tensor) -> None:
        """Add a tensor that is not cached yet; it must own its memory."""
        self._tensors[key] = tensor
        self.num_bytes += tensor.nbytes
        while self.num_bytes > self._max_bytes:
            self.num_bytes -= self._tensors.popitem(last=False)[1].nbytes
