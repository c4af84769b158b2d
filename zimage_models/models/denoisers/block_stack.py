"""A stack of a Z-Image transformer's blocks, run one after the other.

Shape legend: B batch, S sequence, D model width, C channels of a head.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from zimage_models.models.denoisers.block import ALL, Block
from zimage_models.models.denoisers.fp8_linear import Fp8Rows
from zimage_models.models.denoisers.modulation import Modulator
from zimage_models.models.offload.window import Window

_MAX_COMPILED_FORMS = 32
"""Of a block: with or without modulation, of one time or two, one image or more, one length or any."""


class BlockStack:
    """Runs blocks of one kind, one after the other."""

    def __init__(self, blocks: Sequence[Any], window: Window | None = None) -> None:
        """Take over the weights of diffusers' blocks (ZImageTransformerBlock, or a ControlNet's).

        Args:
            blocks: they share their weights with the stack; with a window, they lose those of their products.
            window: brings the weights to the device; None if they stay there.
        """
        self._window = window
        self._blocks = [
            Block(block) if window is None else _passed_through(window, block) for block in blocks
        ]
        self._ops = self._blocks[0].ops
        self.fp8 = self._blocks[0].fp8
        """Whether its matrix products are made in float8."""
        self._is_compiled = False
        self._eps = self._blocks[0].eps
        self._modulator = Modulator(blocks)

    def compile(self, *, backend: str) -> None:
        """Compile the blocks, which share their compiled forms."""
        self._is_compiled = True
        for block in self._blocks:
            block.compile(fullgraph=True, backend=backend)

    def run(
        self,
        x_BSD: Tensor,
        rotary_BSC2: Tensor,
        times_BMT: Tensor | None = None,
        is_noisy_BS: Tensor | None = None,
        *,
        add: Callable[[int], Tensor | None] | None = None,
        read: slice = ALL,
    ) -> Tensor:
        """Return the tokens after all blocks, or those that are read; arguments are those of :meth:`each`."""
        # A queue of one: a list would keep the tokens of every block in memory.
        return deque(
            self.each(x_BSD, rotary_BSC2, times_BMT, is_noisy_BS, add=add, read=read), maxlen=1
        ).pop()

    def each(
        self,
        x_BSD: Tensor,
        rotary_BSC2: Tensor,
        times_BMT: Tensor | None = None,
        is_noisy_BS: Tensor | None = None,
        *,
        add: Callable[[int], Tensor | None] | None = None,
        read: slice = ALL,
    ) -> Iterator[Tensor]:
        """Yield the tokens after each block.

        Args:
            x_BSD: the tokens before the first block.
            rotary_BSC2: cosine and sine of each token's turns, (B or 1, S, C / 2, 2) float32.
            times_BMT: embedded times, one or two for each item; None for blocks without modulation.
            is_noisy_BS: which tokens are at the first of two times.
            add: returns what is added to the tokens after a block, by the block's number.
            read: which tokens are wanted of the last block; it computes the others only as keys and values.
        """
        if self._is_compiled:
            # Past this limit, a compiled block raises instead of running slowly. The limit is this thread's:
            # engines run in another than the one that loads them.
            config = torch._dynamo.config
            config.recompile_limit = max(config.recompile_limit, _MAX_COMPILED_FORMS)
        modulation = self._modulator(times_BMT, is_noisy_BS)
        scale = modulation.attention_scale(0)
        normed_BSD = self._scaled_norm(x_BSD, scale)
        for number, block in enumerate(self._blocks):
            if self._window:
                self._window.enter(block)
            is_last = number + 1 == len(self._blocks)
            next_scale = None if is_last else modulation.attention_scale(number + 1)
            part = read if is_last else ALL
            if self._is_compiled:
                # One form for all blocks, and for whatever is read.
                next_scale, part = scale if next_scale is None else next_scale, ALL
            factors = modulation.gates_and_scale(number)
            in_part = [f[:, part] if f.shape[1] > 1 else f for f in factors]
            x_BSD, normed_BSD = block(x_BSD[:, part], normed_BSD, rotary_BSC2, *in_part, next_scale, part)
            added_BSD = add(number) if add else None
            if added_BSD is not None:
                x_BSD = x_BSD + added_BSD[:, part]
                normed_BSD = self._scaled_norm(x_BSD, next_scale)
            yield x_BSD[:, read] if is_last and self._is_compiled else x_BSD

    def _scaled_norm(self, x_BSD: Tensor, scale: Tensor | None) -> Tensor | Fp8Rows | None:
        """Prepare tokens for the first product of a block, if there is one."""
        if scale is None:
            return None
        normed_BSD: Tensor | Fp8Rows = self._ops.scaled_norm(x_BSD, scale, self._eps, fp8=self.fp8)
        return normed_BSD


def _passed_through(window: Window, block: Any) -> Block:
    """Take over a block's weights and give them to a window."""
    taken = Block(block, window.device)
    window.take(taken)
    # They are views of what the window has made a copy of.
    del block.attention, block.feed_forward
    return taken
