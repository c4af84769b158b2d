"""What ``--append`` keeps of a published data set."""

from pathlib import Path

import pytest

from tests.pipelines.plan_fixtures import DataSet, Row, products
from zimage_models.errors import InvalidRequest


@pytest.fixture
def data_set(tmp_path: Path) -> DataSet:
    return DataSet(folder=tmp_path)


def images(data_set: DataSet) -> dict[str, bytes]:
    return {row["key"]: row["image"]["bytes"] for row in data_set.published()}


def paths(data_set: DataSet) -> set[str]:
    return {part.path for part in data_set.manifest().parts}


def more(num_rows: int) -> list[Row]:
    return [row | {"sku": f"more-{i}"} for i, row in enumerate(products(num_rows))]


def test_what_the_table_does_not_name_stays_as_it_is(data_set: DataSet) -> None:
    data_set.generate(products(10))
    before, parts = images(data_set), paths(data_set)
    changed = products(10)[4] | {"prompt": "a green pear"}
    plan = data_set.plan([*more(3), changed], append=True)
    assert (plan.counts.units, plan.counts.unchanged, plan.counts.new) == (13, 9, 4)
    data_set.make(plan)
    data_set.publish(plan, append=True)
    after = images(data_set)
    assert len(after) == 13
    assert {key for key in before if after[key] != before[key]} == {"sku-004"}
    assert len(parts & paths(data_set)) == 2, "only the part of the changed row is written anew"
    assert data_set.verify().problems == ()


def test_the_same_append_again_changes_nothing(data_set: DataSet) -> None:
    data_set.generate(products(4))
    first = data_set.generate(more(2), append=True)
    assert first.number == 2
    assert data_set.generate(more(2), append=True) == first


def test_append_to_nothing_is_a_plain_run(data_set: DataSet) -> None:
    assert data_set.generate(products(3), append=True).counts["published"] == 3


def test_columns_of_both_tables_are_kept(data_set: DataSet) -> None:
    data_set.generate([{"sku": "a", "prompt": "a pear", "brand": "acme"}])
    rows = [{"sku": "b", "prompt": "a plum", "colour": "red"}]
    data_set.generate(rows, append=True)
    told = [(row["key"], row["brand"], row["colour"]) for row in data_set.published()]
    assert told == [("a", "acme", None), ("b", None, "red")]
    assert data_set.verify().problems == ()
    parts = paths(data_set)
    data_set.generate([{"sku": "c", "prompt": "a cup", "brand": "zenith"}], append=True)
    assert parts < paths(data_set), "parts that have all columns stay"


def test_a_column_of_another_type_is_refused(data_set: DataSet) -> None:
    data_set.generate([{"sku": "a", "prompt": "a pear", "price": 3}])
    with pytest.raises(InvalidRequest, match=r"append: column 'price' is string in the table, but int64"):
        data_set.plan([{"sku": "b", "prompt": "a plum", "price": "3"}], append=True)


def test_all_columns_of_other_types_are_told_at_once(data_set: DataSet) -> None:
    data_set.generate([{"sku": "a", "prompt": "a pear", "price": 3, "in stock": 1}])
    with pytest.raises(InvalidRequest) as refused:
        data_set.plan([{"sku": "b", "prompt": "a plum", "price": "3", "in stock": "x"}], append=True)
    assert str(refused.value) == (
        "append: column 'price' is string in the table, but int64 in the data set; column 'in stock' is"
        " string in the table, but int64 in the data set; convert them, or leave them out"
        " (--drop price --drop 'in stock')"
    )


@pytest.mark.parametrize(("first", "second"), [(3, 2.5), (2.5, 3)])
def test_whole_and_other_numbers_become_double(data_set: DataSet, first: float, second: float) -> None:
    data_set.generate([{"sku": "a", "prompt": "a pear", "price": first}])
    rows = [{"sku": "b", "prompt": "a plum", "price": second}]
    manifest = data_set.generate(rows, append=True)
    assert [(row["key"], row["price"]) for row in data_set.published()] == [("a", first), ("b", second)]
    assert data_set.generate(rows, append=True) == manifest
    assert data_set.verify().problems == ()


def test_a_number_that_the_common_type_does_not_hold_is_told(data_set: DataSet) -> None:
    data_set.generate([{"sku": "a", "prompt": "a pear", "price": 2.5}])
    with pytest.raises(InvalidRequest, match="append: column 'price' becomes double"):
        data_set.plan([{"sku": "b", "prompt": "a plum", "price": 2**53 + 1}], append=True)


def test_an_append_does_not_drop_what_another_run_has_published_meanwhile(data_set: DataSet) -> None:
    data_set.generate(products(3))
    plan = data_set.plan(more(1), append=True)
    data_set.make(plan)
    other = data_set.generate([products(1)[0] | {"sku": "other"}], append=True)
    with pytest.raises(InvalidRequest, match="append: another run has published to"):
        data_set.publish(plan, append=True)
    assert data_set.manifest() == other
    again = data_set.plan(more(1), append=True)
    assert again.counts.new == 0
    data_set.publish(again, append=True)
    assert {row["key"] for row in data_set.published()} >= {"other", "more-0", "sku-002"}


def test_a_file_name_that_is_kept_cannot_be_taken(data_set: DataSet) -> None:
    data_set.generate([{"sku": "a", "prompt": "a pear", "title": "x"}], name="{title}.png")
    rows = [{"sku": "b", "prompt": "a plum", "title": "x"}]
    with pytest.raises(InvalidRequest, match=r"name: 'x\.png' is the file name of the published key 'a'"):
        data_set.plan(rows, append=True, name="{title}.png")


def test_a_key_with_fewer_images_keeps_no_old_ones(data_set: DataSet) -> None:
    data_set.generate(products(2), variants=3)
    data_set.generate(products(1), variants=1, append=True)
    told = [(row["key"], row["variant"]) for row in data_set.published()]
    assert told == [("sku-000", 0), ("sku-001", 0), ("sku-001", 1), ("sku-001", 2)]


def test_an_image_that_stays_is_made_again_for_another_key(data_set: DataSet) -> None:
    row = {"sku": "a", "prompt": "a pear", "seed": 5}
    data_set.generate([row])
    other = row | {"sku": "b"}
    data_set.generate([other], append=True)
    assert [row["key"] for row in data_set.published()] == ["a", "b"]
    assert data_set.plan([other], append=True).counts.new == 0
    assert data_set.verify().problems == ()


def test_rows_that_are_rejected_do_not_remove_their_images(data_set: DataSet) -> None:
    data_set.generate(products(2))
    before = images(data_set)
    too_long = "many words " * 800
    bad = [products(2)[0] | {"prompt": ""}, products(2)[1] | {"prompt": too_long}]
    data_set.generate([*bad, *more(1)], append=True)
    assert before.items() < images(data_set).items()
