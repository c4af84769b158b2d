import asyncio
from collections.abc import Callable

import pytest

from deployments.access.idempotency import Answer, Claimed, IdempotencyStore
from tests.deployments.event_loop import in_event_loop
from tests.deployments.manual_clock import ManualClock
from zimage_models.errors import InvalidRequest

ANSWER = Answer(status=200, headers=(("x-request-id", "1"),), media_type="application/json", body=b"{}")


def make_store(
    *,
    max_entries: int = 10,
    max_bytes: int = 1000,
    claim_ttl_s: float = 60.0,
    clock: Callable[[], float] = lambda: 0.0,
) -> IdempotencyStore:
    return IdempotencyStore(
        max_entries=max_entries, max_bytes=max_bytes, ttl_s=100, claim_ttl_s=claim_ttl_s, clock=clock
    )


def answer_of(num_bytes: int) -> Answer:
    return Answer(status=200, media_type="", body=bytes(num_bytes))


async def put(store: IdempotencyStore, key: str, answer: Answer = ANSWER) -> None:
    assert await store.claim(key, "f") == Claimed(key=key)
    store.complete(key, answer)


async def waiting(
    store: IdempotencyStore, key: str, fingerprint: str = "f"
) -> asyncio.Task[Claimed | Answer]:
    task = asyncio.create_task(store.claim(key, fingerprint))
    await asyncio.sleep(0)  # lets the task run up to its wait
    assert not task.done()
    return task


@in_event_loop
async def test_second_request_gets_the_first_ones_answer() -> None:
    store = make_store()
    await put(store, "k")
    assert await store.claim("k", "f") == ANSWER
    assert await store.claim("other", "f") == Claimed(key="other")


@in_event_loop
async def test_waiters_get_the_answer_when_it_is_there() -> None:
    store = make_store()
    await store.claim("k", "f")
    tasks = [await waiting(store, "k") for _ in range(3)]
    store.complete("k", ANSWER)
    assert await asyncio.gather(*tasks) == [ANSWER] * 3


@in_event_loop
async def test_abandoned_work_goes_to_one_waiter() -> None:
    store = make_store()
    await store.claim("k", "f")
    tasks = [await waiting(store, "k") for _ in range(3)]
    store.abandon("k")
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result() for task in done] == [Claimed(key="k")]
    assert len(pending) == 2
    store.complete("k", ANSWER)
    assert await asyncio.gather(*pending) == [ANSWER] * 2


@in_event_loop
async def test_cancelled_waiter_leaves_the_claim_alone() -> None:
    store = make_store()
    await store.claim("k", "f")
    task = await waiting(store, "k")
    task.cancel()
    await asyncio.wait([task])
    other = await waiting(store, "k")
    store.complete("k", ANSWER)
    assert await other == ANSWER


@pytest.mark.parametrize("answered", [False, True])
def test_key_with_another_request_is_refused(answered: bool) -> None:
    async def run() -> None:
        store = make_store()
        await store.claim("k", "f")
        if answered:
            store.complete("k", ANSWER)
        with pytest.raises(
            InvalidRequest, match="Idempotency-Key: was used before, with another request"
        ) as refusal:
            await store.claim("k", "g")
        assert refusal.value.field == "Idempotency-Key"

    asyncio.run(run())


@in_event_loop
async def test_answer_lives_for_its_ttl() -> None:
    clock = ManualClock()
    store = make_store(clock=clock)
    await put(store, "k")
    clock.now = 99.9
    assert await store.claim("k", "f") == ANSWER
    clock.now = 100
    assert await store.claim("k", "another request") == Claimed(key="k")
    assert store.num_bytes == 0


@in_event_loop
async def test_claim_of_a_vanished_owner_expires() -> None:
    clock = ManualClock()
    store = make_store(clock=clock)
    await store.claim("k", "f")
    clock.now = 60
    assert await store.claim("k", "f") == Claimed(key="k")


@in_event_loop
async def test_waiter_takes_over_from_a_vanished_owner() -> None:
    store = make_store(claim_ttl_s=0.05, clock=asyncio.get_running_loop().time)
    await store.claim("k", "f")
    assert await store.claim("k", "f") == Claimed(key="k")


@in_event_loop
async def test_late_complete_and_abandon_change_nothing() -> None:
    store = make_store()
    store.complete("never claimed", ANSWER)
    await put(store, "k")
    store.complete("k", answer_of(5))
    store.abandon("k")
    assert await store.claim("k", "f") == ANSWER
    assert store.num_entries == 1


@in_event_loop
async def test_least_recently_used_answer_leaves_first() -> None:
    store = make_store(max_entries=2)
    await put(store, "old")
    await put(store, "used")
    assert await store.claim("old", "f") == ANSWER
    await put(store, "new")
    assert store.num_entries == 2
    assert await store.claim("old", "f") == ANSWER
    assert await store.claim("used", "f") == Claimed(key="used")


@in_event_loop
async def test_bytes_are_bounded() -> None:
    store = make_store(max_bytes=1000)
    for number in range(20):
        await put(store, f"k{number}", answer_of(300))
        assert store.num_bytes <= 1000
    assert store.num_entries == 3


@in_event_loop
async def test_too_large_answer_serves_waiters_and_is_not_kept() -> None:
    store = make_store(max_bytes=1000)
    await put(store, "small")
    large = answer_of(1001)
    await store.claim("k", "f")
    task = await waiting(store, "k")
    store.complete("k", large)
    assert await task == large
    assert await store.claim("small", "f") == ANSWER
    assert await store.claim("k", "f") == Claimed(key="k")


@in_event_loop
async def test_work_in_progress_is_never_evicted() -> None:
    store = make_store(max_entries=2)
    for key in ("a", "b", "c"):
        await store.claim(key, "f")
    task = await waiting(store, "a")
    store.complete("a", ANSWER)
    assert await task == ANSWER


@in_event_loop
async def test_expired_claims_make_room() -> None:
    clock = ManualClock()
    store = make_store(max_entries=2, clock=clock)
    for number in range(5):
        await store.claim(f"lost-{number}", "f")
    clock.now = 60
    await put(store, "k")
    assert store.num_entries <= 2
    assert await store.claim("k", "f") == ANSWER
