import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sources.text_formats import json_array_reader
from pipelines.sources.text_formats.json_array_reader import JsonArrayReader
from tests.pipelines.sources.text_formats.written_files import (
    PACKERS,
    errors,
    rows,
    written,
)
from zimage_models.errors import InvalidRequest

CAT_AND_DOG = [{"prompt": "a cat"}, {"prompt": "a dog"}]


def read(folder: Path, content: str | bytes) -> JsonArrayReader:
    return JsonArrayReader(written(folder, content))


class TestShapes:
    @pytest.mark.parametrize("indent", [None, 1])
    @pytest.mark.parametrize(
        ("value", "notes"),
        [
            (CAT_AND_DOG, ()),
            (["a cat", "a dog"], ()),
            (["a cat", {"prompt": "a dog"}], ()),
            ({"data": CAT_AND_DOG}, ("the rows are the elements of 'data'",)),
            ({"prompts": ["a cat", "a dog"]}, ("the rows are the elements of 'prompts'",)),
            (
                {"count": 2, "ids": [1, 2], "rows": CAT_AND_DOG},
                ("the rows are the elements of 'rows'; left out: 'count', 'ids'",),
            ),
        ],
    )
    def test_rows_are_found(
        self, tmp_path: Path, value: Any, notes: tuple[str, ...], indent: int | None
    ) -> None:
        reader = read(tmp_path, json.dumps(value, indent=indent))
        assert (reader.format, reader.num_rows, reader.notes) == ("json", 2, notes)
        assert list(rows(reader).values()) == CAT_AND_DOG

    def test_objects_one_after_another_are_rows(self, tmp_path: Path) -> None:
        content = "\n".join(json.dumps(value, indent=2) for value in CAT_AND_DOG)
        assert list(rows(read(tmp_path, content)).values()) == CAT_AND_DOG

    def test_one_object_is_a_row(self, tmp_path: Path) -> None:
        reader = read(tmp_path, '{"prompt": "a cat", "tags": ["x", "y"]}')
        assert rows(reader) == {0: {"prompt": "a cat", "tags": '["x", "y"]'}}

    def test_json_lines_are_read_as_such(self, tmp_path: Path) -> None:
        reader = read(tmp_path, '\n{"prompt": "a cat"}\n{"prompt": \n{"prompt": "a dog"}\n')
        assert reader.format == "jsonl"
        assert list(rows(reader)) == [0, 2]
        assert errors(reader)[1].startswith("line 3: not valid JSON")

    @pytest.mark.parametrize(
        ("content", "named"),
        [
            ("", None),
            ("[]", None),
            ('{"data": []}', None),
            ("7", "neither an array nor objects"),
            ("prompt\na cat\n", "neither an array nor objects"),
            ('[{"a": 1}, {"a": 2]', r"after element 1: .*line 1 column 19"),
            ('[{"a": 1} {"a": 2}]', "after element 1: Expecting ',' delimiter"),
            ('[{"a": 1},]', "after element 1: Expecting value"),
            ('[{"a": 1}]\n[]', "Extra data after the array"),
            ('[{"a": 1}', "after element 1"),
            ("[" * 100_000, "recursion"),
            ('{"prompt": {"0": "a"}, "id": {"0": 1}}', r"to_json\(orient='records'\)"),
            ('{"a": [{"b": 1}], "c": [{"d": 1}]}', "without a single array"),
            ("[7, null]", "no usable rows; element 1: 7 is neither a JSON object nor text"),
        ],
    )
    def test_other_shapes_are_refused_or_empty(self, tmp_path: Path, content: str, named: str | None) -> None:
        if named is None:
            assert read(tmp_path, content).num_rows == 0
            return
        with pytest.raises(InvalidRequest, match=named) as caught:
            read(tmp_path, content)
        assert "\n" not in str(caught.value)

    def test_file_past_the_limit_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(json_array_reader, "MAX_BYTES", 30)
        assert read(tmp_path, '["' + "x" * 26 + '"]').num_rows == 1
        with pytest.raises(InvalidRequest, match=r"larger than 30 bytes.*JSON Lines"):
            read(tmp_path, '["' + "x" * 27 + '"]')


class TestElements:
    @pytest.mark.parametrize(
        ("element", "named"),
        [
            ("7", "7 is neither a JSON object nor text"),
            ("null", "None is neither a JSON object nor text"),
            ('["a"]', "is neither a JSON object nor text"),
            ('{"seed": Infinity}', "Infinity is not a JSON number"),
            ('{"a": {"b": 1, "b": 2}}', "'b' is given twice"),
            ('{"prompt": "\\ud800"}', "surrogates not allowed"),
            ('"\\udc00"', "surrogates not allowed"),
            ('{"seed": 1e400}', "column 'seed': inf does not fit"),
        ],
    )
    def test_bad_element_is_an_error_and_others_go_on(self, tmp_path: Path, element: str, named: str) -> None:
        reader = read(tmp_path, f'[ {{"prompt": "\\ud83d\\ude00", "seed": 1}},\n{element} , "a dog"\n]')
        assert rows(reader) == {0: {"prompt": "😀", "seed": 1}, 2: {"prompt": "a dog", "seed": None}}
        ((row, message),) = errors(reader).items()
        assert row == 1
        assert re.match(f"element 2: .*{named}", message)

    def test_text_of_another_encoding_is_refused_or_read(self, tmp_path: Path) -> None:
        content = json.dumps(["café"], ensure_ascii=False)
        with pytest.raises(InvalidRequest, match=r"not UTF-8 text \(.*\); give --encoding, such as cp1252"):
            read(tmp_path, content.encode("cp1252"))
        for encoding in ("cp1252", "utf-16"):
            file = written(tmp_path, PACKERS["zstd"](content.encode(encoding)))
            assert rows(JsonArrayReader(file, encoding="cp1252")) == {0: {"prompt": "café"}}

    @given(
        st.lists(
            st.dictionaries(
                st.sampled_from("abc"), st.text(st.characters(exclude_categories=["Cs"])), min_size=1
            )
        ),
        st.sampled_from([None, 0, 2]),
        st.booleans(),
    )
    def test_any_rows_come_back(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        values: list[dict[str, str]],
        indent: int | None,
        is_ascii: bool,
    ) -> None:
        content = json.dumps(values, indent=indent, ensure_ascii=is_ascii)
        found = rows(read(tmp_path_factory.mktemp("json"), content)).values()
        assert [{name: cell for name, cell in row.items() if cell is not None} for row in found] == values
