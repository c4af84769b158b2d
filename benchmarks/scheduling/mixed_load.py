"""Compare fair steps with first come, first served under mixed sizes, in one run.

    python -m benchmarks.scheduling.mixed_load [--requests 300] [--load 0.8]
    python -m benchmarks.scheduling.mixed_load --model Tongyi-MAI/Z-Image-Turbo --sizes 512 1024 1536 # GPU

Online requests come at random (Poisson): 70 % small and 25 % medium ones of 8 steps, 5 % large ones of 50.
By default they go to the embedded Turbo, whose 64, 128 and 192 pixels have the token ratios of 512, 1024 and
1536 pixels of the released model. The load is the share of the images/s that first come, first served makes
when all requests are there from the start. Both then get the same requests at the same times, each on an
engine of its own. A slowdown is the time from a request to its image, divided by the same time on an idle
engine. Targets: p95 slowdown of small images at most a third of FIFO's, mean time no longer, and images/s
within 3 % when all requests are there from the start (at the load, both keep up).
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeVar

from benchmarks.load import PROMPTS
from benchmarks.report import write_result
from zimage_models.config import EngineConfig
from zimage_models.engine.build_engine import warm_up
from zimage_models.engine.engine import Engine
from zimage_models.engine.job import Job
from zimage_models.engine.load_engine import load_engine
from zimage_models.engine.step_scheduler import Bucket, StepScheduler
from zimage_models.requests import ImageRequest, Priority, build_request

Payload = TypeVar("Payload")

_SHARES = {"small": 0.7, "medium": 0.25, "large": 0.05}
_STEPS = {"small": 8, "medium": 8, "large": 50}


class FifoScheduler(StepScheduler[Payload]):
    """Gives every step to the bucket of the oldest request, until that is done."""

    def choose_bucket(self, priority: int) -> Bucket:
        """Choose the bucket of a priority's oldest request."""
        return self.oldest(priority).bucket


_SCHEDULERS: dict[str, type[StepScheduler[Job]]] = {"fifo": FifoScheduler, "fair": StepScheduler}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Requests of three kinds in random order."""

    kinds: list[str]
    sides: dict[str, int]

    def request(self, engine: Engine, number: int, kind: str) -> ImageRequest:
        """Build one of the requests."""
        values = {
            "prompt": PROMPTS[number % len(PROMPTS)],
            "seed": number,
            "height": self.sides[kind],
            "width": self.sides[kind],
            "num_inference_steps": _STEPS[kind],
        }
        return build_request(engine.spec, values, priority=Priority.ONLINE)

    def send(self, engine: Engine, due_s: list[float]) -> dict[str, Any]:
        """Send all requests, each at its time; return the times that they took, and the speed."""
        start_s = time.monotonic()
        handles = []
        for number, (kind, at_s) in enumerate(zip(self.kinds, due_s, strict=True)):
            time.sleep(max(0.0, start_s + at_s - time.monotonic()))
            handles.append(engine.submit(self.request(engine, number, kind)))
        times_s = [handle.result().timings.total_s for handle in handles]
        stats = engine.stats()
        return {
            "times_s": times_s,
            "images_per_s": len(handles) / (time.monotonic() - start_s),
            "images_per_step": round(stats.num_item_steps / stats.num_steps, 2),
        }

    def alone_s(self, engine: Engine) -> dict[str, float]:
        """Measure what one image of each kind takes on an idle engine: the median of five, after one."""
        times_s = {}
        for kind in self.sides:
            results = [engine.submit(self.request(engine, number, kind)).result() for number in range(6)]
            times_s[kind] = statistics.median(result.timings.total_s for result in results[1:])
        return times_s


@contextmanager
def running(config: EngineConfig, scheduler_class: type[StepScheduler[Job]]) -> Iterator[Engine]:
    """Run an engine with this scheduler."""
    engine = load_engine(config, scheduler_class=scheduler_class)
    engine.start()
    try:
        warm_up(engine)
        yield engine
    finally:
        engine.close()


def summary(sent: dict[str, Any], mix: Mix, alone_s: dict[str, float]) -> dict[str, Any]:
    """Return the slowdowns of each kind, the mean time and the speed."""
    slowdowns: dict[str, list[float]] = {kind: [] for kind in mix.sides}
    for kind, time_s in zip(mix.kinds, sent["times_s"], strict=True):
        slowdowns[kind].append(time_s / alone_s[kind])
    return {
        "slowdown": {kind: _quantiles(values) for kind, values in slowdowns.items()},
        "mean_s": round(statistics.mean(sent["times_s"]), 3),
        "images_per_s": round(sent["images_per_s"], 3),
        "images_per_step": sent["images_per_step"],
    }


def _quantiles(values: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    return {"p50": round(cuts[9], 2), "p95": round(cuts[18], 2), "max": round(max(values), 2)}


def measure(config: EngineConfig, sides: dict[str, int], *, num_requests: int, load: float) -> dict[str, Any]:
    """Measure both schedulers."""
    chance = random.Random(0)
    # The shares are exact, so that a run of few requests has its large ones too.
    kinds = [kind for kind, share in _SHARES.items() for _ in range(round(share * num_requests))]
    chance.shuffle(kinds)
    mix = Mix(kinds=kinds, sides=sides)
    alone_s: dict[str, dict[str, float]] = {}
    full_speed: dict[str, float] = {}
    for name, scheduler_class in _SCHEDULERS.items():
        with running(config, scheduler_class) as engine:
            alone_s[name] = mix.alone_s(engine)
            full_speed[name] = mix.send(engine, [0.0] * len(kinds))["images_per_s"]
    due_s = list(accumulate(chance.expovariate(load * full_speed["fifo"]) for _ in kinds))
    results = {}
    for name, scheduler_class in _SCHEDULERS.items():
        with running(config, scheduler_class) as engine:
            results[name] = summary(mix.send(engine, due_s), mix, alone_s["fifo"])
    fifo, fair = results["fifo"], results["fair"]
    p95 = {name: result["slowdown"]["small"]["p95"] for name, result in results.items()}
    return {
        "requests": len(kinds),
        "sides": sides,
        "alone_s": {kind: round(seconds, 4) for kind, seconds in alone_s["fifo"].items()},
        "all_at_once_images_per_s": {name: round(speed, 3) for name, speed in full_speed.items()},
        "load": load,
        **results,
        "met": {
            "small p95 slowdown": p95["fair"] <= p95["fifo"] / 3,
            "mean": fair["mean_s"] <= fifo["mean_s"],
            "images/s": full_speed["fair"] >= 0.97 * full_speed["fifo"],
        },
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--load", type=float, default=0.8)
    parser.add_argument("--model", default=EngineConfig().model)
    parser.add_argument("--sizes", type=int, nargs=3, default=[64, 128, 192], help="sides in pixels")
    arguments = parser.parse_args()
    config = EngineConfig(model=arguments.model, max_queued=max(1024, arguments.requests))
    sides = dict(zip(_SHARES, arguments.sizes, strict=True))
    result = measure(config, sides, num_requests=arguments.requests, load=arguments.load)
    print(json.dumps(result, indent=2))
    write_result("mixed_load" if arguments.model == EngineConfig().model else "mixed_load_released", result)


if __name__ == "__main__":
    main()
