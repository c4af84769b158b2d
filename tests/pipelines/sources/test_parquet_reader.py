import datetime
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.data._internal.object_extensions.arrow import ArrowPythonObjectArray

from pipelines.sources.open_source import open_source
from tests.pipelines.sources.source_tables import column, records, written
from zimage_models.errors import InvalidRequest


class RunsCode:
    """An object whose unpickling calls a function."""

    def __reduce__(self) -> tuple[object, ...]:
        return pytest.fail, ("a pickled object of the table was loaded",)


def test_types_and_nulls_are_kept(tmp_path: Path) -> None:
    table = pa.table({"id": [1, 2], "prompt": ["cat", None], "tags": [["a", "b"], []], "price": [1.5, 2.0]})
    source = open_source([written(tmp_path, "t.parquet", table)])
    assert source.num_rows == 2
    assert pa.concat_tables([batch.table for batch in source.batches()]).equals(table)


def test_unusual_types_are_read_as_plain_ones(tmp_path: Path) -> None:
    table = pa.table(
        {
            "prompt": pa.array(["cat"], pa.string_view()),
            "id": pa.array([bytes(16)], pa.uuid()),
            "attributes": pa.array([[("size", "XL")]], pa.map_(pa.string(), pa.string())),
        }
    )
    source = open_source([written(tmp_path, "t.parquet", table)])
    assert records(source) == {
        0: {
            "prompt": "cat",
            "id": "00000000-0000-0000-0000-000000000000",
            "attributes": [{"key": "size", "value": "XL"}],
        }
    }
    (note,) = source.notes
    assert "maps become lists" in note
    assert "'attributes'" in note


@pytest.mark.parametrize("is_nested", [False, True])
def test_pickled_objects_are_refused_unread(is_nested: bool, tmp_path: Path) -> None:
    # Ray registers this type as it is imported, and reading a value of it runs what is pickled there.
    pickled = ArrowPythonObjectArray.from_objects([RunsCode(), RunsCode()])
    cells = pa.StructArray.from_arrays([pickled], ["inner"]) if is_nested else pickled
    uri = written(tmp_path, "t.parquet", pa.table({"prompt": ["cat", "dog"], "seed": cells}))
    source = open_source([uri])
    assert re.search(r"column 'seed' has .* ray\.data\.arrow_pickled_object", source.refused["seed"])
    assert column(source, "prompt") == ["cat", "dog"]


def test_a_name_with_a_dot_is_not_the_field_of_a_struct(tmp_path: Path) -> None:
    uri = written(tmp_path, "t.parquet", {"a": [{"b": 1}], "a.b": [2], "": [3]})
    source = open_source([uri])
    assert [batch.table.to_pylist() for batch in source.batches(columns=["a.b"])] == [[{"a.b": 2}]]
    assert list(records(source).values()) == [{"a": {"b": 1}, "a.b": 2, "column_3": 3}]


def test_columns_that_share_a_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array(["a"]), pa.array([2])], ["x", "prompt", "x"])
    source = open_source([written(tmp_path, "t.parquet", table)])
    assert source.refused["x"].endswith("columns 1, 3 are all called 'x'; rename or drop them")
    assert list(records(source).values()) == [{"prompt": "a"}]


@pytest.mark.parametrize("writer", ["parquet-cpp-arrow", "parquet-mr"])
def test_far_times_of_spark_are_not_turned_into_near_ones(writer: str, tmp_path: Path) -> None:
    times = pa.array([datetime.datetime(9999, 12, 31)], pa.timestamp("us"))
    near = pa.array([1], pa.timestamp("ns"))
    is_spark = writer == "parquet-mr"
    pq.write_table(
        pa.table({"time": times if is_spark else near}),
        tmp_path / "t.parquet",
        use_deprecated_int96_timestamps=True,
    )
    content = (tmp_path / "t.parquet").read_bytes()
    written(tmp_path, "t.parquet", content.replace(b"parquet-cpp-arrow", writer.ljust(17).encode()))
    source = open_source([str(tmp_path / "t.parquet")])
    (batch,) = source.batches()
    assert batch.table["time"].combine_chunks().equals(times if is_spark else near)


def test_damaged_file_is_refused(tmp_path: Path) -> None:
    for content in (b"nonsense", b""):
        with pytest.raises(InvalidRequest, match=r"t\.parquet cannot be read"):
            open_source([written(tmp_path, "t.parquet", content)])


def test_metadata_of_other_tools_is_left_out(tmp_path: Path) -> None:
    field = pa.field("prompt", pa.string(), metadata={"zimage.encoding": "json"})
    table = pa.table({"prompt": ["cat"]}, pa.schema([field], {"huggingface": "{}"}))
    source = open_source([written(tmp_path, "t.parquet", table)])
    assert source.schema.equals(pa.schema({"prompt": pa.string()}), check_metadata=True)


def test_nameless_column_gets_a_name(tmp_path: Path) -> None:
    source = open_source([written(tmp_path, "t.parquet", {"": [7], "prompt": ["cat"]})])
    assert records(source) == {0: {"column_1": 7, "prompt": "cat"}}
    assert source.notes == ("the nameless column 1 is called column_1",)


def test_heavy_rows_come_in_smaller_batches(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["cat"] * 20, "photo": [bytes([n]) * 4 * 2**20 for n in range(20)]})
    pq.write_table(table, tmp_path / "t.parquet", compression="none", use_dictionary=False)
    sizes = [batch.table.num_rows for batch in open_source([str(tmp_path / "t.parquet")]).batches()]
    assert sum(sizes) == 20
    assert max(sizes) <= 16


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    broken = pa.array([b"\xff"], pa.binary()).view(pa.string())
    source = open_source([written(tmp_path, "t.parquet", pa.table({"prompt": broken}))])
    with pytest.raises(InvalidRequest, match=r"UTF-?8"):
        column(source, "prompt")


def times(*numbers: int, dtype: Any) -> Any:
    return pa.array(numbers, pa.int64()).cast(dtype)


@pytest.mark.parametrize(
    ("cells", "named"),
    [
        (times(0, 2**63 - 1, dtype=pa.timestamp("us", "UTC")), "9223372036854775807"),
        (times(0, 253402300800000, dtype=pa.timestamp("ms")), "10000-01-01 00:00:00.000 is not a time"),
        (times(0, 2**60, dtype=pa.duration("s")), "duration"),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_value_that_python_has_not_is_an_error_of_its_row_if_used(
    cells: Any, named: str, tmp_path: Path
) -> None:
    nested = pa.StructArray.from_arrays([cells], ["until"])
    table = pa.table({"prompt": ["cat", "dog"], "until": cells, "nested": nested})
    (batch,) = open_source([written(tmp_path, "t.parquet", table)]).batches()
    assert batch.table.equals(table)
    assert dict(batch.records(["prompt"])) == {0: {"prompt": "cat"}, 1: {"prompt": "dog"}}
    for name in ("until", "nested"):
        (_, good), (row, error) = batch.records(["prompt", name])
        assert isinstance(good, dict)
        assert row == 1
        assert isinstance(error, InvalidRequest)
        assert str(error).startswith(f"column {name!r}: ")
        assert name == "nested" or named in str(error)


def test_unknown_time_zone_is_an_error_of_each_row_if_used(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["cat"], "time": times(0, dtype=pa.timestamp("us", "Mars/Base"))})
    (batch,) = open_source([written(tmp_path, "t.parquet", table)]).batches()
    assert list(batch.records({"prompt"})) == [(0, {"prompt": "cat"})]
    ((_, error),) = batch.records({"time"})
    assert "column 'time': 1970-01-01 00:00:00.000000 in the zone Mars/Base" in str(error)
