"""A stack of blocks computes what diffusers' blocks compute one by one, no less exactly."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_z_image import RopeEmbedder, ZImageTransformerBlock
from torch import Tensor, nn

from zimage_models.models.denoisers.block import ALL
from zimage_models.models.denoisers.block_stack import BlockStack
from zimage_models.models.denoisers.fp8_layers import place_in_fp8
from zimage_models.models.denoisers.fp8_linear import to_fp8

CPU = torch.device("cpu")
DIM, NUM_HEADS, NUM_BLOCKS = 96, 3, 3
BATCH, LENGTH = 2, 40
KINDS = ("without modulation", "one time", "two times")


def blocks(kind: str, seed: int = 0) -> list[Any]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = [
            ZImageTransformerBlock(
                number, DIM, NUM_HEADS, NUM_HEADS, 1e-5, qk_norm=True, modulation=kind != KINDS[0]
            )
            for number in range(NUM_BLOCKS)
        ]
        for block in made:
            for name, parameter in block.named_parameters():
                if "norm" in name:
                    torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
    return [block.eval().requires_grad_(False) for block in made]


class Inputs:
    """Tokens, their positions, and the times that they are at."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x_BSD = torch.randn(BATCH, LENGTH, DIM, generator=generator)
        self.times_BMT = torch.randn(BATCH, 2, DIM, generator=generator)
        self.is_noisy_BS = torch.rand(BATCH, LENGTH, generator=generator) < 0.5
        positions = torch.randint(0, 16, (BATCH * LENGTH, 3), generator=generator)
        rope = RopeEmbedder(axes_dims=[8, 12, 12], axes_lens=[16, 16, 16])
        self.turns_BSC = rope(positions).view(BATCH, LENGTH, -1)

    def run(
        self, stack: BlockStack, kind: str, dtype: torch.dtype = torch.float32, read: slice = ALL
    ) -> Tensor:
        times_BMT = self.times_BMT.to(dtype)
        times: dict[str, tuple[Tensor, ...]] = {
            KINDS[0]: (),
            KINDS[1]: (times_BMT[:, :1],),
            KINDS[2]: (times_BMT, self.is_noisy_BS),
        }
        return stack.run(self.x_BSD.to(dtype), torch.view_as_real(self.turns_BSC), *times[kind], read=read)

    def reference(self, blocks: Sequence[Any], kind: str, dtype: torch.dtype = torch.float32) -> Tensor:
        noisy_BT, clean_BT = self.times_BMT.to(dtype).unbind(1)
        times = {
            KINDS[0]: (),
            KINDS[1]: (noisy_BT,),
            KINDS[2]: (None, self.is_noisy_BS.int(), noisy_BT, clean_BT),
        }[kind]
        x_BSD = self.x_BSD.to(dtype)
        for block in blocks:
            x_BSD = block(x_BSD, None, self.turns_BSC, *times)
        return x_BSD


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_diffusers_blocks(kind: str) -> None:
    given, theirs = Inputs(), blocks(kind)
    expected = given.reference(theirs, kind)
    assert error(given.run(BlockStack(theirs), kind), expected) < 1e-5
    assert error(Inputs(seed=1).run(BlockStack(theirs), kind), expected) > 0.1
    assert error(given.run(BlockStack(blocks(kind, seed=1)), kind), expected) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_no_further_from_float32_than_diffusers_is(kind: str) -> None:
    ours, theirs = 0.0, 0.0
    for seed in range(4):
        given, exact = Inputs(seed), blocks(kind, seed)
        expected = given.reference([copy.deepcopy(block).double() for block in exact], kind, torch.float64)
        rounded = [block.bfloat16() for block in exact]
        theirs += error(given.reference(rounded, kind, torch.bfloat16), expected)
        ours += error(given.run(BlockStack(rounded), kind, torch.bfloat16), expected)
    assert 0 < ours <= theirs


class Rounded(nn.Module):
    """A linear layer whose weight and inputs are rounded to float8 and back, row by row."""

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.weight = self.rounded(linear.weight)

    def rounded(self, x: Tensor) -> Tensor:
        rows = to_fp8(x)
        return rows.values.double() * rows.scales.double()

    def forward(self, x: Tensor) -> Tensor:
        return (self.rounded(x) @ self.weight.T).to(x.dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_in_float8_round_what_goes_into_their_products(kind: str) -> None:
    errors = []
    for seed in range(3):
        given, exact = Inputs(seed), blocks(kind, seed)
        rounded = copy.deepcopy(exact)
        for block in rounded:
            for name, module in list(block.named_modules()):
                if isinstance(module, nn.Linear) and "adaLN" not in name:
                    block.set_submodule(name, Rounded(module))
        transformer = nn.Module()
        transformer.layers = nn.ModuleList(copy.deepcopy(exact))
        found = given.run(BlockStack(place_in_fp8(transformer, CPU).layers), kind)
        errors.append(error(found, given.reference(rounded, kind)))
        assert 0.02 < error(found, given.reference(exact, kind)) < 0.2
    # A value in the middle of two of the format may go to either, and then all that follows differs a little.
    assert min(errors) < 1e-3
    assert max(errors) < 0.03


def test_what_is_added_after_a_block_reaches_the_next() -> None:
    given, theirs = Inputs(), blocks(KINDS[1])
    added = torch.randn(BATCH, LENGTH, DIM, generator=torch.Generator().manual_seed(9))
    x_BSD = given.x_BSD
    for number, block in enumerate(theirs):
        x_BSD = block(x_BSD, None, given.turns_BSC, given.times_BMT[:, 0])
        if number in (0, NUM_BLOCKS - 1):
            x_BSD = x_BSD + added
    stack = BlockStack(theirs)
    found = stack.run(
        given.x_BSD,
        torch.view_as_real(given.turns_BSC),
        given.times_BMT[:, :1],
        add={0: added, NUM_BLOCKS - 1: added}.get,
    )
    assert error(found, x_BSD) < 1e-5


def test_weights_are_in_memory_once() -> None:
    theirs = blocks(KINDS[1])
    before = [copy.deepcopy(block.state_dict()) for block in theirs]
    stack = BlockStack(theirs)
    for block, weights in zip(theirs, before, strict=True):
        for name, tensor in block.state_dict().items():
            assert torch.equal(tensor, weights[name])
    for linear in (theirs[0].attention.to_k, theirs[1].feed_forward.w3, theirs[2].adaLN_modulation[0]):
        linear.weight.zero_()
    expected = Inputs().reference(theirs, KINDS[1])
    assert error(Inputs().run(stack, KINDS[1]), expected) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_compiled", [False, True])
def test_only_what_is_read_of_the_last_block_is_returned(kind: str, is_compiled: bool) -> None:
    given, stack = Inputs(), BlockStack(blocks(kind))
    whole = given.run(stack, kind)
    if is_compiled:
        stack.compile(backend="eager")
    for read in (slice(0, 7), slice(11, 30)):
        part = given.run(stack, kind, read=read)
        assert part.shape[1] == read.stop - read.start
        assert error(part, whole[:, read]) < 1e-5
