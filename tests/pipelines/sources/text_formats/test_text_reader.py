from pathlib import Path

import pytest

from pipelines.sources.text_formats.text_reader import TextReader
from tests.pipelines.sources.text_formats.written_files import errors, rows, written
from zimage_models.errors import InvalidRequest


def test_each_line_is_a_prompt_as_it_is(tmp_path: Path) -> None:
    lines = ["prompt", "", 'a van, on a "bridge"', " \t", "  {a: 1}; b\u2028c ", "last"]
    reader = TextReader(written(tmp_path, "\ufeff" + "\r\n".join(lines)))
    assert (reader.format, reader.num_rows, reader.notes) == ("txt", 4, ())
    assert [row["prompt"] for row in rows(reader).values()] == [lines[0], lines[2], lines[4], lines[5]]


def test_bad_line_is_an_error_and_others_go_on(tmp_path: Path) -> None:
    content = b"\ncat\nk\xe4se\n" + b"x" * 5 * 2**20 + b"\ndog\n"
    reader = TextReader(written(tmp_path, content))
    assert rows(reader) == {0: {"prompt": "cat"}, 3: {"prompt": "dog"}}
    assert errors(reader)[1].startswith("line 3: not UTF-8 text")
    assert errors(reader)[2] == "line 4: longer than 4194304 bytes"


def test_encoding(tmp_path: Path) -> None:
    file = written(tmp_path, "käse\rcafé\r".encode("cp1252"))
    with pytest.raises(InvalidRequest, match="--encoding"):
        TextReader(file)
    assert list(rows(TextReader(file, encoding="cp1252")).values()) == [
        {"prompt": "käse"},
        {"prompt": "café"},
    ]


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff", " \r\n"])
def test_file_without_text_has_no_rows(tmp_path: Path, content: str) -> None:
    reader = TextReader(written(tmp_path, content))
    assert (reader.num_rows, list(reader.batches())) == (0, [])
