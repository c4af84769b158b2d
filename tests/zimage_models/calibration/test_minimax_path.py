"""The schedule of a budget is the one whose worst errors are smallest, as trying all of them shows."""

from collections.abc import Iterator
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zimage_models.calibration.minimax_path import Edge, Path, best_path

Errors = dict[Edge, float]


def skips(num_steps: int) -> list[Edge]:
    return [(start, end) for start, end in combinations(range(num_steps), 2) if end - start > 1]


def all_paths(num_steps: int, num_computed: int, errors: Errors) -> Iterator[Path]:
    for between in combinations(range(1, num_steps - 1), num_computed - 2):
        edges = list(pairwise((0, *between, num_steps - 1)))
        if all(edge in errors or edge[1] - edge[0] == 1 for edge in edges):
            found = sorted((errors.get(edge, 0.0) for edge in edges), reverse=True)
            yield Path(tuple(found), (0, *between, num_steps - 1))


@st.composite
def problems(draw: st.DrawFn) -> tuple[int, int, Errors]:
    """Draw steps, a budget and errors: few different ones, so that paths tie, and some edges left out."""
    num_steps = draw(st.integers(3, 9))
    errors = draw(
        st.dictionaries(st.sampled_from(skips(num_steps)), st.integers(0, 4).map(float), min_size=1)
    )
    return num_steps, draw(st.integers(2, num_steps)), errors


@given(problems())
def test_it_is_the_smallest_of_all_paths(problem: tuple[int, int, Errors]) -> None:
    paths = list(all_paths(*problem))
    if paths:
        assert best_path(*problem) == min(paths)
    else:
        with pytest.raises(ValueError, match="no path over"):
            best_path(*problem)


def test_the_worst_error_counts_before_the_sum() -> None:
    # 0-2-4 has one error of 3; 0-1-4 has one of 4, though 0-3-4 with 5 would be next.
    errors = {(0, 2): 3.0, (2, 4): 3.0, (1, 4): 4.0, (0, 3): 5.0}
    assert best_path(5, 3, errors) == Path((3.0, 3.0), (0, 2, 4))
    assert best_path(5, 4, errors).errors == (3.0, 0.0, 0.0)


def test_a_budget_of_all_steps_skips_none() -> None:
    assert best_path(6, 6, {(0, 5): 0.0}).steps == tuple(range(6))
