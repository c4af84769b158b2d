"""What fair steps do to waiting times, on a clock that is only counted: a cost model instead of a device."""

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.mixed_load import FifoScheduler
from zimage_models.engine.step_scheduler import Bucket, Entry, StepScheduler

MAX_STEP_TOKENS = 16_896
OVERHEAD = 800
"""What a step costs beside its tokens, in tokens: 5 % of a full step."""


@dataclass(slots=True, eq=False)
class Image:
    """An image to make: when it comes, and what is left of it."""

    bucket: Bucket
    num_steps: int
    at: float = 0.0
    num_left: int = 0
    ended: float = 0.0
    then: Callable[[], "Image"] | None = field(default=None)
    """What its caller asks for next, in a closed loop."""

    @property
    def alone(self) -> float:
        return self.num_steps * cost(self.bucket, 1)

    @property
    def slowdown(self) -> float:
        return (self.ended - self.at) / self.alone


def bucket(side: int, caption_tokens: int = 64) -> Bucket:
    tokens = (side // 16) ** 2 + caption_tokens
    return Bucket(
        height=side, width=side, caption_tokens=caption_tokens, negative_tokens=0, num_tokens=tokens
    )


def cost(bucket: Bucket, num_images: int) -> float:
    return OVERHEAD + num_images * bucket.num_tokens * (1 + bucket.num_tokens / 23_040)


def simulate(
    images: list[Image], scheduler_class: type[StepScheduler[Image]] = StepScheduler, *, until: float = 1e12
) -> list[Image]:
    """Make all images and return them as they end; each is started at its time."""
    scheduler = scheduler_class(max_step_tokens=MAX_STEP_TOKENS, ageing_s=1e12, step_cost=cost)
    to_come = sorted(images, key=lambda image: image.at, reverse=True)
    ended: list[Image] = []
    now, number = 0.0, 0
    while now < until and (to_come or len(scheduler)):
        if not len(scheduler):
            now = max(now, to_come[-1].at)
        while to_come and to_come[-1].at <= now:
            image = to_come.pop()
            image.num_left = image.num_steps
            scheduler.add(Entry(priority=0, arrival=number, bucket=image.bucket, payload=image))
            number += 1
        batch = scheduler.schedule(now)
        now += cost(batch[0].bucket, len(batch))
        for entry in batch:
            image = entry.payload
            image.num_left -= 1
            if not image.num_left:
                scheduler.remove(entry)
                image.ended = now
                ended.append(image)
                if image.then is not None:
                    following = image.then()
                    following.at = now
                    to_come.append(following)
    return ended


SMALL, MEDIUM, LARGE = bucket(512), bucket(1024), bucket(1536)


def mixed_load(num_images: int, load: float) -> Callable[[], list[Image]]:
    """Describe Poisson arrivals of 70 % small, 25 % medium and 5 % large images, as a share of full speed."""
    chance = random.Random(3)
    kinds = chance.choices([(SMALL, 8), (MEDIUM, 8), (LARGE, 50)], [70, 25, 5], k=num_images)

    def full(bucket: Bucket) -> float:
        capacity = MAX_STEP_TOKENS // bucket.num_tokens
        return cost(bucket, capacity) / capacity

    work = statistics.mean(full(bucket) * steps for bucket, steps in kinds)
    times = list(accumulate(chance.expovariate(load / work) for _ in kinds))
    return lambda: [Image(*kind, at=time) for kind, time in zip(kinds, times, strict=True)]


def test_small_images_wait_a_third_and_nothing_else_gets_worse() -> None:
    images = mixed_load(600, 0.8)
    fifo, fair = simulate(images(), FifoScheduler), simulate(images())

    def p95(ended: list[Image]) -> float:
        slowdowns = [image.slowdown for image in ended if image.bucket == SMALL]
        return statistics.quantiles(slowdowns, n=20)[18]

    def mean(ended: list[Image]) -> float:
        return statistics.mean(image.ended - image.at for image in ended)

    assert len(fifo) == len(fair) == 600
    assert p95(fair) <= p95(fifo) / 3
    assert mean(fair) <= mean(fifo)
    assert fair[-1].ended == pytest.approx(fifo[-1].ended, rel=0.03)


@pytest.mark.parametrize("load", [0.5, 0.9, 1.5])
def test_uniform_traffic_is_as_before(load: float) -> None:
    chance = random.Random(1)
    times = list(accumulate(chance.expovariate(load / (8 * cost(SMALL, 15) / 15)) for _ in range(200)))
    runs = [
        simulate([Image(SMALL, 8, at=time) for time in times], scheduler_class)
        for scheduler_class in (FifoScheduler, StepScheduler)
    ]
    assert [image.ended for image in runs[0]] == [image.ended for image in runs[1]]


KINDS = st.tuples(
    st.sampled_from((512, 640, 768, 1024, 1280, 1536)), st.integers(1, 16), st.sampled_from((4, 8, 28, 50))
)


@given(st.lists(KINDS, min_size=1, max_size=8, unique_by=lambda kind: kind[:2]))
def test_no_image_is_slower_than_four_times_its_share(kinds: list[tuple[int, int, int]]) -> None:
    """Every bucket always has one image: each of N buckets has a share of 1 / N."""

    def ask(bucket: Bucket, num_steps: int) -> Image:
        return Image(bucket, num_steps, then=lambda: ask(bucket, num_steps))

    first = [ask(bucket(side, 32 * caption), num_steps) for side, caption, num_steps in kinds]
    turn = max(cost(image.bucket, MAX_STEP_TOKENS // image.bucket.num_tokens) for image in first)
    ended = simulate(first, until=40 * sum(image.alone for image in first) / len(first) + 1e6)
    assert {image.bucket for image in ended} == {image.bucket for image in first}
    for image in ended:
        # A step that has begun is not interrupted, and what is worth less than a turn waits for one.
        assert image.ended - image.at <= 4 * len(first) * (image.alone + turn)


@given(st.lists(KINDS, min_size=2, max_size=6, unique_by=lambda kind: kind[:2]), st.integers(0, 2**16))
def test_a_large_image_ends_among_ever_new_buckets(kinds: list[tuple[int, int, int]], seed: int) -> None:
    """Whoever sends another size each time, five at once, does not hold up the others."""
    chance = random.Random(seed)
    captions = iter(range(20, 100_000))

    def another() -> Image:
        return Image(bucket(chance.choice((512, 768)), 32 * next(captions)), 2, then=another)

    large = [Image(bucket(side, 32 * caption), steps) for side, caption, steps in kinds]
    crowd = [another() for _ in range(5)]
    num_buckets, turn = len(large) + len(crowd), cost(SMALL, 15)
    limit = 4 * num_buckets * max(image.alone + turn for image in large)
    ended = simulate([*large, *crowd], until=limit)
    for image in large:
        assert 0 < image.ended <= 4 * num_buckets * (image.alone + turn)
    assert len(ended) > len(large)
