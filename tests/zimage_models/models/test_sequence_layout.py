"""The layout of a sequence is the one that diffusers' transformer computes."""

import random

import pytest
import torch
from diffusers import ZImageTransformer2DModel

from zimage_models.models.sequence_layout import (
    caption_positions,
    num_caption_positions,
    num_caption_tokens,
    segment_ends,
)

CASES = [
    [5],
    [32],
    [31, 32, 33],
    [20, 11, 1],
    [96, 1, 64, 65],
    *([random.Random(seed).randrange(1, 130) for _ in range(3 + seed % 4)] for seed in range(8)),
]


@pytest.mark.parametrize("lengths", CASES, ids=str)
def test_positions_are_those_of_diffusers(lengths: list[int]) -> None:
    model = ZImageTransformer2DModel.__new__(ZImageTransformer2DModel)
    torch.nn.Module.__init__(model)
    num_images = max(1, len(lengths) - 1)
    images = [torch.zeros(16, 1, 2, 2) for _ in range(num_images)]
    captions = [torch.zeros(length, 4) for length in lengths]
    noisy = [0] * (num_images - 1) + [1]
    (_, [caption], _, _, [image_ids], [caption_ids], *_) = model.patchify_and_embed_omni(
        [images], [captions], [None], 2, 1, [noisy]
    )
    assert len(caption) == num_caption_tokens(lengths)
    # _prepare_sequence cuts the positions that are more than the tokens.
    assert caption_positions(lengths) == caption_ids[: len(caption), 0].tolist()
    # Each image is one token, and 31 of padding.
    assert segment_ends(lengths)[:num_images] == image_ids[::32, 0].tolist()
    assert num_caption_positions(lengths) > max(caption_ids[:, 0].max(), image_ids[:, 0].max())


def test_one_segment_is_counted_from_one() -> None:
    assert caption_positions([40]) == [*range(1, 65)]


def test_a_second_segment_is_shifted_by_the_padding_of_the_first() -> None:
    # 20 tokens at 1 to 20, their padding at 21 to 32; then 12 positions too many, all 0.
    assert caption_positions([20, 3])[30:46] == [31, 32, *[0] * 12, 23, 24]
