"""A window holds the weights of a few modules at once, and has the next ones there before they are needed."""

import random

import pytest
import torch
from torch import nn

from zimage_models.models.offload.window import Window

CPU = torch.device("cpu")
WIDTHS = (48, 64, 40, 64, 56)


def modules() -> list[nn.Module]:
    generator = torch.Generator().manual_seed(0)
    made = [nn.Linear(width, 64) for width in WIDTHS]
    for module in made:
        module.requires_grad_(False)
        for parameter in module.parameters():
            parameter.normal_(generator=generator)
        # As a block has them: a tensor that is no parameter.
        module.scale = torch.randn(7, generator=generator, dtype=torch.bfloat16)
    return list(made)


def taken_by(num_slots: int) -> tuple[Window, list[nn.Module]]:
    window, made = Window(CPU, num_slots=num_slots), modules()
    for module in made:
        window.take(module)
    return window, made


def on_device(window: Window, made: list[nn.Module]) -> list[int]:
    """Return the numbers of the modules whose tensors lie in the window."""
    slots = {slot.memory.untyped_storage().data_ptr() for slot in window._slots.values()}
    places = [{tensor.untyped_storage().data_ptr() for tensor in tensors_of(module)} for module in made]
    assert all(place <= slots or not place & slots for place in places), "a module is in one place"
    return [number for number, place in enumerate(places) if place <= slots]


def tensors_of(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), module.scale]


def test_modules_keep_their_weights() -> None:
    window, made = taken_by(2)
    for _ in range(3):
        for module, original in zip(made, modules(), strict=True):
            window.enter(module)
            for found, expected in zip(tensors_of(module), tensors_of(original), strict=True):
                assert torch.equal(found, expected)
    for module, original in zip(made, modules(), strict=True):
        assert torch.equal(module.weight, original.weight), "also when they have left the device"


@pytest.mark.parametrize("num_slots", [1, 2, 3])
def test_no_more_modules_than_slots_are_on_the_device(num_slots: int) -> None:
    window, made = taken_by(num_slots)
    for number in [*range(5)] * 3 + random.Random(0).choices(range(5), k=50):
        window.enter(made[number])
        there = on_device(window, made)
        assert number in there
        assert len(there) <= num_slots
        assert {made.index(module) for module in window.held} == {*there}
    largest = max(sum(tensor.nbytes for tensor in tensors_of(module)) for module in made)
    assert num_slots * largest <= window.num_bytes <= num_slots * (largest + 3 * 256)


@pytest.mark.parametrize("num_slots", [2, 3])
def test_what_comes_next_is_there_before_it_is_needed(num_slots: int) -> None:
    window, made = taken_by(num_slots)
    for number in (*range(5), 0):
        window.enter(made[number])
    for number in (1, 2, 3, 4, 0, 1, 2):
        assert number in on_device(window, made)
        before = window.num_bytes_copied
        window.enter(made[number])
        ahead = (number + num_slots - 1) % len(made)
        assert window.num_bytes_copied - before == window._taken[made[ahead]].memory.nbytes, "and only once"
