from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice

import pytest

from zimage_models.engine.step_scheduler import Bucket, Entry, StepScheduler

ONLINE, BATCH = 0, 1
SMALL = Bucket(height=64, width=64, caption_tokens=32, negative_tokens=0, num_tokens=96)
BIG = Bucket(height=128, width=128, caption_tokens=32, negative_tokens=0, num_tokens=288)


class Line:
    """A scheduler whose entries are made by name."""

    def __init__(self, *, max_step_tokens: int = 10_000, ageing_s: float = 10.0) -> None:
        self.scheduler: StepScheduler[str] = StepScheduler(max_step_tokens=max_step_tokens, ageing_s=ageing_s)
        self.now_s = 0.0
        self._numbers: Iterator[int] = count()

    def add(self, name: str, bucket: Bucket = SMALL, priority: int = BATCH) -> Entry[str]:
        entry = Entry(
            priority=priority,
            arrival=next(self._numbers),
            bucket=bucket,
            payload=name,
        )
        self.scheduler.add(entry)
        return entry

    def step(self, after_s: float = 1.0) -> list[str]:
        self.now_s += after_s
        return [entry.payload for entry in self.scheduler.schedule(self.now_s)]


def test_an_empty_line_has_no_step() -> None:
    assert Line().step() == []


def test_a_step_holds_one_bucket_in_order_of_arrival() -> None:
    line = Line(max_step_tokens=600)
    for name, bucket in (("a", SMALL), ("B", BIG), ("c", SMALL), ("D", BIG), ("e", SMALL)):
        line.add(name, bucket)
    assert {"".join(line.step()) for _ in range(4)} == {"ace", "BD"}
    assert [entry.payload for entry in line.scheduler] == ["a", "B", "c", "D", "e"]


@pytest.mark.parametrize(
    "other",
    [
        Bucket(height=96, width=64, caption_tokens=32, negative_tokens=0, num_tokens=96),
        Bucket(height=64, width=96, caption_tokens=32, negative_tokens=0, num_tokens=96),
        Bucket(height=64, width=64, caption_tokens=64, negative_tokens=0, num_tokens=96),
        Bucket(height=64, width=64, caption_tokens=32, negative_tokens=32, num_tokens=96),
    ],
)
def test_what_would_need_a_mask_or_a_second_forward_never_shares_a_step(other: Bucket) -> None:
    line = Line(max_step_tokens=191)
    line.add("a")
    line.add("b", other)
    assert sorted([line.step(), line.step()]) == [["a"], ["b"]]


def test_a_step_is_bounded_by_tokens() -> None:
    line = Line(max_step_tokens=3 * 96 + 95)
    for name in "abcde":
        line.add(name)
    assert line.step() == ["a", "b", "c"]


def test_one_image_always_runs() -> None:
    line = Line(max_step_tokens=1)
    line.add("A", BIG)
    line.add("B", BIG)
    assert line.step() == ["A"]


def test_the_budget_can_shrink() -> None:
    line = Line()
    for name in "abcd":
        line.add(name)
    assert line.step() == ["a", "b", "c", "d"]
    line.scheduler.max_step_tokens = 2 * 96
    assert line.step() == ["a", "b"]


def test_leavers_make_room_for_the_next_in_line() -> None:
    line = Line(max_step_tokens=2 * 96)
    a = line.add("a")
    for name in "bcd":
        line.add(name)
    assert line.step() == ["a", "b"]
    line.scheduler.remove(a)
    assert len(line.scheduler) == 3
    assert line.step() == ["b", "c"]
    # Nothing was preempted: a left, b stayed.
    assert line.scheduler.num_preemptions == 0


def test_priority_goes_before_arrival() -> None:
    line = Line(max_step_tokens=3 * 96)
    for name in "abc":
        line.add(name)
    assert line.step() == ["a", "b", "c"]
    line.add("!", priority=ONLINE)
    line.add("?", priority=ONLINE)
    assert line.step() == ["!", "?"]


def test_the_preempted_keep_their_place() -> None:
    line = Line()
    for name in "abc":
        line.add(name)
    assert line.step() == ["a", "b", "c"]
    urgent = line.add("!", BIG, ONLINE)
    assert line.step() == ["!"]
    assert line.scheduler.num_preemptions == 3
    line.add("d")
    line.scheduler.remove(urgent)
    assert line.step() == ["a", "b", "c", "d"]
    assert line.scheduler.num_preemptions == 3


def test_a_lower_priority_makes_no_step_of_a_higher_one_longer() -> None:
    line = Line()
    line.add("a")
    urgent = line.add("!", priority=ONLINE)
    line.add("b")
    assert line.step() == ["!"]
    line.scheduler.remove(urgent)
    assert line.step() == ["a", "b"]


def test_a_lower_priority_steps_once_in_a_while() -> None:
    line = Line(ageing_s=10.0)
    line.add("a")
    line.add("b")
    line.add("!", BIG, ONLINE)
    steps = [line.step(after_s=1.0) for _ in range(33)]
    # Left out since second 1: its turn comes at 11; then left out since 12, and so on.
    assert [number for number, step in enumerate(steps, 1) if step == ["a", "b"]] == [11, 22, 33]
    assert steps.count(["!"]) == 30


def test_a_long_line_of_lower_priority_takes_no_more_than_its_turn() -> None:
    line = Line(max_step_tokens=96, ageing_s=10.0)
    for number in range(500):
        line.add(f"batch {number}")
    line.add("!", BIG, ONLINE)
    steps = [line.step(after_s=1.0) for _ in range(100)]
    # They go to the first in line, so that images end one after the other.
    assert steps.count(["batch 0"]) == 9
    assert steps.count(["!"]) == 91


def test_ageing_starts_anew_when_a_lower_priority_has_stepped() -> None:
    line = Line(ageing_s=10.0)
    line.add("a")
    urgent = line.add("!", BIG, ONLINE)
    assert [line.step(after_s=4.0) for _ in range(3)] == [["!"]] * 3
    line.scheduler.remove(urgent)
    assert line.step(after_s=1.0) == ["a"]
    line.add("?", BIG, ONLINE)
    assert [line.step(after_s=4.0) for _ in range(4)] == [["?"], ["?"], ["?"], ["a"]]


def test_ageing_does_not_concern_equals() -> None:
    line = Line(max_step_tokens=96, ageing_s=10.0)
    line.add("a")
    line.add("b")
    assert [line.step(after_s=20.0) for _ in range(3)] == [["a"]] * 3


def test_the_aged_fill_their_step_by_priority() -> None:
    line = Line(max_step_tokens=3 * 96, ageing_s=10.0)
    for name in "abcd":
        line.add(name)
    line.add("!", BIG, ONLINE)
    assert line.step() == ["!"]
    line.add("?", SMALL, ONLINE)
    assert line.step(after_s=10.0) == ["a", "?", "b"]


def test_buckets_share_by_tokens() -> None:
    """A full step each: ten small images, or three big ones."""
    line = Line(max_step_tokens=960)
    for number in range(20):
        line.add(f"s{number}")
        line.add(f"B{number}", BIG)
    steps = [line.step() for _ in range(10)]
    assert steps.count([f"s{number}" for number in range(10)]) == 5
    assert steps.count(["B0", "B1", "B2"]) == 5


def test_a_single_image_makes_as_many_steps_as_a_full_step_is_worth() -> None:
    line = Line(max_step_tokens=960)
    for number in range(3):
        line.add(f"B{number}", BIG)
    line.add("s")
    steps = [line.step() for _ in range(18)]
    assert steps.count(["s"]) == 16


def test_a_new_request_joins_its_buckets_next_step() -> None:
    line = Line(max_step_tokens=960)
    line.add("a")
    line.add("B", BIG)
    assert line.step() == ["a"]
    line.add("c")
    assert next(step for step in (line.step() for _ in range(9)) if step != ["B"]) == ["a", "c"]


def test_a_small_request_waits_for_one_turn_of_each_large_one() -> None:
    line = Line(max_step_tokens=288)
    for number in range(20):
        line.add(str(number), replace(BIG, caption_tokens=32 * number))
    for _ in range(25):
        line.step()
    line.add("!")
    assert ["!"] in [line.step() for _ in range(21)]


def test_what_the_next_steps_hold_is_known() -> None:
    line = Line(max_step_tokens=288)
    for name in "abcdefg":
        line.add(name, BIG if name in "bdf" else SMALL)
    line.add("!", priority=ONLINE)
    assert [entry.payload for entry in line.scheduler.next_in_line(BATCH)] == ["!", "a", "b", "c", "e"]
    assert [entry.payload for entry in line.scheduler.next_in_line(ONLINE)] == ["!"]


def test_sharing_is_no_preemption() -> None:
    line = Line(max_step_tokens=288)
    line.add("a", BIG)
    line.add("b", SMALL)
    steps = [line.step() for _ in range(8)]
    assert ["a"] in steps
    assert ["b"] in steps
    assert line.scheduler.num_preemptions == 0
    line.add("!", priority=ONLINE)
    assert line.step() == ["!"]
    assert line.scheduler.num_preemptions == 1


def test_a_lower_priority_takes_turns_of_its_own() -> None:
    line = Line(max_step_tokens=288)
    for number in range(2):
        line.add(f"batch {number}", (SMALL, BIG)[number])
        line.add(f"online {number}", (SMALL, BIG)[number], ONLINE)
    assert {name for step in (line.step() for _ in range(10)) for name in step} == {"online 0", "online 1"}
    for entry in [entry for entry in line.scheduler if entry.priority == ONLINE]:
        line.scheduler.remove(entry)
    assert {name for step in (line.step() for _ in range(10)) for name in step} == {"batch 0", "batch 1"}


def test_iteration_is_in_line_across_priorities_and_buckets() -> None:
    line = Line()
    for number in range(20):
        line.add(str(number), (SMALL, BIG)[number % 2], (BATCH, ONLINE)[number % 3 == 0])
    names = [int(entry.payload) for entry in line.scheduler]
    assert names == sorted(names, key=lambda number: (number % 3 != 0, number))
    assert [int(entry.payload) for entry in islice(line.scheduler, 3)] == names[:3]
    for entry in list(line.scheduler):
        line.scheduler.remove(entry)
    assert (len(line.scheduler), list(line.scheduler), line.step()) == (0, [], [])
