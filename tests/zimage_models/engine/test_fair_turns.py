"""Equal shares of the device: the bounds of deficit round robin, whatever the prices."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from zimage_models.engine.fair_turns import FairTurns

PRICES = st.lists(st.integers(1, 100), min_size=2, max_size=8)


def turns_of(*keys: str) -> FairTurns[str]:
    turns: FairTurns[str] = FairTurns()
    for key in keys:
        turns.add(key)
    return turns


def test_a_turn_lasts_as_long_as_its_credit() -> None:
    turns = turns_of("small", "large")
    prices = {"small": 3.0, "large": 10.0}
    chosen = [turns.choose(prices.__getitem__, 10.0) for _ in range(9)]
    # What is left of a turn counts at the next one.
    assert chosen == ["small"] * 3 + ["large"] + ["small"] * 3 + ["large"] + ["small"]


def test_a_dear_step_takes_several_turns() -> None:
    turns = turns_of("small", "huge")
    prices = {"small": 1.0, "huge": 4.0}
    chosen = [turns.choose(prices.__getitem__, 1.0) for _ in range(10)]
    assert chosen == (["small"] * 4 + ["huge"]) * 2


def test_a_newcomer_waits_for_one_round() -> None:
    turns = turns_of("a", "b", "c")
    assert [turns.choose(lambda _: 1.0, 1.0) for _ in range(4)] == ["a", "b", "c", "a"]
    turns.add("new")
    assert [turns.choose(lambda _: 1.0, 1.0) for _ in range(4)] == ["b", "c", "new", "a"]


def test_one_ever_new_newcomer_has_every_second_turn_of_two() -> None:
    turns = turns_of("old")
    turns.choose(lambda _: 1.0, 1.0)
    chosen = []
    turns.add("new 0")
    for number in range(20):
        chosen.append(turns.choose(lambda _: 1.0, 1.0))
        if chosen[-1] != "old":
            turns.remove(chosen[-1])
            turns.add(f"new {number + 1}")
    assert chosen.count("old") == 10


def test_nothing_is_saved_while_away() -> None:
    turns = turns_of("a", "b")
    for _ in range(5):
        turns.choose(lambda key: 10.0 if key == "a" else 1.0, 5.0)
    turns.remove("a")
    turns.add("a")
    assert [turns.choose(lambda _: 5.0, 5.0) for _ in range(4)].count("a") == 2


def test_credit_from_dearer_times_is_not_a_monopoly() -> None:
    turns = turns_of("a", "b")
    turns.choose(lambda _: 1.0, 1000.0)
    chosen = [turns.choose(lambda _: 1.0, 1.0) for _ in range(10)]
    assert chosen.count("b") >= 4


@given(PRICES, st.integers(1, 300))
def test_shares_are_equal_within_two_steps_and_a_turn(prices: list[int], num_steps: int) -> None:
    by_key = {str(number): float(price) for number, price in enumerate(prices)}
    turns, quantum = turns_of(*by_key), float(min(prices))
    paid: Counter[str] = Counter()
    for _ in range(num_steps):
        key = turns.choose(by_key.__getitem__, quantum)
        paid[key] += int(by_key[key])
        # Shreedhar and Varghese, theorem 2 and its corollary: the difference between any two.
        shares = [paid[key] for key in by_key]
        assert max(shares) - min(shares) <= 2 * max(prices) + quantum


@given(st.lists(st.sampled_from(("come", "go", "step")), max_size=200))
def test_nobody_waits_longer_than_a_round(happenings: list[str]) -> None:
    """However many come and go: of N keys, each has one of N turns."""
    turns = turns_of("first")
    waits = {"first": 0}
    most = 1
    for number, what in enumerate(happenings):
        if what == "come":
            turns.add(str(number))
            waits[str(number)] = 0
            most = max(most, len(waits))
        elif what == "go" and len(waits) > 1:
            key = next(reversed(waits))
            turns.remove(key)
            del waits[key]
        else:
            chosen = turns.choose(lambda _: 1.0, 1.0)
            waits = {key: 0 if key == chosen else wait + 1 for key, wait in waits.items()}
        assert max(waits.values()) < most
