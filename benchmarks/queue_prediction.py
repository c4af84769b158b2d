"""Compare the engine's estimate of its queued seconds with what they then take.

    python -m benchmarks.queue_prediction [--rounds 10]

It uses the embedded Turbo, warmed up as a replica is. Each round, up to 40 online requests of mixed sizes and
steps come within a second; then the estimate is read every 50 ms until all are done. An error is relative to
the time that was really left, where that is at least a second. Beside it: the same for the number of requests
divided by the speed of the last steps. Target: 25 % at the median, in the first minute as well.
"""

import argparse
import json
import random
import statistics
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.load import PROMPTS
from benchmarks.report import write_result
from zimage_models.config import EngineConfig
from zimage_models.engine.build_engine import EngineLike, build_engine, warm_up
from zimage_models.requests import Priority, build_request

_SIZES = {"64x64": 10, "96x64": 4, "128x128": 6, "192x192": 3, "256x128": 3, "384x384": 1}
"""Sizes and how often they come."""
_STEPS = (1, 4, 8, 8, 8, 20, 50)
_ARRIVING_S = 1.0
_EVERY_S = 0.05
_LEAST_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One reading of the engine's estimate."""

    at_s: float
    predicted_s: float
    by_count_s: float
    """The number of requests, divided by the speed of the last steps."""


def send(engine: EngineLike, chance: random.Random) -> None:
    """Send one round's requests, at random times within a second."""
    num_requests = chance.randint(4, 40)
    due_s = sorted(chance.uniform(0, _ARRIVING_S) for _ in range(num_requests))
    start_s = time.monotonic()
    for at_s in due_s:
        values = {
            "prompt": chance.choice(PROMPTS),
            "seed": chance.getrandbits(31),
            "size": chance.choices(list(_SIZES), list(_SIZES.values()))[0],
            "num_inference_steps": chance.choice(_STEPS),
        }
        time.sleep(max(0.0, start_s + at_s - time.monotonic()))
        engine.submit(build_request(engine.spec, values, priority=Priority.ONLINE))


def watch(engine: EngineLike) -> tuple[list[Sample], float]:
    """Read the estimate until all requests are done; return the readings and that time."""
    samples = []
    while (stats := engine.stats()).num_open:
        by_count_s = stats.num_online / stats.images_per_s if stats.images_per_s else 0.0
        samples.append(Sample(at_s=time.monotonic(), predicted_s=stats.queue_s, by_count_s=by_count_s))
        time.sleep(_EVERY_S)
    return samples, time.monotonic()


def errors(samples: list[tuple[float, float, float]]) -> dict[str, Any]:
    """Summarise (predicted, by count, actual) seconds."""
    relative = {
        "by_work": [abs(predicted - actual) / actual for predicted, _, actual in samples],
        "by_count": [abs(by_count - actual) / actual for _, by_count, actual in samples],
    }
    return {
        "samples": len(samples),
        "median_actual_s": round(statistics.median(actual for *_, actual in samples), 2),
        **{
            name: {
                "median_error": round(statistics.median(values), 3),
                "p90_error": round(statistics.quantiles(values, n=10, method="inclusive")[8], 3),
            }
            for name, values in relative.items()
        },
    }


def measure(num_rounds: int) -> dict[str, Any]:
    """Replay the rounds."""
    chance = random.Random(0)
    engine = build_engine(EngineConfig())
    try:
        warm_up(engine)
        start_s = time.monotonic()
        early: list[tuple[float, float, float]] = []
        late: list[tuple[float, float, float]] = []
        for _ in range(num_rounds):
            send(engine, chance)
            samples, end_s = watch(engine)
            for sample in samples:
                if (actual_s := end_s - sample.at_s) >= _LEAST_S:
                    seen = sample.predicted_s, sample.by_count_s, actual_s
                    (early if sample.at_s - start_s < 60 else late).append(seen)
    finally:
        engine.close()
    result: dict[str, Any] = {"first_minute": errors(early), "all": errors(early + late)}
    result["met"] = {name: part["by_work"]["median_error"] <= 0.25 for name, part in result.items()}
    return result


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=10)
    result = measure(parser.parse_args().rounds)
    print(json.dumps(result, indent=2))
    write_result("queue_prediction", result)


if __name__ == "__main__":
    main()
