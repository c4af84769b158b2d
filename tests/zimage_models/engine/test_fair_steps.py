"""What fair steps do to waiting times, on a clock that is only counted: a cost model instead of a device."""

import random
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scheduling.mixed_load import FifoScheduler
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


def cost(bucket: Bucket, num_images: int, overhead: float = OVERHEAD) -> float:
    return overhead + num_images * bucket.num_tokens * (1 + bucket.num_tokens / 23_040)


def simulate(
    images: list[Image],
    scheduler_class: type[StepScheduler[Image]] = StepScheduler,
    *,
    until: float = 1e12,
    cost: Callable[[Bucket, int], float] = cost,
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
    # At this load the device keeps up with either, so this says nothing of the speed that they can reach.
    assert fair[-1].ended == pytest.approx(fifo[-1].ended, rel=0.03)


def step_costs(
    scheduler_class: type[StepScheduler[Image]], *, num_captions: int, overhead: float
) -> dict[int, float]:
    """Return what a step of one image costs, by its side, when twenty callers never stop asking.

    Each asks for images of one size, with captions of so many lengths, which share no steps.
    """
    chance = random.Random(1)
    price = partial(cost, overhead=overhead)
    costs: Counter[int] = Counter()
    num_steps: Counter[int] = Counter()

    class Counting(scheduler_class):  # type: ignore[misc, valid-type]
        def schedule(self, now_s: float) -> list[Entry[Image]]:
            batch: list[Entry[Image]] = super().schedule(now_s)
            costs[batch[0].bucket.height] += price(batch[0].bucket, len(batch))
            num_steps[batch[0].bucket.height] += len(batch)
            return batch

    def ask(side: int, steps: int) -> Image:
        caption_tokens = 32 * chance.randint(1, num_captions)
        return Image(bucket(side, caption_tokens), steps, then=lambda: ask(side, steps))

    first = [ask(side, steps) for side, steps, number in MIX for _ in range(number)]
    simulate(first, Counting, until=5e7, cost=price)
    return {side: costs[side] / num_steps[side] for side in costs}


MIX = ((512, 8, 14), (1024, 8, 5), (1536, 50, 1))
"""Side, steps and how many of twenty images."""


@pytest.mark.parametrize(
    ("overhead", "num_captions", "most"),
    [
        pytest.param(OVERHEAD, 1, 1.0, id="full steps"),
        pytest.param(OVERHEAD, 4, 1.03, id="half-filled steps"),
        pytest.param(OVERHEAD, 8, 1.03, id="nearly empty steps"),
        # 24 % of a full step, and FIFO lets the others gather while a large image takes all of the device.
        pytest.param(5 * OVERHEAD, 1, 1.0, id="dear full steps"),
        pytest.param(5 * OVERHEAD, 8, 1.08, id="dear nearly empty steps"),
    ],
)
def test_the_same_images_take_a_full_device_little_longer(
    overhead: float, num_captions: int, most: float
) -> None:
    fifo, fair = (
        sum(steps * number * costs[side] for side, steps, number in MIX)
        for costs in (
            step_costs(scheduler, num_captions=num_captions, overhead=overhead)
            for scheduler in (FifoScheduler, StepScheduler)
        )
    )
    assert fair <= most * fifo * 1.001


@pytest.mark.parametrize("load", [0.5, 0.9, 1.5])
def test_uniform_traffic_is_as_before(load: float) -> None:
    chance = random.Random(1)
    times = list(accumulate(chance.expovariate(load / (8 * cost(SMALL, 15) / 15)) for _ in range(200)))
    runs = [
        simulate([Image(SMALL, 8, at=time) for time in times], scheduler_class)
        for scheduler_class in (FifoScheduler, StepScheduler)
    ]
    assert [image.ended for image in runs[0]] == [image.ended for image in runs[1]]


SIDES, CAPTIONS = st.sampled_from((512, 640, 768, 1024, 1280, 1536)), st.integers(1, 16)
LONG_KINDS = st.tuples(SIDES, CAPTIONS, st.sampled_from((8, 28, 50)))
KINDS = st.tuples(SIDES, CAPTIONS, st.sampled_from((1, 4, 8, 28, 50)))


@given(st.lists(LONG_KINDS, min_size=1, max_size=8, unique_by=lambda kind: kind[:2]))
def test_no_image_of_eight_steps_is_slower_than_four_times_its_share(
    kinds: list[tuple[int, int, int]],
) -> None:
    """Every bucket always has one image: each of N buckets has a share of 1 / N."""
    for image in one_of_each(kinds):
        assert image.slowdown <= 4 * len(kinds)


@given(st.lists(KINDS, min_size=1, max_size=8, unique_by=lambda kind: kind[:2]))
def test_an_image_of_few_steps_waits_for_a_turn_of_each_besides(kinds: list[tuple[int, int, int]]) -> None:
    """What is worth less than a turn waits for one, and a step that has begun is not interrupted."""
    turn = max(cost(bucket(side), MAX_STEP_TOKENS // bucket(side).num_tokens) for side, *_ in kinds)
    for image in one_of_each(kinds):
        assert image.ended - image.at <= 4 * len(kinds) * (image.alone + turn)


def one_of_each(kinds: list[tuple[int, int, int]]) -> list[Image]:
    """Make images of each kind, always one, for a while."""

    def ask(bucket: Bucket, num_steps: int) -> Image:
        return Image(bucket, num_steps, then=lambda: ask(bucket, num_steps))

    first = [ask(bucket(side, 32 * caption), num_steps) for side, caption, num_steps in kinds]
    ended = simulate(first, until=40 * sum(image.alone for image in first) / len(first) + 1e6)
    assert {image.bucket for image in ended} == {image.bucket for image in first}
    return ended


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
