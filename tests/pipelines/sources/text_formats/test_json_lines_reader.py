import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sources.source_rows import RowError, is_json_text
from pipelines.sources.text_formats.json_lines_reader import JsonLinesReader
from pipelines.sources.text_formats.json_rows import json_rows
from tests.pipelines.sources.text_formats.written_files import (
    PACKERS,
    Packer,
    errors,
    rows,
    written,
)
from zimage_models.errors import InvalidRequest


def json_lines(*values: Any) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def read(folder: Path, *values: Any) -> JsonLinesReader:
    return JsonLinesReader(written(folder, json_lines(*values)))


def column(folder: Path, values: list[Any]) -> tuple[str, list[Any], tuple[str, ...]]:
    """Return the type, cells and notes that a column of these values gets."""
    reader = read(folder, *({"id": n, "x": value} for n, value in enumerate(values)))
    assert errors(reader) == {}
    field = reader.schema.field("x")
    return (
        "json" if is_json_text(field) else str(field.type),
        [row["x"] for row in rows(reader).values()],
        reader.notes,
    )


class TestTypes:
    @pytest.mark.parametrize(
        ("values", "arrow_type"),
        [
            ([1, 2, 2**63 - 1, -(2**63)], "int64"),
            ([0.5, None, -1e300], "double"),
            ([True, False, None], "bool"),
            (["a", "", None], "string"),
        ],
    )
    def test_values_of_one_type_keep_it(self, tmp_path: Path, values: list[Any], arrow_type: str) -> None:
        assert column(tmp_path, values) == (arrow_type, values, ())

    @pytest.mark.parametrize(
        "values",
        [[["a"], [], None], [{"size": [1, 2]}], [{"a": 1}, [1, "红"]]],
        ids=["lists", "object", "both"],
    )
    def test_nested_values_are_json_text(self, tmp_path: Path, values: list[Any]) -> None:
        kind, cells, notes = column(tmp_path, values)
        assert (kind, notes) == ("json", ())
        assert [cell and json.loads(cell) for cell in cells] == values

    def test_column_without_values_is_null_in_every_row(self, tmp_path: Path) -> None:
        _, cells, notes = column(tmp_path, [None, None])
        assert (cells, notes) == ([None, None], ())

    def test_whole_and_other_numbers_are_double(self, tmp_path: Path) -> None:
        assert column(tmp_path, [1, 2.5, 2**60]) == ("double", [1.0, 2.5, float(2**60)], ())

    @pytest.mark.parametrize(
        ("values", "cells", "note"),
        [
            (["red", 7, None], ["red", "7", None], "text and numbers"),
            (["red", 3.5, True], ["red", "3.5", "true"], "text, numbers and true or false"),
            (["007", ["a"], {"b": None}], ["007", '["a"]', '{"b": null}'], "text, lists and objects"),
            ([True, 1], ["true", "1"], "numbers and true or false"),
            ([[1], 1], ["[1]", "1"], "numbers and lists"),
            ([0.5, 2**53 + 1], ["0.5", str(2**53 + 1)], "numbers too large to stay exact"),
            ([1, 2**63], ["1", str(2**63)], "numbers too large to stay exact"),
            (['"quoted"', 1], ['"quoted"', "1"], "text and numbers"),
        ],
    )
    def test_values_of_several_types_are_text_and_it_is_said(
        self, tmp_path: Path, values: list[Any], cells: list[Any], note: str
    ) -> None:
        assert column(tmp_path, values) == ("string", cells, (f"column x: {note} are read as text",))

    def test_columns_of_the_same_mixture_share_a_note(self, tmp_path: Path) -> None:
        reader = read(tmp_path, {"a": 1, "b": "x", "c": [1]}, {"a": "y", "b": 2, "c": "z"})
        assert reader.notes == (
            "columns a, b: text and numbers are read as text",
            "column c: text and lists are read as text",
        )

    @given(
        st.lists(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(st.characters(exclude_categories=["Cs"]))
            | st.lists(st.integers())
            | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.booleans()),
            min_size=1,
        )
    )
    def test_no_value_is_lost_or_changed(
        self, tmp_path_factory: pytest.TempPathFactory, values: list[Any]
    ) -> None:
        kind, cells, notes = column(tmp_path_factory.mktemp("json"), values)
        assert (kind == "string") >= bool(notes)
        for value, cell in zip(values, cells, strict=True):
            if value is not None and (kind == "json" or (kind == "string" and not isinstance(value, str))):
                assert json.loads(cell) == value
            else:
                assert cell == value

    def test_column_that_comes_late_is_a_column(self, tmp_path: Path) -> None:
        reader = read(tmp_path, *[{"prompt": "cat"}] * 12_000, {"late": 1.5, "prompt": "dog"})
        assert reader.schema.names == ["prompt", "late"]
        assert rows(reader)[0] == {"prompt": "cat", "late": None}
        assert rows(reader)[12_000] == {"prompt": "dog", "late": 1.5}

    def test_nameless_column_gets_a_name(self, tmp_path: Path) -> None:
        reader = read(tmp_path, {"": 1, "column_1": 2}, {"column_1": 3})
        assert list(rows(reader).values()) == [
            {"column_1_2": 1, "column_1": 2},
            {"column_1_2": None, "column_1": 3},
        ]
        assert reader.notes == ("the nameless column is called column_1_2",)

    def test_keys_without_end_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match="more than 10000 columns"):
            read(tmp_path, *({f"key {n}": 1} for n in range(10_001)))


class TestLines:
    def test_lines_of_text_are_prompts(self, tmp_path: Path) -> None:
        reader = JsonLinesReader(written(tmp_path, '"a cat"\n"a \\"dog\\""\n{"prompt": "cow"}\n'))
        assert [row["prompt"] for row in rows(reader).values()] == ["a cat", 'a "dog"', "cow"]

    def test_nan_is_a_missing_value(self, tmp_path: Path) -> None:
        lines = '{"brand": "x", "n": 1, "tags": [NaN]}\n{"brand": NaN, "n": NaN}\n'
        reader = JsonLinesReader(written(tmp_path, lines))
        assert list(rows(reader).values()) == [
            {"brand": "x", "n": 1, "tags": "[null]"},
            {"brand": None, "n": None, "tags": None},
        ]

    @pytest.mark.parametrize(
        ("line", "named"),
        [
            (b"{", "not valid JSON"),
            (b"[1]", r"\[1\] is not a JSON object"),
            (b'{"seed": -Infinity}', "-Infinity is not a JSON number"),
            (b'{"seed": 1},', "Extra data at character 12"),
            (b'{"prompt": "a", "prompt": "b"}', "'prompt' is given twice"),
            (b'{"attrs": {"a": 1, "a": 1}}', "'a' is given twice"),
            (b'{"prompt": "\\ud800"}', "not valid JSON"),
            (b'{"prompt": "\xe4"}', r"not UTF-8 text \(byte 0xE4\); give --encoding"),
            (b'{"price": 1e400}', "column 'price': inf does not fit"),
            (b'{"attrs": [1e400]}', "column 'attrs': .*inf.* does not fit"),
            (b'{"seed": ' + b"1" * 5000 + b"}", "not valid JSON"),
            (b'{"deep": ' + b"[" * 100_000, "not valid JSON"),
            (b'{"prompt": "' + b"x" * 2**22 + b'"}', "longer than 4194304 bytes"),
        ],
    )
    def test_bad_line_is_an_error_and_others_go_on(self, tmp_path: Path, line: bytes, named: str) -> None:
        good = b'{"prompt": "\\ud83d\\ude00", "seed": 1, "price": 0.5, "attrs": [1]}\n'
        reader = JsonLinesReader(written(tmp_path, good * 2 + b"\n \r\n" + line + b"\r" + good))
        assert list(rows(reader)) == [0, 1, 3]
        assert rows(reader)[3] == {"prompt": "😀", "seed": 1, "price": 0.5, "attrs": "[1]"}
        ((row, message),) = errors(reader).items()
        assert (row, reader.num_rows) == (2, 4)
        assert re.match(f"line 5: (not valid JSON: )?{named}", message)

    @pytest.mark.parametrize(
        ("content", "named"),
        [
            ("not json\n", "no usable rows; line 1: not valid JSON"),
            ("{}\n{}\n", "no usable rows; its objects are empty"),
            ('\n[\n {"prompt": "cat"}\n]\n', "holds an array, not an object per line; give --format json"),
            (
                '{\n "prompt": "cat"\n}\n',
                "holds objects of several lines, not an object per line; give --form",
            ),
            ('["a cat"]', "give --format json"),
        ],
    )
    def test_file_without_a_usable_row_is_refused(self, tmp_path: Path, content: str, named: str) -> None:
        with pytest.raises(InvalidRequest, match=named):
            JsonLinesReader(written(tmp_path, content))

    def test_empty_file_has_no_rows(self, tmp_path: Path) -> None:
        reader = JsonLinesReader(written(tmp_path, "\n\n"))
        assert (reader.format, reader.num_rows, list(reader.batches())) == ("jsonl", 0, [])

    def test_batches_keep_order_and_size(self, tmp_path: Path) -> None:
        reader = read(tmp_path, *({"n": n} for n in range(25)))
        assert [batch.table.num_rows for batch in reader.batches(10)] == [10, 10, 5]
        assert [row["n"] for row in rows(reader, 10).values()] == list(range(25))

    @pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
    def test_encoding_and_compression(self, tmp_path: Path, pack: Packer) -> None:
        file = written(tmp_path, pack('{"prompt": "红苹果"}'.encode("gb18030")))
        assert rows(JsonLinesReader(file, encoding="gb18030")) == {0: {"prompt": "红苹果"}}

    def test_objects_alone(self, tmp_path: Path) -> None:
        first, second = json_rows(written(tmp_path, '\n{"a": [1]}\n7\n'))
        assert first == (0, 2, {"a": [1]})
        assert second == RowError(row=1, key=None, message="line 3: 7 is not a JSON object")
