import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sources.text_formats.csv_reader import CsvReader
from tests.pipelines.sources.text_formats.written_files import (
    PACKERS,
    errors,
    rows,
    written,
)
from zimage_models.errors import InvalidRequest


def read(folder: Path, content: str | bytes, delimiter: str | None = None) -> CsvReader:
    return CsvReader(written(folder, content), delimiter=delimiter)


@st.composite
def tables(draw: st.DrawFn) -> list[list[str]]:
    """Draw a header and rows: any text, and at least one cell of each row is not blank."""
    num_columns = draw(st.integers(2, 5))
    text = st.text(st.characters(codec="cp1252", exclude_characters="\0\r"), max_size=8)
    row = st.lists(text, min_size=num_columns, max_size=num_columns).filter(
        lambda cells: "".join(cells).strip()
    )
    name = st.text("abcdefgh äé_", min_size=1, max_size=8).map(str.strip).filter(bool)
    header = draw(st.lists(name, min_size=num_columns, max_size=num_columns, unique=True))
    return [header, *draw(st.lists(row, max_size=6))]


@given(
    tables(),
    st.sampled_from([",", ";", "\t", "|"]),
    st.booleans(),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "gb18030"]),
    st.sampled_from(list(PACKERS.values())),
)
def test_what_a_csv_writer_wrote_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    table: list[list[str]],
    delimiter: str,
    is_given: bool,
    end: str,
    encoding: str,
    pack: object,
) -> None:
    content = io.StringIO()
    csv.writer(content, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(table)
    file = written(tmp_path_factory.mktemp("csv"), pack(content.getvalue().encode(encoding)))
    reader = CsvReader(file, delimiter=delimiter if is_given else None, encoding=encoding)
    header, *expected = table
    assert reader.schema.names == header
    assert reader.num_rows == len(expected)
    assert [list(row.values()) for row in rows(reader).values()] == [
        [cell or None for cell in cells] for cells in expected
    ]


class TestCells:
    def test_every_cell_is_text_and_an_empty_one_null(self, tmp_path: Path) -> None:
        reader = read(tmp_path, 'sku,prompt,price\n007,"red, ""big""\napple",1.50\n8,,\n')
        assert set(map(str, reader.schema.types)) == {"string"}
        assert rows(reader) == {
            0: {"sku": "007", "prompt": 'red, "big"\napple', "price": "1.50"},
            1: {"sku": "8", "prompt": None, "price": None},
        }

    def test_batches_keep_order_and_size_and_the_file_can_be_read_again(self, tmp_path: Path) -> None:
        reader = read(tmp_path, "prompt\n" + "".join(f"cat {n}\n" for n in range(25)))
        assert (reader.format, reader.num_rows, reader.notes) == ("csv", 25, ())
        for _ in range(2):
            assert [batch.table.num_rows for batch in reader.batches(10)] == [10, 10, 5]
            assert rows(reader, 10) == {n: {"prompt": f"cat {n}"} for n in range(25)}

    @pytest.mark.parametrize("content", ["", "\n\n", "prompt\n", "prompt,id\n\n,\n"])
    def test_table_without_rows_has_none(self, tmp_path: Path, content: str) -> None:
        reader = read(tmp_path, content)
        assert (reader.num_rows, list(reader.batches())) == (0, [])

    def test_row_with_another_number_of_cells_is_an_error_and_others_go_on(self, tmp_path: Path) -> None:
        reader = read(tmp_path, 'sku,prompt\n1,"a\nb"\n2\n\n3,cat,extra\n4,dog\n')
        assert rows(reader) == {0: {"sku": "1", "prompt": "a\nb"}, 3: {"sku": "4", "prompt": "dog"}}
        assert errors(reader) == {
            1: "line 4: 1 cells; the header has 2",
            2: "line 6: 3 cells; the header has 2; a cell that holds , needs double quotes around it",
        }

    @pytest.mark.parametrize(("delimiter", "mark"), [(None, ", "), ("tab", ", "), (None, "; ")])
    def test_lines_of_one_column_are_prompts_with_their_commas(
        self, tmp_path: Path, delimiter: str | None, mark: str
    ) -> None:
        lines = ["prompt", f"a cat{mark}on a mat", f'"a dog{mark}with a ""hat"""', '"No" sign', "cow"]
        reader = read(tmp_path, "\n".join(lines), delimiter=delimiter)
        expected = [f"a cat{mark}on a mat", f'a dog{mark}with a "hat"', '"No" sign', "cow"]
        assert [record["prompt"] for record in rows(reader).values()] == expected
        said = ("there is one column, so commas are part of its text",)
        assert reader.notes == (said if mark == ", " and delimiter is None else ())

    def test_blank_cells_past_the_only_column_are_no_text(self, tmp_path: Path) -> None:
        reader = read(tmp_path, "prompt\na cat,\ncow,,\n")
        assert [record["prompt"] for record in rows(reader).values()] == ["a cat", "cow"]

    def test_quotes_after_a_space_are_quotes(self, tmp_path: Path) -> None:
        reader = read(tmp_path, '"sku", "prompt"\n"1", "a red, ""big"" shoe"\n2, hat\n')
        assert list(rows(reader).values()) == [
            {"sku": "1", "prompt": 'a red, "big" shoe'},
            {"sku": "2", "prompt": "hat"},
        ]

    def test_backslashes_before_quotes(self, tmp_path: Path) -> None:
        written_by_spark = '1,"a 24\\" screen, black",C:\\new\n2,"ends in \\\\",x\n3,"\\"all\\"",y\n'
        reader = read(tmp_path, "sku,prompt,path\n" + written_by_spark)
        assert [record["prompt"] for record in rows(reader).values()] == [
            'a 24" screen, black',
            "ends in \\\\",
            '"all"',
        ]
        assert rows(reader)[0]["path"] == "C:\\new"
        assert reader.notes == ("quotes inside cells have a backslash before them",)
        usual = read(tmp_path, 'sku,prompt\n1,"C:\\"\n2,"say \\""hi\\"""\n')
        assert [record["prompt"] for record in rows(usual).values()] == ["C:\\", 'say \\"hi\\"']

    @pytest.mark.parametrize(
        ("line", "told"),
        [
            (
                '1,"a "red" shoe"',
                "a cell goes on after its closing quote; a quote inside a cell is written tw",
            ),
            ('1,"open', "the quotes of a cell are not closed"),
        ],
    )
    def test_bad_quotes_are_told_in_words(self, tmp_path: Path, line: str, told: str) -> None:
        assert errors(read(tmp_path, f"sku,prompt\n2,cat\n{line}\n"))[1].startswith(f"line 3: {told}")

    def test_blank_cells_past_the_header_and_blank_lines_are_nothing(self, tmp_path: Path) -> None:
        reader = read(tmp_path, ",,\nid,prompt\n1,cat,, \n,,\n , \n\n2,dog\n")
        assert rows(reader) == {0: {"id": "1", "prompt": "cat"}, 1: {"id": "2", "prompt": "dog"}}
        assert errors(reader) == {}

    def test_stray_quote_costs_its_own_row_alone(self, tmp_path: Path) -> None:
        lines = ["sku,prompt", '1,"open', '2,"cat"', "3,dog", '4,"x"y', "5,cow", '6,"end']
        reader = read(tmp_path, "\n".join(lines))
        assert {row: record["sku"] for row, record in rows(reader).items()} == {1: "2", 2: "3", 4: "5"}
        assert [message.split(":")[0] for message in errors(reader).values()] == [
            "line 2",
            "line 5",
            "line 7",
        ]

    def test_cell_past_the_limit_is_an_error(self, tmp_path: Path) -> None:
        reader = read(tmp_path, f"prompt,\n{'x' * 100_000}\n{'x' * 200_000}\ncat\n")
        assert [len(record["prompt"]) for record in rows(reader).values()] == [100_000, 3]
        reason = "a cell has more than 131072 characters, or its quotes are not closed"
        assert errors(reader) == {1: f"line 3: {reason}"}

    def test_row_with_a_line_that_is_unusable_is_an_error(self, tmp_path: Path) -> None:
        reader = read(tmp_path, b'id,prompt\n1,"a\nk\xe4se"\n2,cat\n3,' + b"x" * 5 * 2**20 + b"\n4,dog\n")
        assert list(rows(reader)) == [1, 3]
        assert errors(reader)[0].startswith("line 2: not UTF-8 text (byte 0xE4); give --encoding")
        assert errors(reader)[2] == "line 5: longer than 4194304 bytes"

    def test_unreadable_header_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match=r"header is unreadable: not UTF-8 .* --encoding, such"):
            read(tmp_path, b"k\xe4se\ncat\ndog\n")

    def test_tabs_with_quotes_or_without(self, tmp_path: Path) -> None:
        lines = ["prompt\tnote", '"say ""hi"""\ta,b', '"G I G G L E" on a wall\tx', '"open\ty', "cat\tz"]
        reader = read(tmp_path, "\n".join(lines), delimiter="tab")
        assert reader.format == "tsv"
        assert [record["prompt"] for record in rows(reader).values()] == [
            'say "hi"',
            '"G I G G L E" on a wall',
            '"open',
            "cat",
        ]
        assert errors(reader) == {}


class TestDelimiter:
    @pytest.mark.parametrize(
        ("content", "found"),
        [
            ("id;prompt;price\n1;a red shoe;3,50\n2;a cup, on a table;2,10\n", ";"),
            ("id;prompt;price, EUR\n1;a;3,50\n2;b;4,10\n", ";"),  # with commas, two cells everywhere
            ("id;prompt\n1;a\n2\n3;b\n", ";"),  # a bad row among good ones
            ('"id";"prompt"\n"1";"a ""big""; red\nshoe, or two"\n', ";"),
            ("id;prompt\n", ";"),
            ("id\tprompt\n1\ta cup, on; a table\n", "a tab"),
            ("id|prompt\n1|a cup, on a table\n", "|"),
            ("id;prompt;;\n1;a\n2;b;;\n", ";"),
        ],
    )
    def test_is_found_and_told(self, tmp_path: Path, content: str, found: str) -> None:
        reader = read(tmp_path, content)
        assert f"the delimiter is {found}" in reader.notes
        assert reader.schema.names[:2] == [
            "id",
            next(name for name in reader.schema.names if "prompt" in name),
        ]

    @pytest.mark.parametrize(
        "content",
        [
            "prompt\na red shoe; a blue one\n",  # a single column
            "prompt; in English\na cup\na shoe\n",
            'id,"a;b"\n1,x;y\n',
            "a;b,c;d\n1;2,3;4\n5,6\n",  # both fit some rows
            "id,prompt\n1;a\n2,b\n",
        ],
    )
    def test_is_the_comma_in_doubt(self, tmp_path: Path, content: str) -> None:
        assert read(tmp_path, content).notes == ()

    @pytest.mark.parametrize("first", ["sep=;\n", "\ufeffsep=;\r\n", '"sep=;"\n', "SEP=;\n"])
    def test_first_line_of_excel_says_it_and_is_no_row(self, tmp_path: Path, first: str) -> None:
        reader = read(tmp_path, first + "prompt;id\n a,b,c;1\n")
        assert reader.notes == ("the delimiter is ;",)
        assert rows(reader) == {0: {"prompt": " a,b,c", "id": "1"}}

    def test_option_goes_before_the_first_line_of_excel(self, tmp_path: Path) -> None:
        assert rows(read(tmp_path, "sep=;\nid,a;b\n1,2\n", delimiter=",")) == {0: {"id": "1", "a;b": "2"}}

    @pytest.mark.parametrize(
        ("given", "character"),
        [
            ("tab", "\t"),
            ("\\t", "\t"),
            ("\t", "\t"),
            ("Semicolon", ";"),
            ("comma", ","),
            ("pipe", "|"),
            ("^", "^"),
            ("\x01", "\x01"),
        ],
    )
    def test_option_is_a_character_or_a_word(self, tmp_path: Path, given: str, character: str) -> None:
        reader = read(tmp_path, f"id{character}prompt\n1{character}cat\n", delimiter=given)
        assert rows(reader) == {0: {"id": "1", "prompt": "cat"}}
        assert reader.notes == ()

    @pytest.mark.parametrize("given", ["", "||", '"', "\n", "tabs"])
    def test_other_options_are_refused(self, tmp_path: Path, given: str) -> None:
        with pytest.raises(InvalidRequest, match="neither one character nor one of comma, semi") as caught:
            read(tmp_path, "id,prompt\n1,cat\n", delimiter=given)
        assert repr(given) in str(caught.value)
        assert caught.value.field == "delimiter"


class TestHeader:
    @pytest.mark.parametrize(
        ("content", "names", "notes"),
        [
            (
                ",id,prompt\n0,1,cat\n",
                ["column_1", "id", "prompt"],
                ["the nameless column 1 is called column_1"],
            ),
            ("id,prompt,,\n1,cat,,\n2,dog\n", ["id", "prompt"], ["2 nameless empty columns are left out"]),
            ("id, ,prompt\n1, ,cat\n", ["id", "prompt"], ["1 nameless empty column is left out"]),
            (
                ",column_1,column_1_2,\n1,2,3,\n,,,4\n",
                ["column_1_3", "column_1", "column_1_2", "column_4"],
                ["the nameless column 1 is called column_1_3", "the nameless column 4 is called column_4"],
            ),
            ("\ufeff id, lead,my price \u00a0\n1,2,3\n", ["id", "lead", "my price"], []),
            ("id, lead,id \n1,2,3\n", ["id", " lead", "id "], []),
            ('\ufeff"id",ID\n1,2\n', ["id", "ID"], []),
        ],
    )
    def test_nameless_columns(self, tmp_path: Path, content: str, names: list[str], notes: list[str]) -> None:
        reader = read(tmp_path, content)
        assert reader.schema.names == names
        assert list(reader.notes) == notes
        assert errors(reader) == {}
        assert None not in rows(reader)[0].values() or "column_4" in names

    def test_value_in_any_row_keeps_a_nameless_column(self, tmp_path: Path) -> None:
        reader = read(tmp_path, "id,,prompt\n" + "1,,cat\n" * 5000 + "2,late,dog\n")
        assert rows(reader)[5000] == {"id": "2", "column_2": "late", "prompt": "dog"}

    def test_columns_that_share_a_name_are_refused(self, tmp_path: Path) -> None:
        reader = read(tmp_path, "a,b,a,c,b,b,,\n1,2,3,4,5,6,7,8\n")
        assert {name: text.split(": ")[-1] for name, text in reader.refused.items()} == {
            "a": "columns 1, 3 are all called 'a'; rename or drop them",
            "b": "columns 2, 5, 6 are all called 'b'; rename or drop them",
        }
        assert rows(reader) == {0: {"c": "4", "column_7": "7", "column_8": "8"}}
