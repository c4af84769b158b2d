from pipelines.run.run_monitor import MAX_REFUSALS, RunCounts, RunMonitor
from zimage_models.errors import InvalidRequest


def test_speed_counts_from_the_end_of_the_first_block() -> None:
    times_s = iter([100.0, 102.0, 106.0])
    monitor = RunMonitor(clock=lambda: next(times_s))
    assert monitor.counts() == RunCounts()
    monitor.add(generated=16)
    monitor.add(written=16)
    assert monitor.counts() == RunCounts(generated=16, written=16), "one block has no speed"
    assert monitor.counts().left_s(64) is None
    monitor.add(generated=16)
    monitor.add(written=16)
    assert monitor.counts().images_per_s == 8
    assert monitor.counts().left_s(64) == 4
    # Images that are not written yet, and time in which nothing ends, change no speed.
    monitor.add(generated=10, failed=1)
    assert monitor.counts().images_per_s == 8
    monitor.add(written=14)
    assert monitor.counts().generate_s == 6
    assert monitor.counts().images_per_s == 5
    assert monitor.counts().left_s(40) == 0, "a block that was made twice counts twice"


def test_a_refusal_ends_a_run_that_makes_nothing() -> None:
    monitor, refusal = RunMonitor(), InvalidRequest("memory: none")
    assert monitor.refuse(refusal)
    assert monitor.refusal() is refusal
    monitor.add(generated=1)
    assert [monitor.refuse(refusal) for _ in range(MAX_REFUSALS)] == [False] * (MAX_REFUSALS - 1) + [True]
    monitor.add(generated=1)
    assert not monitor.refuse(refusal)
