import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from pipelines.sources.open_source import open_source
from tests.pipelines.sources.source_tables import column, errors, json_lines, records, written
from zimage_models.errors import InvalidRequest


class TestPartitions:
    @pytest.mark.parametrize("end", ["parquet", "csv", "jsonl", "json", "txt"])
    def test_folders_give_columns_of_text(self, tmp_path: Path, end: str) -> None:
        content = {
            "parquet": {"prompt": ["cat"]},
            "csv": "prompt\ncat\n",
            "jsonl": '{"prompt": "cat"}',
            "json": '[{"prompt": "cat"}]',
            "txt": "cat",
        }[end]
        for folder in ("year=2024/a b%2F%C3%A4=x%3Dy", "year=__HIVE_DEFAULT_PARTITION__", "year=", "_k=1=2"):
            written(tmp_path, f"{folder}/part.{end}", content)
        source = open_source([str(tmp_path)])
        assert source.schema.names == ["prompt", "_k", "year", "a b/ä"]
        assert records(source) == {
            row: {"prompt": "cat", "_k": k, "year": year, "a b/ä": other}
            for row, (k, year, other) in enumerate(
                [("1=2", None, None), (None, "", None), (None, "2024", "x=y"), (None, None, None)]
            )
        }

    def test_only_folders_below_the_input_count(self, tmp_path: Path) -> None:
        uri = written(tmp_path, "a=1/b=2/c=3/t.csv", "prompt\ncat\n")
        for found, names in (
            (uri, []),
            (f"{tmp_path}/a=1/b=2", ["c"]),
            (f"{tmp_path}/a=1/*/c=3/*.csv", ["b", "c"]),
            (f"{tmp_path}/**", ["a", "b", "c"]),
        ):
            assert open_source([found]).schema.names == ["prompt", *names]

    def test_column_of_the_file_wins_and_it_is_said(self, tmp_path: Path) -> None:
        written(tmp_path, "year=1/a.csv", "prompt,year\ncat,2024\n")
        written(tmp_path, "year=2/b.csv", "prompt\ndog\n")
        source = open_source([str(tmp_path)])
        assert column(source, "year") == ["2024", "2"]
        assert source.notes == (
            "column 'year' is taken from the files that have it, not from the folders' names",
        )


class TestColumns:
    def test_they_are_joined_by_name_in_order_of_first_appearance(self, tmp_path: Path) -> None:
        written(tmp_path, "a.csv", "sku,prompt\n1,cat\n")
        written(tmp_path, "b.csv", "price,prompt,sku\n5,dog,2\n")
        source = open_source([str(tmp_path)])
        assert list(records(source).values()) == [
            {"sku": "1", "prompt": "cat", "price": None},
            {"sku": "2", "prompt": "dog", "price": "5"},
        ]
        assert source.schema.names == ["sku", "prompt", "price"]
        assert source.notes == ("column 'price' is missing in a.csv; it is null there",)

    def test_many_missing_ones_are_said_in_few_words(self, tmp_path: Path) -> None:
        written(tmp_path, "a.csv", "prompt,b,c,d,e,f\ncat,1,2,3,4,5\n")
        for name in ("b.csv", "c.csv"):
            written(tmp_path, name, "prompt\ncat\n")
        *notes, last = open_source([str(tmp_path)]).notes
        assert notes == [
            f"column '{name}' is missing in b.csv and 1 more of 3 files; it is null there" for name in "bcd"
        ]
        assert last == "the same holds for 2 more columns"

    def test_files_without_rows_have_no_say(self, tmp_path: Path) -> None:
        written(tmp_path, "a.parquet", {"prompt": pa.array([], pa.int64()), "x": pa.array([], pa.int8())})
        written(tmp_path, "b.parquet", {"prompt": ["cat"]})
        assert records(open_source([str(tmp_path)])) == {0: {"prompt": "cat"}}
        written(tmp_path / "c", "1.csv", "")
        written(tmp_path / "c", "2.csv", "x,y\n")
        written(tmp_path / "c", "3.csv", "prompt\ncat\n")
        assert records(open_source([f"{tmp_path}/c"])) == {0: {"prompt": "cat"}}

    @pytest.mark.parametrize(
        ("left", "right", "named"),
        [
            (pa.array([1]), pa.array(["x"]), "column 'x' is string in b.parquet, but int64 in a.parquet"),
            (
                pa.array([{"y": [1]}]),
                pa.array([{"y": [True]}]),
                r"column 'x.y[]' is bool in b.parquet, but int64 in a.parquet",
            ),
        ],
        ids=str,
    )
    def test_types_of_parquet_that_do_not_go_together_are_refused(
        self, tmp_path: Path, left: Any, right: Any, named: str
    ) -> None:
        written(tmp_path, "a.parquet", {"sku": [1], "x": left})
        written(tmp_path, "b.parquet", {"sku": [2], "x": right})
        written(tmp_path, "c.parquet", {"sku": pa.nulls(1), "x": pa.nulls(1)})
        source = open_source([str(tmp_path)])
        assert source.refused["x"].startswith(f"input: {named}")
        assert source.refused["x"].endswith("; write it with one type in all files or drop it")
        assert list(records(source).values()) == [{"sku": 1}, {"sku": 2}, {"sku": None}]

    def test_values_that_the_common_type_does_not_hold_are_refused_only_if_they_are_read(
        self, tmp_path: Path
    ) -> None:
        written(tmp_path, "a.parquet", {"sku": [1], "x": [2**53 + 1]})
        written(tmp_path, "b.parquet", {"sku": [2], "x": [0.5]})
        source = open_source([str(tmp_path)])
        with pytest.raises(
            InvalidRequest, match=r"'x' is int64 in a\.parquet, but double for all .* or drop it"
        ):
            list(source.batches())
        tables = [batch.table for batch in source.batches(columns=["sku"])]
        assert pa.concat_tables(tables).to_pydict() == {"sku": [1, 2]}

    def test_whole_and_other_numbers_are_double_where_that_is_exact(self, tmp_path: Path) -> None:
        written(tmp_path, "a.parquet", {"x": [2**53, None]})
        written(tmp_path, "b.parquet", {"x": pa.array([0.5], pa.float32())})
        assert column(open_source([str(tmp_path)]), "x") == [2.0**53, None, 0.5]

    def test_types_that_values_suggest_become_text(self, tmp_path: Path) -> None:
        written(tmp_path, "a.jsonl", json_lines({"x": 1, "n": None, "o": [1], "b": True}, {"x": 2.5}))
        written(tmp_path, "b.jsonl", json_lines({"x": "7", "n": 3, "o": "t", "b": 1, "j": {"k": 1}}))
        source = open_source([str(tmp_path)])
        assert list(records(source).values()) == [
            {"x": "1", "n": None, "o": "[1]", "b": "true", "j": None},
            {"x": "2.5", "n": None, "o": None, "b": None, "j": None},
            {"x": "7", "n": 3, "o": "t", "b": "1", "j": {"k": 1}},
        ]
        assert source.notes[:3] == (
            "column 'x': numbers in a.jsonl and text in b.jsonl are read as text",
            "column 'o': lists or objects in a.jsonl and text in b.jsonl are read as text",
            "column 'b': true or false in a.jsonl and numbers in b.jsonl are read as text",
        )

    def test_column_of_nulls_alone_is_text_where_types_are_read_from_values(self, tmp_path: Path) -> None:
        assert open_source([written(tmp_path, "t.jsonl", '{"x": null}')]).schema == pa.schema(
            {"x": pa.string()}
        )
        assert open_source([written(tmp_path, "t.parquet", {"x": pa.nulls(1)})]).schema == pa.schema(
            {"x": pa.null()}
        )

    def test_text_and_parquet_go_together_as_text_at_least(self, tmp_path: Path) -> None:
        table = written(tmp_path, "a.parquet", {"prompt": ["cat"], "n": [1]})
        nested = written(tmp_path, "d.parquet", {"prompt": ["cat"], "n": [[1]]})
        lines = written(tmp_path, "b.jsonl", json_lines({"prompt": "dog", "n": 2}))
        cells = written(tmp_path, "c.csv", "prompt,n\nox,3\n")
        assert column(open_source([table, lines]), "n") == [1, 2]
        assert column(open_source([cells, lines]), "n") == ["3", "2"]
        source = open_source([table, cells])
        assert column(source, "n") == ["1", "3"]
        assert source.notes == ("column 'n': numbers in a.parquet and text in c.csv are read as text",)
        refused = open_source([nested, cells]).refused["n"]
        assert "'n' is string in c.csv, but list<item: int64> in d.parquet" in refused

    def test_a_partition_and_numbers_of_other_files_are_text(self, tmp_path: Path) -> None:
        written(tmp_path, "year=2026/a.parquet", {"prompt": ["cat"], "year": [2026]})
        written(tmp_path, "year=2027/a.parquet", {"prompt": ["dog"]})
        assert column(open_source([str(tmp_path)]), "year") == ["2026", "2027"]


class TestRows:
    def test_numbers_run_on_and_errors_name_the_file(self, tmp_path: Path) -> None:
        written(tmp_path, "1.jsonl", json_lines({"prompt": "a"}) + "\n!\n")
        written(tmp_path, "2.jsonl", "?\n" + json_lines({"prompt": "b"}))
        written(tmp_path, "x/3.jsonl", json_lines({"prompt": "c"}) + "*\n")
        source = open_source([str(tmp_path)])
        assert records(source) == {0: {"prompt": "a"}, 3: {"prompt": "b"}, 4: {"prompt": "c"}}
        assert {row: message.split(": ")[0] for row, message in errors(source).items()} == {
            1: "1.jsonl line 3",
            2: "2.jsonl line 1",
            5: "x/3.jsonl line 2",
        }
        assert errors(open_source([f"{tmp_path}/2.jsonl"]))[0].startswith("line 1: ")

    def test_damage_is_told_with_the_file(self, tmp_path: Path) -> None:
        written(tmp_path, "a.parquet", {"prompt": ["cat"]})
        written(tmp_path, "b.parquet", b"PAR1")
        with pytest.raises(InvalidRequest, match=r"b\.parquet cannot be read"):
            open_source([str(tmp_path)])

    def test_same_note_of_several_files_is_told_once(self, tmp_path: Path) -> None:
        for name in ("a.csv", "b.csv", "c.csv"):
            written(tmp_path, name, "prompt;x\ncat;1\n")
        assert open_source([str(tmp_path)]).notes == ("a.csv and 2 more: the delimiter is ;",)


DAY = st.dates(datetime.date(1970, 1, 1), datetime.date(2200, 1, 1))
TIME = st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(2200, 1, 1))
Column = tuple[pa.DataType, st.SearchStrategy[Any]]
TEXT, BYTES = st.text(max_size=3), st.binary(max_size=3)
FAMILIES: list[list[Column]] = [
    [
        (pa.int8(), st.integers(-128, 127)),
        (pa.uint32(), st.integers(0, 2**32 - 1)),
        (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
        (pa.uint64(), st.integers(0, 2**64 - 1)),
        (pa.float32(), st.floats(width=32, allow_nan=False)),
        (pa.float64(), st.floats(allow_nan=False)),
        (pa.decimal128(7, 2), st.decimals(-99999, 99999, places=2)),
        (pa.decimal128(9, 4), st.decimals(-99999, 99999, places=4)),
        (pa.bool_(), st.booleans()),
    ],
    [
        (pa.string(), TEXT),
        (pa.large_string(), TEXT),
        (pa.dictionary(pa.int8(), pa.string()), TEXT),
        (pa.dictionary(pa.int32(), pa.string()), TEXT),
    ],
    [(pa.binary(), BYTES), (pa.binary(2), st.binary(min_size=2, max_size=2)), (pa.large_binary(), BYTES)],
    [
        (pa.date32(), DAY),
        (pa.date64(), DAY),
        (pa.timestamp("us"), TIME),
        (pa.timestamp("ms"), TIME.map(lambda time: time.replace(microsecond=0))),
    ],
]
# Arrow writes or makes these only outside of lists and structs.
OUTER: list[Column] = [
    (pa.string_view(), TEXT),
    (pa.uuid(), st.uuids().map(lambda value: value.bytes)),
    (pa.string(), TEXT),
]


def list_of(inner: Column, make: Any) -> Column:
    return make(inner[0]), st.lists(inner[1], min_size=2, max_size=2)


def struct_of(fields: Mapping[str, Column]) -> Column:
    dtype = pa.struct([(name, dtype) for name, (dtype, _) in fields.items()])
    return dtype, st.fixed_dictionaries({name: values for name, (_, values) in fields.items()})


def nullable(column: Column) -> Column:
    return column[0], st.none() | column[1]


def shaped(shape: str, leaves: st.SearchStrategy[Column]) -> st.SearchStrategy[Column]:
    """Return columns of a shape, such as "ls" for a list of structs, with any leaves."""
    columns = leaves.map(nullable)
    for kind in reversed(shape):
        if kind == "l":
            kinds = st.sampled_from([pa.list_, pa.large_list, lambda dtype: pa.list_(dtype, 2)])
            columns = st.builds(list_of, columns, kinds).map(nullable)
        else:
            fields = st.dictionaries(st.sampled_from("abc"), columns, min_size=1, max_size=2)
            columns = fields.map(struct_of).map(nullable)
    return columns


@st.composite
def tables(draw: st.DrawFn) -> list[pa.Table]:
    """Draw tables whose columns of one name have types that have something in common."""
    names = {
        name: shaped(shape, st.sampled_from([*family, (pa.null(), st.none())]))
        for name, shape, family in [
            ("x", "", draw(st.sampled_from(FAMILIES[:1] * 3 + FAMILIES[1:] + [OUTER]))),
            ("y", draw(st.sampled_from(["l", "s", "ll", "ls", "sl"])), draw(st.sampled_from(FAMILIES))),
        ]
    }

    def column(columns: st.SearchStrategy[Column]) -> Any:
        dtype, values = draw(columns)
        return pa.array(draw(st.lists(values, min_size=3, max_size=3)), dtype)

    return [
        pa.table({name: column(names[name]) for name in draw(st.sampled_from(["x", "xy", "yx"]))})
        for _ in range(draw(st.integers(2, 3)))
    ]


def same(found: Any, given: Any) -> bool:
    """Return whether a value is the one given, in a type that may be wider."""
    if isinstance(given, dict):
        return (
            all(same(value, given.get(name)) for name, value in found.items())
            and found.keys() >= given.keys()
        )
    if isinstance(given, list):
        return len(found) == len(given) and all(map(same, found, given))
    return found == (str(given) if type(found) is str else given)


@hypothesis.given(given=tables())
def test_no_value_is_lost_or_changed(tmp_path_factory: pytest.TempPathFactory, given: list[pa.Table]) -> None:
    folder = tmp_path_factory.mktemp("tables")
    for place, table in enumerate(given):
        pq.write_table(table, folder / f"{place}.parquet")
    try:
        source = open_source([str(folder)])
        if source.refused:
            assert all("write it with one type in all files" in text for text in source.refused.values())
            return
        found = list(records(source, 2).values())
    except InvalidRequest as error:
        if "write it with one type in all files" not in str(error):
            raise
        return
    rows = [row for table in given for row in table.to_pylist()]
    assert len(found) == len(rows)
    assert all(map(same, found, rows))
