"""Classifier-free guidance over a step: which forwards its images need, and how their velocities combine.

Shape legend: B batch, C latent channels, H W latent height and width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zimage_models.models.image_state import Half, ImageState
from zimage_models.requests import ImageRequest

Predict = Callable[[Tensor, Tensor, Sequence[Half]], Tensor]
"""Predicts velocities (B, C, H, W) from latents, times and halves of one bucket, one for each item."""


def guided_velocity(
    states: Sequence[ImageState], latents_BCHW: Tensor, time_B: Tensor, predict: Predict
) -> Tensor:
    """Predict the velocities of images of one bucket, of both halves of the pairs that are guided.

    Each half of a pair stays in its own bucket, as padding changes it.
    """
    canvases = [state.drawn for state in states]
    halves = [canvas.positive for canvas in canvases]
    negatives: dict[int, Half] = {}
    for row, (state, canvas) in enumerate(zip(states, canvases, strict=True)):
        time = canvas.step_times.times[state.step]
        if canvas.negative is not None and time <= state.request.cfg_truncation:
            negatives[row] = canvas.negative
    if not negatives:
        return predict(latents_BCHW, time_B, halves)
    negative_halves = list(negatives.values())
    negative_latents_BCHW = torch.stack([latents_BCHW[row] for row in negatives])
    negative_time_B = torch.stack([time_B[row] for row in negatives])
    if negative_halves[0].condition.bucket == halves[0].condition.bucket:
        both_BCHW = predict(
            torch.cat([latents_BCHW, negative_latents_BCHW]),
            torch.cat([time_B, negative_time_B]),
            halves + negative_halves,
        )
        velocity_BCHW, negative_BCHW = both_BCHW[: len(states)], both_BCHW[len(states) :]
    else:
        velocity_BCHW = predict(latents_BCHW, time_B, halves)
        negative_BCHW = predict(negative_latents_BCHW, negative_time_B, negative_halves)
    velocities = list(velocity_BCHW)
    for row, negative_CHW in zip(negatives, negative_BCHW, strict=True):
        velocities[row] = _guide(velocities[row], negative_CHW, states[row].request)
    return torch.stack(velocities)


def _guide(positive: Tensor, negative: Tensor, request: ImageRequest) -> Tensor:
    """Combine a guided pair as diffusers does: positive + g * (positive - negative), norm-capped if asked."""
    guided = positive + request.guidance_scale * (positive - negative)
    if request.cfg_normalization > 0:
        limit = torch.linalg.vector_norm(positive) * request.cfg_normalization
        guided = guided * torch.clamp(limit / torch.linalg.vector_norm(guided), max=1.0)
    return guided
