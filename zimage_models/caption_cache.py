"""Refined captions by their tokens: many images of a batch share a prompt, and most share a negative one."""

from collections import OrderedDict

from torch import Tensor


class CaptionCache:
    """Keeps captions up to a number of bytes; the least recently used go first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._captions: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()
        self.num_bytes = 0
        self.num_hits = 0
        self.num_misses = 0

    def get(self, ids: tuple[int, ...]) -> Tensor | None:
        """Look up the caption of some token ids."""
        caption = self._captions.get(ids)
        if caption is None:
            self.num_misses += 1
            return None
        self.num_hits += 1
        self._captions.move_to_end(ids)
        return caption

    def put(self, ids: tuple[int, ...], caption: Tensor) -> None:
        """Keep a caption that is not here yet; it must own its memory."""
        self._captions[ids] = caption
        self.num_bytes += caption.nbytes
        while self.num_bytes > self._max_bytes:
            self.num_bytes -= self._captions.popitem(last=False)[1].nbytes
