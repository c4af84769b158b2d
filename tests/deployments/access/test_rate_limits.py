import pytest

from deployments.access.rate_limits import RateLimiter
from tests.deployments.manual_clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def limiter(clock: ManualClock) -> RateLimiter:
    return RateLimiter(max_run_s=600, clock=clock)


def test_burst_up_to_the_limit_then_one_a_refill(limiter: RateLimiter, clock: ManualClock) -> None:
    assert [limiter.acquire("a", 6, None) for _ in range(6)] == [None] * 6
    assert limiter.acquire("a", 6, None) == pytest.approx(10)
    clock.now += 4
    assert limiter.acquire("a", 6, None) == pytest.approx(6)
    clock.now += 6.001
    assert limiter.acquire("a", 6, None) is None
    assert limiter.acquire("a", 6, None) == pytest.approx(10, abs=0.01)


def test_bucket_holds_no_more_than_a_minute(limiter: RateLimiter, clock: ManualClock) -> None:
    assert limiter.acquire("a", 6, None) is None
    clock.now += 50
    assert [limiter.acquire("a", 6, None) is None for _ in range(7)] == [True] * 6 + [False]


def test_changed_limit_applies_at_once(limiter: RateLimiter) -> None:
    assert limiter.acquire("a", 100, None) is None
    assert limiter.acquire("a", 1, None) is None
    assert limiter.acquire("a", 1, None) == pytest.approx(60)


def test_concurrency_frees_with_release(limiter: RateLimiter) -> None:
    assert limiter.acquire("a", None, 2) is None
    assert limiter.acquire("a", None, 2) is None
    assert limiter.acquire("a", None, 2) == 1.0
    limiter.release("a")
    assert limiter.acquire("a", None, 2) is None
    assert limiter.acquire("a", None, 2) == 1.0


def test_refused_request_uses_nothing_up(limiter: RateLimiter) -> None:
    assert limiter.acquire("a", 2, 1) is None
    assert limiter.acquire("a", 2, 1) == 1.0  # too many at once: its token stays
    limiter.release("a")
    assert limiter.acquire("a", 2, 1) is None
    limiter.release("a")
    assert limiter.acquire("a", 2, 1) == pytest.approx(30)  # out of tokens: its slot stays
    assert limiter.acquire("a", None, 1) is None


def test_callers_do_not_share(limiter: RateLimiter) -> None:
    assert limiter.acquire("a", 1, 1) is None
    assert limiter.acquire("a", 1, 1) is not None
    assert limiter.acquire("b", 1, 1) is None
    limiter.release("a")
    assert limiter.acquire("b", None, 1) == 1.0


def test_no_limits_admit_all(limiter: RateLimiter) -> None:
    assert [limiter.acquire("a", None, None) for _ in range(1000)] == [None] * 1000


def test_slots_of_a_lost_replica_come_back(limiter: RateLimiter, clock: ManualClock) -> None:
    assert limiter.acquire("a", None, 1) is None
    clock.now += 599
    assert limiter.acquire("a", None, 1) == 1.0
    clock.now += 1
    assert limiter.acquire("a", None, 1) is None


def test_unknown_release_gives_no_slot_away(limiter: RateLimiter) -> None:
    limiter.release("a")
    assert limiter.acquire("a", None, 1) is None
    limiter.release("a")
    limiter.release("a")
    assert limiter.acquire("a", None, 1) is None
    assert limiter.acquire("a", None, 1) == 1.0


def test_idle_callers_are_forgotten_busy_ones_are_not(limiter: RateLimiter, clock: ManualClock) -> None:
    for number in range(100):
        limiter.acquire(f"idle-{number}", 1, 1)
        limiter.release(f"idle-{number}")
    limiter.acquire("busy", 1, 1)
    clock.now += 60
    limiter.acquire("new", 1, 1)
    assert limiter.num_callers == 2
    assert limiter.acquire("busy", None, 1) == 1.0
    clock.now += 600
    limiter.acquire("newer", 1, 1)
    assert limiter.num_callers == 1
