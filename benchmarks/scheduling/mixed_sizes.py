"""Compare the pixels/s of mixed sizes and prompts with those of one size and prompt length, in one run.

    python -m benchmarks.scheduling.mixed_sizes [--images 96] [--rounds 3]
    python -m benchmarks.scheduling.mixed_sizes --model Tongyi-MAI/Z-Image-Turbo --sides 512 1536  # on a GPU

All requests are there from the start. The mixed ones have every side between two and prompts of 8 to 500
tokens; the uniform ones have the side and the prompt length of the same mean pixels and tokens. By default
they go to the embedded Turbo, with a quarter of the sides. Target: at least 0.9 of the uniform pixels/s.
"""

import argparse
import json
import random
import statistics
import time
from typing import Any

from benchmarks.report import write_result
from benchmarks.scheduling.mixed_load import running
from zimage_models.config import EngineConfig
from zimage_models.engine.engine import Engine
from zimage_models.engine.step_scheduler import StepScheduler
from zimage_models.requests import build_request

_PROMPT_TOKENS = (8, 500)
_TEMPLATE_TOKENS = 16
"""Of the chat template and the number before the words, at most; a word here is one token."""

Kind = tuple[int, int, int]
"""Height, width and words of the prompt."""


def mixed_kinds(sides: list[int], num_images: int, most_tokens: int) -> list[Kind]:
    """Draw sizes and prompt lengths evenly."""
    chance = random.Random(0)
    least, most = _PROMPT_TOKENS
    words = (least, max(least, min(most, most_tokens) - _TEMPLATE_TOKENS))
    return [(chance.choice(sides), chance.choice(sides), chance.randint(*words)) for _ in range(num_images)]


def uniform_kind(kinds: list[Kind], multiple: int) -> Kind:
    """Return the square with the mean pixels, and the mean prompt length."""
    pixels = statistics.fmean(height * width for height, width, _ in kinds)
    side = multiple * round(pixels**0.5 / multiple)
    return side, side, round(statistics.fmean(words for *_, words in kinds))


def pixels_per_s(engine: Engine, kinds: list[Kind], seed: int) -> float:
    """Make all images and return the pixels per second."""
    values = [
        # Each its own prompt, so that none is in the cache.
        {"prompt": f"{seed + number}" + " red" * words, "seed": number, "height": height, "width": width}
        for number, (height, width, words) in enumerate(kinds)
    ]
    start_s = time.perf_counter()
    handles = [engine.submit(build_request(engine.spec, one)) for one in values]
    for handle in handles:
        handle.result()
    return sum(height * width for height, width, _ in kinds) / (time.perf_counter() - start_s)


def measure(config: EngineConfig, sides: list[int], *, num_images: int, rounds: int) -> dict[str, Any]:
    """Measure both loads in turns on one engine."""
    with running(config, StepScheduler) as engine:
        multiple = engine.spec.size_multiple
        between = list(range(sides[0], sides[1] + 1, max(multiple, (sides[1] - sides[0]) // 8)))
        mixed = mixed_kinds(between, num_images, engine.spec.max_prompt_tokens)
        loads = {"uniform": [uniform_kind(mixed, multiple)] * num_images, "mixed": mixed}
        speeds: dict[str, list[float]] = {name: [] for name in loads}
        for number in range(rounds):
            for name, kinds in loads.items():
                speeds[name].append(pixels_per_s(engine, kinds, 1000 * number))
    ratios = [mixed / uniform for mixed, uniform in zip(speeds["mixed"], speeds["uniform"], strict=True)]
    return {
        "sides": between,
        "uniform": loads["uniform"][0],
        "images": num_images,
        "pixels_per_s": {name: round(statistics.median(values)) for name, values in speeds.items()},
        "ratios": [round(ratio, 3) for ratio in ratios],
        "ratio": round(statistics.median(ratios), 3),
        "target": 0.9,
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default=EngineConfig().model)
    parser.add_argument("--sides", type=int, nargs=2, default=[128, 384], help="least and most, in pixels")
    arguments = parser.parse_args()
    result = measure(
        EngineConfig(model=arguments.model),
        arguments.sides,
        num_images=arguments.images,
        rounds=arguments.rounds,
    )
    print(json.dumps(result, indent=2))
    write_result("mixed_sizes" if arguments.model == EngineConfig().model else "mixed_sizes_released", result)


if __name__ == "__main__":
    main()
