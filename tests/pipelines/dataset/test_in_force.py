"""A data set is not dropped by mistake: most of its keys stay, or its owner says so."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.dataset.in_force import PublishedKeys
from pipelines.dataset.ledger import finished_units
from pipelines.dataset.publish import check_plan_keeps
from pipelines.dataset.text_hashes import are_in, hash_set, hash_texts
from tests.pipelines.plan_fixtures import DataSet, Row, products
from zimage_models.errors import InvalidRequest


@pytest.fixture
def data_set(tmp_path: Path) -> DataSet:
    data_set = DataSet(folder=tmp_path)
    data_set.generate(products(10), variants=2)
    return data_set


def check_plan(data_set: DataSet, rows: list[Row], **changes: Any) -> None:
    published = PublishedKeys(data_set.manifest())
    finished_units(data_set.output, published=published)
    check_plan_keeps(data_set.plan(rows, **changes), published, output=data_set.output)


def others(count: int) -> list[Row]:
    return [row | {"sku": f"other-{row['sku']}"} for row in products(count)]


@pytest.mark.parametrize("kept", [0, 4])
def test_a_plan_without_most_of_the_keys_is_refused(data_set: DataSet, kept: int) -> None:
    rows = [*products(kept), *others(20)]
    with pytest.raises(InvalidRequest) as caught:
        check_plan(data_set, rows)
    assert str(caught.value) == (
        f"output: {10 - kept} of the 10 published keys are not in the table;"
        " give --replace to drop them, or --append to keep them"
    )


def test_half_of_the_keys_may_go(data_set: DataSet) -> None:
    check_plan(data_set, products(5))
    data_set.generate(products(5))
    assert len(data_set.published()) == 5


def test_new_images_under_the_same_keys_are_no_loss(data_set: DataSet) -> None:
    check_plan(data_set, products(10), seed=1, variants=1)


def test_rejected_rows_are_named_as_a_reason(data_set: DataSet) -> None:
    rows = [row | {"steps": 0 if index else 8} for index, row in enumerate(products(10))]
    with pytest.raises(
        InvalidRequest, match="9 of the 10 published keys are not in the table or in rejected"
    ):
        check_plan(data_set, rows)


def test_a_publish_counts_what_was_really_made(data_set: DataSet) -> None:
    before = data_set.manifest()
    plan = data_set.plan(products(10), seed=1)
    data_set.make(plan, fails=lambda row: "out_of_memory" if row["row"] < 6 else None)
    with pytest.raises(InvalidRequest) as caught:
        data_set.publish(plan, seed=1)
    assert "6 of the 10 published keys would be dropped" in str(caught.value)
    assert "(6 out_of_memory)" in str(caught.value)
    assert data_set.manifest() == before
    assert data_set.verify().problems == ()
    assert data_set.publish(plan, seed=1, replace=True).counts["published"] == 4


def test_a_key_is_lost_only_with_its_last_image(data_set: DataSet) -> None:
    plan = data_set.plan(products(10), seed=1, variants=2)
    data_set.make(plan, fails=lambda row: "blank_image" if row["variant"] == 0 else None)
    assert data_set.publish(plan, seed=1).counts["published"] == 10


def test_keys_of_parts_that_are_not_in_force_do_not_count(data_set: DataSet) -> None:
    data_set.generate(products(5))
    data_set.generate(products(3))
    check_plan(data_set, products(2))


def test_sets_of_texts() -> None:
    texts = pa.chunked_array([[f"key {number % 700}" for number in range(1000)], ["", "苹果"]])
    known = hash_set([hash_texts(texts)])
    assert len(known) == 702
    assert (np.diff(known) > 0).all()
    asked = hash_texts(pa.chunked_array([["", "苹果", "key 699", "key 700"]]))
    assert are_in(asked, known).tolist() == [True, True, True, False]
    assert are_in(asked, hash_set([])).tolist() == [False] * 4
    assert are_in(asked[:0], known).tolist() == []
