"""What is learned from measured times: medians, predictions of what was not measured, and outliers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zimage_models.engine.cost_table import CostTable


def learned(*measured: tuple[str, float, float], times: int = 3) -> CostTable[str]:
    table: CostTable[str] = CostTable(guess_s=1e-3)
    for _ in range(times):
        for kind, work, seconds in measured:
            table.record(kind, work, seconds)
    return table


def test_before_any_measurement_there_are_guesses() -> None:
    assert CostTable[str](guess_s=1e-3).seconds("a", 50) == pytest.approx(0.05)


def test_one_measurement_is_better_than_a_guess() -> None:
    assert learned(("a", 10, 2.0), times=1).seconds("b", 20) == pytest.approx(4.0)


def test_what_was_measured_takes_as_long_as_then() -> None:
    table = learned(("a", 10, 1.0), ("b", 20, 7.0))
    assert (table.seconds("a", 10), table.seconds("b", 20)) == (1.0, 7.0)


def test_what_was_not_measured_is_predicted_from_the_most_similar() -> None:
    # overhead 2, and 0.1 per unit
    table = learned(("a", 10, 3.0), ("a", 100, 12.0), ("a", 1000, 102.0))
    assert table.seconds("a", 40) == pytest.approx(6.0)
    assert table.seconds("b", 5000) == pytest.approx(502.0)


def test_its_own_kind_is_more_similar_than_another() -> None:
    table = learned(("plain", 100, 1.0), ("dear", 90, 9.0))
    assert table.seconds("dear", 100) == pytest.approx(10.0)
    assert table.seconds("plain", 90) == pytest.approx(0.9)


def test_a_first_time_that_included_setting_up_counts_for_nothing() -> None:
    table = learned(("a", 10, 1.0), ("a", 20, 2.0))
    table.record("b", 40, 60.0)
    assert table.seconds("b", 40) == pytest.approx(4.0)
    table.record("b", 40, 5.0)
    assert table.seconds("b", 40) == pytest.approx(5.0)


def test_a_slow_second_time_counts_for_nothing() -> None:
    table: CostTable[str] = CostTable(guess_s=1e-3)
    for seconds in (0.02, 60.0, 0.02, 0.02):
        table.record("a", 10, seconds)
        assert table.seconds("a", 10) == pytest.approx(0.02)


def test_a_first_time_below_the_prediction_counts() -> None:
    table = learned(("a", 10, 1.0), ("a", 20, 2.0))
    table.record("b", 40, 3.0)
    assert table.seconds("b", 40) == pytest.approx(3.0)


def test_a_slow_time_among_others_changes_nothing() -> None:
    table = learned(("a", 10, 1.0), ("a", 20, 2.0))
    for seconds in (1.0, 1.0, 90.0, 1.0, 90.0):
        table.record("a", 10, seconds)
    assert table.seconds("a", 10) == pytest.approx(1.0)
    assert table.seconds("b", 40) == pytest.approx(4.0)


def test_a_change_of_speed_is_followed() -> None:
    table = learned(("a", 10, 1.0))
    for _ in range(9):
        table.record("a", 10, 3.0)
    assert table.seconds("a", 10) == pytest.approx(3.0)
    for _ in range(16):
        table.record("a", 10, 3.0)
    assert table.seconds("a", 20) == pytest.approx(6.0)


def test_it_keeps_no_more_than_it_needs() -> None:
    table: CostTable[str] = CostTable(guess_s=1e-3)
    for number in range(1000):
        for _ in range(2):
            table.record(f"kind {number}", 10.0, 60.0 if number < 700 else 1.0)
    # What is forgotten is predicted from what is known.
    assert table.seconds("kind 5", 10) == table.seconds("kind 999", 10) == pytest.approx(1.0)


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 100), st.floats(1e-6, 1e3)), min_size=1, max_size=60
    ),
    st.integers(1, 10_000),
)
def test_predictions_are_always_above_zero(measured: list[tuple[str, int, float]], work: int) -> None:
    table = learned(*measured, times=1)
    for kind in "abcd":
        assert 0 < table.seconds(kind, work) < float("inf")
