"""The seconds of the work left: of steps, encoding and decoding, by priority."""

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import pytest

from tests.conditions import eventually
from tests.zimage_models.engine.conftest import IMAGE_TOKENS, Ask, MakeEngine, run
from tests.zimage_models.engine_parts import tokenizer_of
from zimage_models.engine.engine_costs import EngineCosts
from zimage_models.engine.job import Job, enter
from zimage_models.engine.request_handle import RequestHandle
from zimage_models.engine.step_scheduler import Bucket, Entry, StepScheduler
from zimage_models.engine.work_left import WorkLeft
from zimage_models.errors import EngineOverloaded
from zimage_models.model_spec import ModelSpec
from zimage_models.requests import Priority

ONLINE, BATCH = Priority.ONLINE, Priority.BATCH
STEP_S, MORE_S, DECODING_S, ENCODING_S = 4.0, 1.0, 0.5, 0.25


class KnownCosts(EngineCosts):
    """Costs that are given: a step takes 4 s, and 1 s more for each further image."""

    def __init__(self) -> None:
        super().__init__(width=64)

    def step_s(self, bucket: Bucket, num_images: int) -> float:
        assert num_images >= 1
        return STEP_S + MORE_S * (num_images - 1)

    def decoding_s(self, height: int, width: int) -> float:
        return DECODING_S

    def encoding_s(self, num_pictures: int) -> float:
        return ENCODING_S


@pytest.fixture
def work() -> WorkLeft:
    return WorkLeft(KnownCosts(), capacity=lambda _: 4)


@pytest.fixture
def entry_of(spec: ModelSpec, ask: Ask) -> Callable[..., Entry[Job]]:
    tokenizer, numbers = tokenizer_of(spec), count()

    def entry_of(num_steps: int, **values: object) -> Entry[Job]:
        request = ask(1, num_inference_steps=num_steps, **{"priority": ONLINE, **values})
        handle = RequestHandle(request=request, on_preview=None, on_cancel=lambda: None)
        return enter(handle, arrival=next(numbers), spec=spec, tokenizer=tokenizer)

    return entry_of


EntryOf = Callable[..., Entry[Job]]


def add(work: WorkLeft, *entries: Entry[Job]) -> None:
    """Add requests, and note that their prompts are encoded."""
    for entry in entries:
        work.add(entry)
    work.encoded(entries)


def test_no_work_takes_no_time(work: WorkLeft) -> None:
    assert work.seconds(BATCH) == 0.0


def test_a_step_that_reuses_another_is_no_work_of_its_own(work: WorkLeft, entry_of: EntryOf) -> None:
    entry = entry_of(8)
    state = entry.payload.state
    state.request = replace(state.request, quality_mode="fast", step_schedule=(0, 2, 5, 7))
    work.add(entry)
    assert work.seconds(ONLINE) == ENCODING_S + 4 * STEP_S + DECODING_S
    work.encoded([entry])
    for num_left, step in ((3, 1), (2, 3), (1, 6), (0, 8)):
        state.step = step
        work.stepped([entry])
        assert work.seconds(ONLINE) == num_left * STEP_S + DECODING_S


def test_one_image_takes_encoding_steps_and_decoding(work: WorkLeft, entry_of: EntryOf) -> None:
    entry = entry_of(3)
    work.add(entry)
    assert work.seconds(ONLINE) == ENCODING_S + 3 * STEP_S + DECODING_S
    work.encoded([entry])
    assert work.seconds(ONLINE) == 3 * STEP_S + DECODING_S


def test_images_of_one_bucket_share_steps(work: WorkLeft, entry_of: EntryOf) -> None:
    add(work, *(entry_of(3) for _ in range(4)))
    assert work.seconds(ONLINE) == 3 * (STEP_S + 3 * MORE_S) + 4 * DECODING_S


def test_the_longest_image_steps_alone_in_the_end(work: WorkLeft, entry_of: EntryOf) -> None:
    add(work, entry_of(10), entry_of(2))
    assert work.seconds(ONLINE) == 2 * (STEP_S + MORE_S) + 8 * STEP_S + 2 * DECODING_S


def test_more_images_than_a_step_holds_take_more_steps(work: WorkLeft, entry_of: EntryOf) -> None:
    add(work, *(entry_of(2) for _ in range(10)))
    # 20 images' steps are 5 of four images.
    assert work.seconds(ONLINE) == 5 * (STEP_S + 3 * MORE_S) + 10 * DECODING_S


def test_buckets_do_not_share_steps(work: WorkLeft, entry_of: EntryOf) -> None:
    add(work, entry_of(2), entry_of(2, size="128x64"))
    assert work.seconds(ONLINE) == 2 * 2 * STEP_S + 2 * DECODING_S


def test_online_work_does_not_wait_for_batch_work(work: WorkLeft, entry_of: EntryOf) -> None:
    add(work, entry_of(2), entry_of(5, priority=BATCH, size="128x64"))
    assert work.seconds(ONLINE) == 2 * STEP_S + DECODING_S
    assert work.seconds(BATCH) == 7 * STEP_S + 2 * DECODING_S


def test_work_that_is_done_is_left_no_more(work: WorkLeft, entry_of: EntryOf) -> None:
    entries = [entry_of(2), entry_of(1)]
    add(work, *entries)
    for entry in entries:
        entry.payload.state.step += 1
    work.stepped(entries)
    assert work.seconds(ONLINE) == STEP_S + 2 * DECODING_S
    for entry in entries:
        work.remove(entry)
    assert work.seconds(ONLINE) == 0.0


def test_a_step_that_runs_counts_down(work: WorkLeft, entry_of: EntryOf) -> None:
    add(work, entry_of(2))
    before_s = work.seconds(ONLINE)
    work.begin(ONLINE, STEP_S)
    eventually(lambda: work.seconds(ONLINE) < before_s, "time passes")
    assert work.seconds(ONLINE) >= before_s - STEP_S


def test_a_step_that_takes_longer_than_expected_does_not_count_twice(
    work: WorkLeft, entry_of: EntryOf
) -> None:
    add(work, entry_of(2))
    before_s = work.seconds(ONLINE)
    work.begin(ONLINE, 1e-9)
    start_s = time.monotonic()
    eventually(lambda: time.monotonic() > start_s + 0.01, "it is late")
    assert work.seconds(ONLINE) == pytest.approx(before_s)


def test_online_work_waits_for_a_batch_step_that_has_begun(work: WorkLeft, entry_of: EntryOf) -> None:
    add(work, entry_of(2), entry_of(5, priority=BATCH))
    work.begin(BATCH, 100.0)
    assert 2 * STEP_S + DECODING_S + 90 < work.seconds(ONLINE) <= 2 * STEP_S + DECODING_S + 100


def test_one_large_image_does_not_make_small_ones_dear(make_engine: MakeEngine, ask: Ask) -> None:
    """Eight small images, one large one of one step, then 32 small ones: these take as long as before it."""
    engine, _ = make_engine(max_step_tokens=1024)

    def queue_s() -> float:
        handles = [engine.submit(ask(seed, priority=ONLINE)) for seed in range(32)]
        queued_s = engine.stats().queue_s
        for handle in handles:
            handle.cancel()
        engine.step()
        assert engine.stats().num_open == 0
        return queued_s

    for seed in range(8):
        engine.submit(ask(seed, priority=ONLINE))
    run(engine)
    before_s = queue_s()
    engine.submit(ask(1, size="512x512", num_inference_steps=1, priority=ONLINE))
    run(engine)
    assert 0 < queue_s() < 2 * before_s
    assert engine.stats().queue_s == 0.0


def test_a_full_queue_says_when_it_has_a_place(make_engine: MakeEngine, ask: Ask) -> None:
    engine, _ = make_engine(max_queued=2)
    for _ in range(2):
        engine.submit(ask(1, size="512x512", num_inference_steps=1))
        run(engine)
    for seed in (1, 2):
        engine.submit(ask(seed, size="512x512", num_inference_steps=200, priority=ONLINE))
    with pytest.raises(EngineOverloaded) as caught:
        engine.submit(ask(3, priority=ONLINE))
    assert caught.value.retry_after_s == pytest.approx(engine.stats().queue_s / 2)


class TokenCosts(KnownCosts):
    """Costs by tokens: a full step of 16 small images takes twice as long as that of one."""

    def step_s(self, bucket: Bucket, num_images: int) -> float:
        return 1.0 + bucket.num_tokens * num_images / (16 * IMAGE_TOKENS)


def test_an_estimate_for_mixed_sizes_and_steps_comes_true(entry_of: EntryOf) -> None:
    chance = random.Random(0)
    costs = TokenCosts()
    errors = []
    for _ in range(20):
        scheduler: StepScheduler[Job] = StepScheduler(
            max_step_tokens=16 * IMAGE_TOKENS, ageing_s=1e9, step_cost=costs.step_s
        )
        work = WorkLeft(costs, capacity=scheduler.capacity)
        for _ in range(chance.randint(1, 60)):
            size = chance.choice(("64x64", "64x64", "128x64", "128x128"))
            entry = entry_of(chance.choice((1, 4, 8, 8, 20, 50)), size=size)
            scheduler.add(entry)
            add(work, entry)
        expected_s = work.seconds(ONLINE)
        actual_s = 0.0
        while batch := scheduler.schedule(0.0):
            actual_s += costs.step_s(batch[0].bucket, len(batch))
            for entry in batch:
                entry.payload.state.step += 1
            work.stepped(batch)
            for entry in batch:
                if entry.payload.state.finished:
                    scheduler.remove(entry)
                    work.remove(entry)
                    actual_s += DECODING_S
        assert work.seconds(ONLINE) == 0.0
        errors.append(abs(expected_s - actual_s) / actual_s)
    assert statistics.median(errors) < 0.05
    assert max(errors) < 0.15
