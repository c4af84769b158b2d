"""Token counts and positions in the transformer's sequence; plain numbers, no tensors.

Captions, images and features are padded to multiples of 32 tokens, with tokens that are attended.
"""

from collections.abc import Sequence

from zimage_models.model_spec import CAPTION_MULTIPLE


def padded_length(num_tokens: int) -> int:
    """Round a token count up to the multiple that Z-Image pads to (its bucket)."""
    return -(-num_tokens // CAPTION_MULTIPLE) * CAPTION_MULTIPLE


def num_image_tokens(height: int, width: int, size_multiple: int) -> int:
    """Count the padded image tokens of a picture of ``height`` x ``width`` pixels."""
    return padded_length((height // size_multiple) * (width // size_multiple))


def num_caption_tokens(lengths: Sequence[int]) -> int:
    """Count the padded tokens of a caption whose segments have ``lengths`` tokens."""
    return sum(map(padded_length, lengths))


def segment_ends(lengths: Sequence[int]) -> list[int]:
    """Return the position after each segment of a caption, which is its image's position.

    The first segment begins at 1. Between two segments there are two positions: an image's and its features'.
    Padding is not counted (diffusers, ``patchify_and_embed_omni``: ``cap_end_pos``).
    """
    ends = []
    start = 1
    for length in lengths:
        ends.append(start + length)
        start += length + 2
    return ends


def caption_positions(lengths: Sequence[int]) -> list[int]:
    """Return the position of every token of a caption, padding included.

    diffusers' ``_pad_with_ids`` gives a segment positions for its padding and then adds as many zeros. That
    is more positions than tokens, so from the second segment on, a token has an earlier one's position. We
    compute what diffusers computes, because checkpoints are trained through that code (docs/edit.md). With
    one segment, the zeros are cut off, and the positions are 1, 2, 3 and so on.
    """
    positions: list[int] = []
    for length, end in zip(lengths, segment_ends(lengths), strict=True):
        start, padded = end - length, padded_length(length)
        positions += [*range(start, start + padded), *([0] * (padded - length))]
    return positions[: num_caption_tokens(lengths)]


def num_caption_positions(lengths: Sequence[int]) -> int:
    """Count the positions that a caption and its images need, 0 included."""
    ends = segment_ends(lengths)
    pairs = zip(ends, lengths, strict=True)
    return max(ends[-1] + 1, *(end - length + padded_length(length) for end, length in pairs))
