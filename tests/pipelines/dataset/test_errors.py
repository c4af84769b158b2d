"""Rows that are not in the data set, where they are read from."""

from pathlib import Path

import pytest

from pipelines.dataset.errors import read_errors, write_rejected
from tests.pipelines.plan_fixtures import DataSet, Row, products


@pytest.fixture
def data_set(tmp_path: Path) -> DataSet:
    return DataSet(folder=tmp_path)


def bad(*keys: str) -> list[Row]:
    return [{"sku": key, "prompt": None} for key in keys]


def told(data_set: DataSet, *, published: bool) -> list[str]:
    manifest = data_set.manifest() if published else None
    tables = read_errors(data_set.output, manifest, ["key"])
    return sorted(key for table in tables for key in table["key"].to_pylist())


def test_rejected_rows_are_told_where_nothing_is_published(data_set: DataSet) -> None:
    write_rejected(data_set.output, data_set.plan(bad("a", "b")))
    assert told(data_set, published=False) == ["a", "b"]


def test_those_of_an_earlier_table_are_told_no_longer(data_set: DataSet) -> None:
    plan = data_set.plan(products(2))
    data_set.make(plan, fails=lambda row: "blank_image" if row["row"] == 0 else None)
    write_rejected(data_set.output, data_set.plan(bad("a", "b")))
    for _ in range(2):
        write_rejected(data_set.output, data_set.plan(bad("b", "c")))
    # What an engine could not make is not forgotten: it would be tried again.
    assert told(data_set, published=False) == ["b", "c", "sku-000"]
    assert data_set.plan(products(2)).counts.failed_before == 1


def test_a_generation_tells_its_own(data_set: DataSet) -> None:
    data_set.generate([*products(2), *bad("a")])
    write_rejected(data_set.output, data_set.plan(bad("b")))
    assert told(data_set, published=True) == ["a"]
