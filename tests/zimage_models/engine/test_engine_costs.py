"""What encoding costs is learned from groups of requests."""

import pytest

from zimage_models.engine.engine_costs import EngineCosts


@pytest.fixture
def costs() -> EngineCosts:
    costs = EngineCosts(width=64)
    for _ in range(2):
        costs.record_encoding([0, 0, 0, 0], 0.04)
    return costs


def test_prompts_encoded_with_pictures_are_not_taken_for_pictures(costs: EngineCosts) -> None:
    for _ in range(2):
        costs.record_encoding([0] * 31 + [2], 31 * 0.01 + 0.5)
    assert costs.encoding_s(2) == pytest.approx(0.5)
    assert costs.encoding_s(0) == pytest.approx(0.01)


def test_a_picture_takes_no_less_than_an_equal_share(costs: EngineCosts) -> None:
    for _ in range(2):
        costs.record_encoding([0, 0, 0, 1], 0.02)
    assert costs.encoding_s(1) == pytest.approx(0.005)
