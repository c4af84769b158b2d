"""The training script of the embedded Edit: what it shows, and that it learns, interrupted or not."""

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples import edit_lessons, train_tiny_edit


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two runs are equal to the bit where one thread adds up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_half_of_the_edits_of_the_acceptance_test_are_never_shown() -> None:
    colours = [
        edit_lessons.NAMES.index(name) for name in edit_lessons.NAMES if name[0] in edit_lessons.TEST_COLOURS
    ]
    asked = [(index, colour) for index in range(0, 256, 4) for colour in colours]
    held_out = {pair for pair in asked if edit_lessons.is_held_out(*pair)}
    assert len(held_out) == len(asked) / 2 == 128
    # Latents that say what they show.
    latents = torch.zeros(256, edit_lessons.PLACEMENTS, 10, 2, 1, 1, 1)
    latents += 10 * torch.arange(256).view(-1, 1, 1, 1, 1, 1, 1) + torch.arange(10).view(10, 1, 1, 1, 1)
    lessons = edit_lessons.Lessons(train_tiny_edit.load_pipeline(), latents)
    rng = np.random.default_rng(0)
    shown = {
        divmod(int(latent), 10) for _ in range(60) for latent in lessons.draw(rng, 64).images_BNCHW.flatten()
    }
    assert len(shown) > 1500
    assert not shown & held_out


def test_it_learns_and_goes_on_where_it_was(tmp_path: Path) -> None:
    pipelines = [train_tiny_edit.load_pipeline() for _ in range(3)]
    latents = edit_lessons.encode_pictures(pipelines[0].vae, edit_lessons.draw_pictures()[:2])
    lessons = edit_lessons.Lessons(pipelines[0], latents)
    whole, part, rest = (pipeline.transformer for pipeline in pipelines)

    def train(model: Any, state: str, times_up: Iterator[bool]) -> bool:
        return train_tiny_edit.train(
            model,
            lessons,
            tmp_path / state,
            num_steps=8,
            batch_size=2,
            is_time_up=lambda: next(times_up),
        )

    def loss() -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            return float(train_tiny_edit.loss_of(whole, lessons.draw(np.random.default_rng(0), 4)))

    before = loss()
    assert train(whole, "whole.pt", repeat(False))
    assert loss() < 0.95 * before
    assert not train(part, "parts.pt", iter([False, False, False, True]))
    assert train(rest, "parts.pt", repeat(False))
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, rest.get_parameter(name)), name
