"""A part is written again only if what it holds beside its images differs from the plan, cell by cell."""

import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.dataset.layout import STAGING_FOLDER, PartPlaces
from pipelines.dataset.manifest import RunManifest
from pipelines.dataset.parts import rows_where, write_part
from pipelines.part_schema import part_schema
from pipelines.plan.plan import Plan
from tests.pipelines.plan_fixtures import DataSet, made_row, products

NAN = float("nan")
INFINITE = 2**63 - 1
COLUMNS: dict[str, "pa.Array[Any]"] = {
    "text": pa.array(["a", None, "", "苹果"]),
    "number": pa.array([1, None, -3, 0]),
    "half": pa.array(np.array([1.5, np.nan, 0, -0.0], np.float16)),
    "float": pa.array([NAN, None, float("inf"), -0.0]),
    "far": pa.array([INFINITE, None, -INFINITE, 0]).view(pa.timestamp("us", "Nowhere/Land")),
    "lasting": pa.array([INFINITE, None, -5, 0]).view(pa.duration("ns")),
    "embedding": pa.array([[1.0, NAN], None, [0.5, 2.0], [3.0, 3.0]], pa.list_(pa.float32(), 2)),
    "nested": pa.array(
        [{"x": [1.0, NAN], "y": None}, None, {"x": None, "y": "b"}, {"x": [], "y": ""}],
        pa.struct([("x", pa.list_(pa.float64())), ("y", pa.string())]),
    ),
    "kind": pa.array(["b", "a", None, "b"]).dictionary_encode(),
    "nothing": pa.nulls(4),
}
OTHERS: dict[str, "pa.Array[Any]"] = {
    "text": pa.array(["a", "", "", "苹果"]),
    "number": pa.array([1, 0, -3, 0]),
    "half": pa.array(np.array([1.5, np.nan, 0, 0.0], np.float16)),
    "float": pa.array([0.0, None, float("inf"), -0.0]),
    "far": pa.array([INFINITE - 1, None, -INFINITE, 0]).view(pa.timestamp("us", "Nowhere/Land")),
    "lasting": pa.array([INFINITE, 0, -5, 0]).view(pa.duration("ns")),
    "embedding": pa.array([[1.0, 0.0], None, [0.5, 2.0], [3.0, 3.0]], pa.list_(pa.float32(), 2)),
    "nested": pa.array(
        [{"x": [1.0, NAN], "y": None}, None, {"x": [], "y": "b"}, {"x": [], "y": ""}],
        pa.struct([("x", pa.list_(pa.float64())), ("y", pa.string())]),
    ),
    "kind": pa.array(["b", "a", "a", "b"]).dictionary_encode(),
}


@pytest.fixture
def data_set(tmp_path: Path) -> DataSet:
    return DataSet(folder=tmp_path)


def changed_work(data_set: DataSet, plan: Plan, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a plan's work table."""
    for path in plan.work_files:
        file = Path(data_set.uri) / path
        pq.write_table(change(pq.read_table(file)), file)


def with_other_digests(table: pa.Table) -> pa.Table:
    """Hash rows as no release does: differently each time."""
    digests = pa.array([uuid.uuid4().hex for _ in range(table.num_rows)])
    return table.set_column(table.column_names.index("row_digest"), "row_digest", digests)


def plan_with(data_set: DataSet, columns: dict[str, "pa.Array[Any]"]) -> Plan:
    """Plan four rows that have these columns beside a product's."""
    plan = data_set.plan(products(4))
    extra = pa.table(columns)

    def add(table: pa.Table) -> pa.Table:
        for name in columns:
            table = table.append_column(extra.schema.field(name), extra[name])
        return with_other_digests(table)

    changed_work(data_set, plan, add)
    return replace(plan, passthrough=pa.schema([*plan.passthrough, *extra.schema]))


def publish_with(data_set: DataSet, columns: dict[str, "pa.Array[Any]"]) -> RunManifest:
    """Publish four rows with these columns, in one part."""
    plan = plan_with(data_set, columns)
    [path] = plan.work_files
    work = pq.read_table(Path(data_set.uri) / path)
    rows = [made_row(row) for row in work.drop_columns(list(columns)).to_pylist()]
    schema = part_schema(plan.passthrough)
    made = pa.Table.from_pylist(
        rows, schema=pa.schema([field for field in schema if field.name not in columns])
    )
    arrays = [work[name] if name in columns else made[name] for name in schema.names]
    write_part(data_set.output, STAGING_FOLDER, pa.Table.from_arrays(arrays, schema=schema))
    return data_set.publish(plan)


def readable(cells: "pa.Array[Any]") -> list[Any]:
    """Return cells as Python objects; times that Python cannot hold as numbers."""
    counted = pa.types.is_timestamp(cells.type) or pa.types.is_duration(cells.type)
    values: list[Any] = (cells.view(pa.int64()) if counted else cells).to_pylist()
    return values


def test_other_digests_alone_change_nothing(data_set: DataSet) -> None:
    first = data_set.generate(products(10))
    plan = data_set.plan(products(10))
    changed_work(data_set, plan, with_other_digests)
    assert data_set.publish(plan) == first


def test_with_other_digests_only_changed_parts_are_written_again(data_set: DataSet) -> None:
    rows = products(12)
    first = data_set.generate(rows)
    rows[6] = rows[6] | {"brand": "zenith"}
    rows[11] = rows[11] | {"sku": "other"}
    plan = data_set.plan(rows[:11])
    changed_work(data_set, plan, with_other_digests)
    second = data_set.publish(plan)
    assert len(set(first.parts) & set(second.parts)) == 1
    assert [row["brand"] for row in data_set.published()] == [row["brand"] for row in rows[:11]]


def test_equal_cells_of_any_type_keep_a_part(data_set: DataSet) -> None:
    first = publish_with(data_set, COLUMNS)
    again = {name: pa.concat_arrays([column[3:], column])[1:] for name, column in COLUMNS.items()}
    again["kind"] = pa.DictionaryArray.from_arrays(pa.array([2, 1, None, 2]), pa.array(["unused", "a", "b"]))
    again["kind"] = again["kind"].cast(COLUMNS["kind"].type)
    plan = plan_with(data_set, again)
    assert data_set.publish(plan) == first


@pytest.mark.parametrize("name", OTHERS)
def test_another_cell_is_published_and_the_rest_stays(data_set: DataSet, name: str) -> None:
    first = publish_with(data_set, COLUMNS)
    columns = COLUMNS | {name: OTHERS[name]}
    plan = plan_with(data_set, columns)
    second = data_set.publish(plan)
    assert second.number == first.number + 1
    [part] = second.parts
    table = PartPlaces(data_set.output).read(part.path)
    for column, cells in columns.items():
        assert table[column].type == cells.type
        assert str(readable(table[column].combine_chunks())) == str(readable(cells)), column
    assert data_set.verify().problems == ()


def test_rows_of_any_type_are_picked() -> None:
    views = pa.array(["a", "a text of more than twelve bytes", None, "d"], pa.string_view())
    table = pa.table(
        {"view": views, "list": pa.array([["x"], None, [], ["y"]], pa.list_(pa.string_view())), **COLUMNS}
    )
    for mask in ([1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]):
        picked = rows_where(table, np.array(mask, dtype=np.bool_))
        assert picked.schema == table.schema
        assert picked["view"].to_pylist() == [
            text for text, kept in zip(views.to_pylist(), mask, strict=True) if kept
        ]
