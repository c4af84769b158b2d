"""An engine over several ranks makes what one rank makes: the same velocities, latents and pixels."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.zimage_models.engine_parts import cpu_components
from tests.zimage_models.tensor_parallel.divided_engine import (
    KeptLauncher,
    Parts,
    divided_parts,
    make_all,
    relative_difference,
    whole_parts,
)
from zimage_models.config import ParallelConfig
from zimage_models.engine.engine import Engine
from zimage_models.errors import InvalidRequest
from zimage_models.models.denoisers.condition import Caption
from zimage_models.models.image_state import ImageState
from zimage_models.pictures import Picture
from zimage_models.requests import ImageRequest, build_request
from zimage_models.tensor_parallel.parallel import split_of

DEGREES = (2, 3, 4)
LONG = "a long way down " * 5


@pytest.fixture(scope="module")
def checkpoints(six_heads: Path, thirty_heads: Path) -> dict[str, Path]:
    return {"six": six_heads, "thirty": thirty_heads}


@cache
def whole(model: Path) -> Parts:
    return whole_parts(model)


@pytest.fixture(scope="module", params=[(model, n) for model in ("six", "thirty") for n in DEGREES])
def engines(
    request: pytest.FixtureRequest, checkpoints: dict[str, Path], rank_launcher: KeptLauncher
) -> Iterator[tuple[Parts, Parts]]:
    """Load an engine over some ranks, and the same on one."""
    model, num_ranks = request.param
    with divided_parts(rank_launcher, checkpoints[model], num_ranks) as divided:
        yield divided, whole(checkpoints[model])


def picture(height: int = 64, width: int = 64) -> Picture:
    return Picture(pixels=np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def half_mask(height: int = 64, width: int = 64) -> Picture:
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[:, width // 2 :] = 255
    return Picture(pixels=mask)


def requests_of(engine: Engine) -> list[ImageRequest]:
    """As Turbo's; guided, with captions of one and of two buckets; from a picture; in a part of it; fast."""
    values: list[dict[str, Any]] = [
        {"guidance_scale": 0.0},
        {"guidance_scale": 2.0, "negative_prompt": "dog"},
        {"guidance_scale": 2.0, "negative_prompt": LONG},
        {"guidance_scale": 0.0, "reference_images": [picture()], "strength": 0.7},
        {"guidance_scale": 1.0, "reference_images": [picture()], "mask": half_mask(), "size": "64x64"},
        {"guidance_scale": 0.0, "prompt": LONG, "size": "96x64"},
    ]
    common = {"prompt": "owl", "num_inference_steps": 3}
    requests = [
        build_request(engine.spec, {**common, "seed": seed, **value}) for seed, value in enumerate(values)
    ]
    return [*requests, replace(requests[2], seed=6, quality_mode="fast", step_schedule=(0, 2))]


def finished_latents(parts: Parts, requests: Sequence[ImageRequest]) -> tuple[list[Any], dict[int, Tensor]]:
    """Make images; returns the results, and by seed the latents they were decoded from."""
    latents: dict[int, Tensor] = {}
    decode = parts.runner.decode

    def keep_and_decode(states: Sequence[ImageState]) -> Any:
        for state in states:
            assert state.canvas is not None
            latents[state.request.seed] = state.canvas.latents_CHW
        return decode(states)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts.runner, "decode", keep_and_decode)
        return make_all(parts.engine, requests), latents


def test_latents_and_pixels_are_those_of_one_rank(engines: tuple[Parts, Parts]) -> None:
    divided, whole = engines
    results, latents = finished_latents(divided, requests_of(divided.engine))
    expected, expected_latents = finished_latents(whole, requests_of(whole.engine))
    for result, reference in zip(results, expected, strict=True):
        assert relative_difference(latents[result.request.seed], expected_latents[result.request.seed]) < 1e-5
        difference = result.pixels_HWC.astype(int) - reference.pixels_HWC
        assert np.abs(difference).max() <= 1


def test_velocities_are_those_of_one_rank(engines: tuple[Parts, Parts]) -> None:
    found = []
    for parts in engines:
        denoiser = parts.runner.denoiser
        generator = torch.Generator().manual_seed(0)
        embeddings = [[torch.randn(n, 32, generator=generator)] for n in (40, 50)]
        captions = denoiser.refine_captions(embeddings)
        conditions = [denoiser.conditions([Caption(caption, [50])], [], 8, 12)[0] for caption in captions]
        latents_BCHW = torch.randn(2, 16, 8, 12, generator=generator)
        velocity_BCHW, _ = denoiser.predict(latents_BCHW, torch.tensor([0.1, 0.7]), conditions)
        found.append((torch.stack(captions), velocity_BCHW))
    for divided, whole in zip(*found, strict=True):
        assert relative_difference(divided, whole) < 1e-5


def test_every_rank_holds_its_part_of_what_is_divided(engines: tuple[Parts, Parts]) -> None:
    divided, whole = engines
    group: Any = divided.runner.ranks
    num_ranks = len(group.loads)
    transformer = cpu_components(whole.engine.spec.directory).transformer
    in_blocks = [
        module.weight.nbytes
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and (".attention." in name or ".feed_forward." in name)
    ]
    undivided = sum(p.nbytes for p in transformer.parameters()) - sum(in_blocks)
    loads = [group.loads[rank]["transformer"] for rank in range(num_ranks)]
    # Padding: heads up to the next multiple of the ranks, hidden units up to 16 for each.
    heads = transformer.config.n_heads
    most = -(-heads // num_ranks) * num_ranks / heads + 0.1
    for load in loads:
        assert (
            sum(in_blocks) / num_ranks <= load["num_bytes"] - undivided <= most * sum(in_blocks) / num_ranks
        )
        assert load["num_bytes_read"] <= load["num_bytes"]
    # Nothing of the divided part is read twice, and nothing is left out.
    assert sum(load["num_bytes_read"] for load in loads) == sum(in_blocks) + num_ranks * undivided


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"tensor_parallel_size": 7}, "^tensor_parallel_size: 7 is not one of 1, 2, 3, 4, 5, 6, 8, 10$"),
        ({"tensor_parallel_size": 0}, "^tensor_parallel_size: 0 is not one of"),
        ({"text_encoder": "cpu"}, "^text_encoder: 'cpu' is not one of sharded, first_rank"),
        ({"collective_timeout_s": 0.0}, r"^collective_timeout_s: 0\.0 is not a finite number above 0"),
        ({"start_timeout_s": float("inf")}, "^start_timeout_s: inf is not a finite number above 0"),
    ],
)
def test_parallel_configs_are_checked(values: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        ParallelConfig(**values)


@pytest.mark.parametrize("num_ranks", [2, 3, 4, 5, 6, 8, 10])
def test_the_released_shape_divides_over_every_degree(num_ranks: int) -> None:
    for full_size, unit in ((30 * 128, 128), (10240, 16)):
        splits = [
            split_of(full_size, unit=unit, dim=0, rank=rank, world_size=num_ranks)
            for rank in range(num_ranks)
        ]
        covered = [index for split in splits for index in range(split.start, split.stop)]
        assert covered == list(range(full_size))
        assert len({split.size for split in splits}) == 1
        assert num_ranks * splits[0].size <= full_size * 32 / 30
        whole = torch.arange(full_size * 2.0).view(full_size, 2)
        parts = torch.cat([split.take(whole) for split in splits])
        assert torch.equal(parts[:full_size], whole)
        assert not parts[full_size:].any()
