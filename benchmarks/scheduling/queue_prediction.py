"""Compare the engine's estimate of its queued seconds with what they then take.

    python -m benchmarks.scheduling.queue_prediction [--rounds 10]

It uses the embedded Base, warmed up as a replica is. Each round, up to 40 online requests of mixed sizes and
steps come within a second, a third of them with guidance; then the estimate is read every 50 ms until all are
done. An error is relative to the time that was really left, where that is at least a second; each round
weighs the same, however long. Beside it: the same for the number of requests divided by the speed of the last
steps. Target: 25 % at the median, in the first minute as well.
"""

import argparse
import json
import random
import time
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from benchmarks.load import PROMPTS
from benchmarks.report import write_result
from zimage_models.config import EngineConfig
from zimage_models.engine.build_engine import EngineLike, build_engine, warm_up
from zimage_models.requests import Priority, build_request

_SIZES = {"64x64": 10, "96x64": 4, "128x128": 6, "192x192": 3, "256x128": 3, "384x384": 1}
"""Sizes and how often they come."""
_STEPS = (1, 4, 8, 8, 8, 20, 50)
_GUIDANCE = (0.0, 0.0, 4.0)
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

    def seen(self, end_s: float) -> "Seen":
        """Return the estimates with the time that was really left."""
        return self.predicted_s, self.by_count_s, end_s - self.at_s


Seen = tuple[float, float, float]
"""Predicted, by count, and actual seconds."""


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
            "guidance_scale": chance.choice(_GUIDANCE),
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


def errors(rounds: list[list[Seen]]) -> dict[str, Any]:
    """Summarise the readings of some rounds, each of which weighs the same."""
    rounds = [seen for seen in rounds if seen]
    result: dict[str, Any] = {"rounds": len(rounds), "samples": sum(map(len, rounds))}
    if not rounds:
        return result
    result["median_actual_s"] = round(_quantile([[actual for *_, actual in seen] for seen in rounds], 0.5), 2)
    for place, name in enumerate(("by_work", "by_count")):
        relative = [[abs(one[place] - one[2]) / one[2] for one in seen] for seen in rounds]
        result[name] = {
            "median_error": round(_quantile(relative, 0.5), 3),
            "p90_error": round(_quantile(relative, 0.9), 3),
        }
    return result


def _quantile(rounds: list[list[float]], share: float) -> float:
    weighted = sorted((value, 1 / len(values) / len(rounds)) for values in rounds for value in values)
    reached = accumulate(weight for _, weight in weighted)
    return next(value for (value, _), so_far in zip(weighted, reached, strict=True) if so_far >= share)


def measure(num_rounds: int) -> dict[str, Any]:
    """Replay the rounds."""
    chance = random.Random(0)
    engine = build_engine(EngineConfig(model="tiny-zimage-base"))
    early: list[list[Seen]] = []
    rounds: list[list[Seen]] = []
    try:
        warm_up(engine)
        start_s = time.monotonic()
        for _ in range(num_rounds):
            send(engine, chance)
            samples, end_s = watch(engine)
            long = [sample for sample in samples if end_s - sample.at_s >= _LEAST_S]
            rounds.append([sample.seen(end_s) for sample in long])
            early.append([sample.seen(end_s) for sample in long if sample.at_s - start_s < 60])
    finally:
        engine.close()
    result: dict[str, Any] = {"first_minute": errors(early), "all": errors(rounds)}
    result["met"] = {
        name: bool(part["samples"]) and part["by_work"]["median_error"] <= 0.25
        for name, part in result.items()
    }
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
