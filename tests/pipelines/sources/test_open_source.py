import codecs
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.data._internal.object_extensions.arrow import ArrowPythonObjectArray

from pipelines.sources.jsonl_source import SAMPLE_ROWS
from pipelines.sources.open_source import SOURCES, open_source
from pipelines.sources.source_rows import RowError, Source
from pipelines.storage import StorageOptions
from pipelines.storage_address import open_storage
from tests.s3_server import S3Server
from zimage_models.errors import InvalidRequest

EXAMPLES = Path(__file__).parents[3] / "examples"


def written(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def records(source: Source, batch_rows: int = 4096) -> dict[int, dict[str, Any]]:
    return {row: record for batch in source.batches(batch_rows) for row, record in batch.records()}


def errors(source: Source) -> dict[int, str]:
    return {error.row: error.message for batch in source.batches() for error in batch.errors}


def json_lines(*values: Any) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def request(custom_id: Any = "a", **body: Any) -> dict[str, Any]:
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/images/generations",
        "body": {"prompt": "red apple", **body},
    }


class TestOpening:
    def test_missing_input_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match=r"none\.csv does not exist"):
            open_source(str(tmp_path / "none.csv"))

    def test_unsupported_address_is_refused(self) -> None:
        with pytest.raises(InvalidRequest, match="scheme"):
            open_source("ftp://host/table.csv")

    @pytest.mark.parametrize("name", ["table", "table.txt", "table.json", "table.gz"])
    def test_undecided_format_lists_the_known_ones(self, tmp_path: Path, name: str) -> None:
        uri = written(tmp_path, name, "prompt\ncat\n")
        with pytest.raises(InvalidRequest, match="parquet, csv, tsv, jsonl, openai-batch"):
            open_source(uri)
        assert records(open_source(uri, format="csv")) == {0: {"prompt": "cat"}}

    def test_unknown_format_lists_the_known_ones(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match=r"'xlsx' is not one of parquet, csv"):
            open_source(written(tmp_path, "t.csv", "prompt\ncat\n"), format="xlsx")

    def test_only_parquet_is_read_from_a_folder(self, tmp_path: Path) -> None:
        written(tmp_path, "t.csv", "prompt\ncat\n")
        with pytest.raises(InvalidRequest, match="only parquet"):
            open_source(str(tmp_path), format="csv")
        with pytest.raises(InvalidRequest, match=r"without \*\.parquet"):
            open_source(str(tmp_path))

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("t.csv", ""),
            ("t.csv", "prompt\n\n"),
            ("t.jsonl", "\n\n"),
            ("t.jsonl", "{}\n"),
            ("t.jsonl", "not json\n"),
        ],
    )
    def test_table_without_rows_is_refused(self, tmp_path: Path, name: str, content: str) -> None:
        with pytest.raises(InvalidRequest, match=r"is empty|no rows|no usable rows"):
            open_source(written(tmp_path, name, content))

    def test_empty_batch_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match="no rows"):
            open_source(written(tmp_path, "t.jsonl", ""), format="openai-batch")

    @pytest.mark.parametrize("content", [b"nonsense", b""])
    def test_damaged_parquet_is_refused(self, tmp_path: Path, content: bytes) -> None:
        with pytest.raises(InvalidRequest, match=r"t\.parquet cannot be read"):
            open_source(written(tmp_path, "t.parquet", content))

    def test_cut_gzip_is_refused(self, tmp_path: Path) -> None:
        packed = gzip.compress(b"prompt\n" + b"".join(b"cat %d\n" % n for n in range(100_000)))
        source = open_source(written(tmp_path, "t.csv.gz", packed[: len(packed) // 2]))
        with pytest.raises(InvalidRequest, match=r"t\.csv\.gz cannot be read"):
            records(source)

    @pytest.mark.parametrize(
        ("name", "content", "named"),
        [
            ("t.csv", "prompt,sku,prompt\na,b,c\n", "two columns are named 'prompt'"),
            ("t.csv", ",prompt\n0,cat\n", "column 1 of 2 has no name"),
            ("t.jsonl", '{"": 1}\n', "column 1 of 1 has no name"),
        ],
    )
    def test_columns_must_be_told_apart(self, tmp_path: Path, name: str, content: str, named: str) -> None:
        with pytest.raises(InvalidRequest, match=named):
            open_source(written(tmp_path, name, content))

    def test_fingerprint_changes_with_the_file_alone(self, tmp_path: Path) -> None:
        uri = written(tmp_path, "t.csv", "prompt\ncat\n")
        first = open_source(uri).fingerprint
        assert open_source(uri).fingerprint == first
        written(tmp_path, "t.csv", "prompt\nbird\n")
        assert open_source(uri).fingerprint != first

    @pytest.mark.parametrize("name", ["csv", "tsv", "jsonl", "parquet", "openai-batch"])
    def test_batches_keep_order_and_size(self, tmp_path: Path, name: str) -> None:
        prompts = [f"cat {n}" for n in range(25)]
        if name == "parquet":
            pq.write_table(pa.table({"prompt": prompts}), tmp_path / "t")
        elif name in ("csv", "tsv"):
            written(tmp_path, "t", "prompt\n" + "\n".join(prompts))
        else:
            rows = [
                request(str(n), prompt=p) if name == "openai-batch" else {"prompt": p}
                for n, p in enumerate(prompts)
            ]
            written(tmp_path, "t", json_lines(*rows))
        source = open_source(str(tmp_path / "t"), format=name)
        assert source.format == name
        for _ in range(2):  # a source can be read again
            batches = list(source.batches(10))
            assert [batch.table.num_rows for batch in batches] == [10, 10, 5]
            assert [row for batch in batches for row in batch.rows] == list(range(25))
            assert all(batch.table.schema == source.schema for batch in batches)
            assert [record["prompt"] for record in records(source, 10).values()] == prompts
        assert set(SOURCES) == {"csv", "tsv", "jsonl", "parquet", "openai-batch"}


class RunsCode:
    """An object whose unpickling calls a function."""

    def __reduce__(self) -> tuple[object, ...]:
        return pytest.fail, ("a pickled object of the table was loaded",)


class TestParquet:
    def test_types_and_nulls_are_kept(self, tmp_path: Path) -> None:
        table = pa.table(
            {"id": [1, 2], "prompt": ["cat", None], "tags": [["a", "b"], []], "price": [1.5, 2.0]}
        )
        pq.write_table(table, tmp_path / "t.parquet")
        source = open_source(str(tmp_path / "t.parquet"))
        assert source.num_rows == 2
        assert pa.concat_tables([batch.table for batch in source.batches()]).equals(table)

    @pytest.mark.parametrize("is_nested", [False, True])
    def test_pickled_objects_are_refused_unread(self, is_nested: bool, tmp_path: Path) -> None:
        # Ray registers this type as it is imported, and reading a value of it runs what is pickled there.
        pickled = ArrowPythonObjectArray.from_objects([RunsCode(), RunsCode()])
        column = pa.StructArray.from_arrays([pickled], ["inner"]) if is_nested else pickled
        table = pa.table({"prompt": ["cat", "dog"], "seed": column})
        pq.write_table(table, tmp_path / "t.parquet")
        with pytest.raises(InvalidRequest, match=r"column 'seed' has .* ray\.data\.arrow_pickled_object"):
            open_source(str(tmp_path / "t.parquet"))

    def test_folder_is_read_in_order_of_paths(self, tmp_path: Path) -> None:
        (tmp_path / "dt=2026-01-02").mkdir()
        (tmp_path / "_scratch").mkdir()
        for name, prompt in (
            ("b.parquet", "2"),
            ("a.parquet", "1"),
            ("dt=2026-01-02/a.parquet", "3"),
            ("_scratch/x.parquet", "hidden"),
            (".hidden.parquet", "hidden"),
        ):
            pq.write_table(pa.table({"prompt": [prompt]}), tmp_path / name)
        written(tmp_path, "_SUCCESS", "")
        written(tmp_path, "README.md", "notes")
        source = open_source(str(tmp_path))
        assert source.num_rows == 3
        assert [record["prompt"] for record in records(source).values()] == ["1", "2", "3"]
        assert [row for batch in source.batches() for row in batch.rows] == [0, 1, 2]

    @pytest.mark.parametrize(
        ("other", "named"),
        [
            ({"prompt": [1]}, "'prompt' is int64, not string"),
            ({"text": ["cat"]}, "'prompt' is missing"),
            ({"prompt": ["cat"], "sku": ["1"]}, "'sku' is new"),
        ],
    )
    def test_files_with_other_columns_are_refused(
        self, tmp_path: Path, other: dict[str, list[Any]], named: str
    ) -> None:
        pq.write_table(pa.table({"prompt": ["cat"]}), tmp_path / "a.parquet")
        pq.write_table(pa.table(other), tmp_path / "b.parquet")
        with pytest.raises(InvalidRequest, match=rf"b\.parquet has different columns.*: {named}"):
            open_source(str(tmp_path))

    def test_table_without_rows_is_refused(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "t.parquet")
        with pytest.raises(InvalidRequest, match="has no rows"):
            open_source(str(tmp_path / "t.parquet"))

    def test_notes_of_other_tools_are_left_out(self, tmp_path: Path) -> None:
        table = pa.table({"prompt": ["cat"]}).replace_schema_metadata({"huggingface": "{}"})
        pq.write_table(table, tmp_path / "t.parquet")
        assert not open_source(str(tmp_path / "t.parquet")).schema.metadata

    def test_heavy_rows_come_in_smaller_batches(self, tmp_path: Path) -> None:
        table = pa.table({"prompt": ["cat"] * 40, "photo": [bytes([n]) * 4 * 2**20 for n in range(40)]})
        pq.write_table(table, tmp_path / "t.parquet", compression="none", use_dictionary=False)
        sizes = [batch.table.num_rows for batch in open_source(str(tmp_path / "t.parquet")).batches()]
        assert sum(sizes) == 40
        assert max(sizes) <= 16

    def test_text_that_is_not_utf8_is_refused(self, tmp_path: Path) -> None:
        broken = pa.array([b"\xff"], pa.binary()).view(pa.string())
        pq.write_table(pa.table({"prompt": broken}), tmp_path / "t.parquet")
        with pytest.raises(InvalidRequest, match=r"UTF-?8"):
            records(open_source(str(tmp_path / "t.parquet")))


class TestCsv:
    def test_every_cell_is_text_and_an_empty_one_null(self, tmp_path: Path) -> None:
        uri = written(tmp_path, "t.csv", 'sku,prompt,price\n007,"red, ""big""\napple",1.50\n8,,\n')
        source = open_source(uri)
        assert source.schema == pa.schema({"sku": pa.string(), "prompt": pa.string(), "price": pa.string()})
        assert records(source) == {
            0: {"sku": "007", "prompt": 'red, "big"\napple', "price": "1.50"},
            1: {"sku": "8", "prompt": None, "price": None},
        }

    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    @pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_byte_order_mark_line_ends_and_gzip(
        self, tmp_path: Path, pack: Any, mark: bytes, end: str
    ) -> None:
        content = mark + end.join(["prompt,sku", "红苹果,1", "", "penguin,2"]).encode()
        uri = written(tmp_path, "t.csv.gz" if pack is gzip.compress else "t.csv", pack(content))
        assert records(open_source(uri)) == {
            0: {"prompt": "红苹果", "sku": "1"},
            1: {"prompt": "penguin", "sku": "2"},
        }

    def test_row_with_another_number_of_cells_is_an_error_and_others_go_on(self, tmp_path: Path) -> None:
        uri = written(tmp_path, "t.csv", 'sku,prompt\n1,"a\nb"\n2\n\n3,cat,extra\n4,dog\n')
        source = open_source(uri)
        assert records(source) == {0: {"sku": "1", "prompt": "a\nb"}, 3: {"sku": "4", "prompt": "dog"}}
        assert errors(source) == {
            1: "line 4: 1 cells; the header has 2",
            2: "line 6: 3 cells; the header has 2",
        }

    def test_stray_quote_costs_its_own_row_alone(self, tmp_path: Path) -> None:
        lines = ["sku,prompt", '1,"open', '2,"cat"', "3,dog", '4,"x"y', "5,cow", '6,"end']
        source = open_source(written(tmp_path, "t.csv", "\n".join(lines)))
        assert [(row, record["sku"]) for row, record in records(source).items()] == [
            (1, "2"),
            (2, "3"),
            (4, "5"),
        ]
        assert [message.split(":")[0] for message in errors(source).values()] == [
            "line 2",
            "line 5",
            "line 7",
        ]

    def test_cell_past_the_limit_is_an_error(self, tmp_path: Path) -> None:
        source = open_source(written(tmp_path, "t.csv", f"prompt\n{'x' * 100_000}\n{'x' * 200_000}\ncat\n"))
        assert [len(record["prompt"]) for record in records(source).values()] == [100_000, 3]
        assert errors(source) == {1: "line 3: field larger than field limit (131072)"}

    def test_row_that_is_not_utf8_is_an_error(self, tmp_path: Path) -> None:
        source = open_source(written(tmp_path, "t.csv", b"prompt\nk\xe4se\ncat\n"))
        assert records(source) == {1: {"prompt": "cat"}}
        assert "line 2: not UTF-8" in errors(source)[0]

    def test_utf16_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match="UTF-16"):
            open_source(written(tmp_path, "t.csv", "prompt\ncat\n".encode("utf-16")))

    def test_unreadable_header_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match="header is unreadable"):
            open_source(written(tmp_path, "t.csv", b"k\xe4se\ncat\n"))

    def test_endless_line_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match="line 2 is longer than 4194304 bytes"):
            open_source(written(tmp_path, "t.csv", b"prompt\n" + b"x," * 3 * 2**20))

    def test_tabs_with_quotes_or_without(self, tmp_path: Path) -> None:
        lines = ["prompt\tnote", '"say ""hi"""\ta,b', '"G I G G L E" on a wall\tx', '"open\ty', "cat\tz"]
        source = open_source(written(tmp_path, "t.tsv", "\n".join(lines)))
        assert [record["prompt"] for record in records(source).values()] == [
            'say "hi"',
            '"G I G G L E" on a wall',
            '"open',
            "cat",
        ]
        assert errors(source) == {}


class TestJsonLines:
    def test_types_come_from_the_values(self, tmp_path: Path) -> None:
        rows = [
            {"id": 1, "prompt": "红苹果", "price": 1, "new": True, "attrs": {"size": [1, 2]}, "mixed": 5},
            {"id": 2, "prompt": None, "price": 2.5, "mixed": "L", "none": None},
        ]
        source = open_source(written(tmp_path, "t.jsonl", json_lines(*rows)))
        assert source.format == "jsonl"
        assert {field.name: str(field.type) for field in source.schema} == {
            "id": "int64",
            "prompt": "string",
            "price": "double",
            "new": "bool",
            "attrs": "string",
            "mixed": "string",
            "none": "string",
        }
        (batch,) = source.batches()
        assert batch.table["attrs"].to_pylist() == ['{"size": [1, 2]}', None]
        assert batch.table["mixed"].to_pylist() == ["5", '"L"']
        absent = {"new": None, "attrs": None}
        assert records(source) == {0: {**rows[0], "none": None}, 1: {**absent, **rows[1]}}

    @pytest.mark.parametrize(
        ("line", "named"),
        [
            (b"{", "not valid JSON"),
            (b"[1]", r"\[1\] is not a JSON object"),
            (b'{"seed": NaN}', "NaN is not a JSON number"),
            (b'{"prompt": "a", "prompt": "b"}', "'prompt' is given twice"),
            (b'{"prompt": "\\ud800"}', "not valid JSON"),
            (b'{"prompt": "\xe4"}', "not valid JSON"),
            (b'{"prompt": 7}', "column 'prompt': 7 does not fit the column's type string"),
            (b'{"seed": "x"}', "column 'seed': 'x' does not fit the column's type int64"),
            (b'{"seed": 1.5}', "column 'seed': 1.5 does not fit the column's type int64"),
            (b'{"seed": true}', "column 'seed': True does not fit the column's type int64"),
            (b'{"seed": 9223372036854775808}', "column 'seed': 9223372036854775808 does not fit"),
            (b'{"price": 9007199254740993}', "column 'price': 9007199254740993 does not fit"),
            (b'{"price": 1e400}', "column 'price': inf does not fit"),
            (b'{"late": 1}', "column 'late' does not appear in the first 10000 rows"),
            (b'{"deep": ' + b"[" * 100_000, "not valid JSON"),
            (b'{"prompt": "' + b"x" * 2**22 + b'"}', "longer than 4194304 bytes"),
        ],
    )
    def test_bad_line_past_the_sample_is_an_error(self, tmp_path: Path, line: bytes, named: str) -> None:
        good = b'{"prompt": "cat", "seed": 1, "price": 0.5}\n'
        content = good * SAMPLE_ROWS + b"\n" + line + b"\n" + good
        source = open_source(written(tmp_path, "t.jsonl", content))
        assert list(records(source)) == [*range(SAMPLE_ROWS), SAMPLE_ROWS + 1]
        ((row, message),) = errors(source).items()
        assert row == SAMPLE_ROWS
        assert message.startswith(f"line {SAMPLE_ROWS + 2}: ")
        assert re.search(named, message)

    def test_number_that_int64_cannot_hold_is_an_error_in_the_sample_too(self, tmp_path: Path) -> None:
        source = open_source(written(tmp_path, "t.jsonl", json_lines({"seed": 1}, {"seed": 2**63})))
        assert records(source) == {0: {"seed": 1}}
        assert list(errors(source)) == [1]

    def test_gzip(self, tmp_path: Path) -> None:
        packed = gzip.compress(json_lines({"prompt": "cat"}).encode())
        assert records(open_source(written(tmp_path, "t.jsonl.gz", packed))) == {0: {"prompt": "cat"}}


class TestOpenAIBatch:
    def test_is_told_from_the_first_object(self, tmp_path: Path) -> None:
        uri = written(tmp_path, "t.jsonl", json_lines(request("a", n=2, size="auto", model="turbo", seed=3)))
        source = open_source(uri)
        assert source.format == "openai-batch"
        (record,) = records(source).values()
        assert {name: value for name, value in record.items() if value is not None} == {
            "key": "a",
            "prompt": "red apple",
            "variants": 2,
            "model": "turbo",
            "seed": 3,
        }
        assert open_source(uri, format="jsonl").format == "jsonl"

    def test_harmless_fields_are_left_out(self, tmp_path: Path) -> None:
        harmless = {
            "user": "u1",
            "response_format": "b64_json",
            "output_format": "webp",
            "background": "auto",
            "quality": "auto",
            "moderation": None,
            "size": "64x32",
        }
        source = open_source(written(tmp_path, "t.jsonl", json_lines(request(**harmless))))
        (record,) = records(source).values()
        assert (record["prompt"], record["size"]) == ("red apple", "64x32")

    @pytest.mark.parametrize(
        ("line", "key", "named"),
        [
            (request(quality="high"), "a", "body.quality: 'high' is not supported; accepted: auto"),
            (request(response_format="url"), "a", "body.response_format: 'url'"),
            (request(output_format="gif"), "a", "body.output_format: 'gif'"),
            (request(background="transparent"), "a", "body.background: 'transparent'"),
            (request(output_compression=50), "a", "body.output_compression: unknown field; known fields are"),
            (request(style="vivid"), "a", "body.style: unknown field"),
            (request(n="2"), "a", "body.n: '2' is not a whole number"),
            (request(n=True), "a", "body.n: True is not a whole number"),
            (request(prompt=7), "a", "column 'prompt': 7 does not fit"),
            (request(size=[64, 64]), "a", "column 'size': [64, 64] does not fit"),
            (request(None), None, "custom_id: None is not a non-empty string"),
            (request(""), None, "custom_id: '' is not a non-empty string"),
            (request(7), None, "custom_id: 7 is not a non-empty string"),
            ({**request(), "method": "GET"}, "a", "method: 'GET' is not 'POST'"),
            ({**request(), "url": "/v1/chat/completions"}, "a", "url: '/v1/chat/completions' is not"),
            ({**request(), "body": "cat"}, "a", "body: 'cat' is not an object"),
            ({**request(), "priority": 1}, "a", "priority: unknown field"),
            ({"prompt": "cat"}, None, "custom_id: None is not a non-empty string"),
        ],
    )
    def test_bad_request_is_an_error_with_its_key(
        self, tmp_path: Path, line: dict[str, Any], key: str | None, named: str
    ) -> None:
        source = open_source(written(tmp_path, "t.jsonl", json_lines(request("good"), line)))
        (batch,) = source.batches()
        assert batch.table["key"].to_pylist() == ["good"]
        (error,) = batch.errors
        assert error == RowError(row=1, key=key, message=error.message)
        assert error.message.startswith(f"line 2: {named}")


@pytest.mark.parametrize(
    ("name", "num_rows", "format"),
    [("objects.csv", 48, "csv"), ("shop.jsonl", 8, "jsonl"), ("openai_batch.jsonl", 6, "openai-batch")],
)
def test_shipped_examples_have_no_bad_rows(name: str, num_rows: int, format: str) -> None:
    source = open_source(str(EXAMPLES / name))
    assert (source.format, len(records(source)), errors(source)) == (format, num_rows, {})


def test_s3_reads_as_a_disk_does(tmp_path: Path, s3: S3Server, bucket: str) -> None:
    options = StorageOptions(s3_endpoint_url=s3.endpoint_url)
    storage = open_storage(f"{bucket}/in", options)
    written(tmp_path, "t.csv.gz", gzip.compress(b"sku,prompt\n1,cat\n2,dog\n"))
    for name, prompt in (("b", "2"), ("a", "1")):
        pq.write_table(pa.table({"prompt": [prompt]}), tmp_path / f"{name}.parquet")
    for path in tmp_path.iterdir():
        storage.write(path.name, path.read_bytes())
    table = open_source(f"{bucket}/in/t.csv.gz", options=options)
    assert records(table) == records(open_source(str(tmp_path / "t.csv.gz")))
    folder = open_source(f"{bucket}/in/", options=options)
    assert [record["prompt"] for record in records(folder).values()] == ["1", "2"]
    before = folder.fingerprint
    storage.write("c.parquet", (tmp_path / "a.parquet").read_bytes())
    assert open_source(f"{bucket}/in", options=options).fingerprint != before
    with pytest.raises(InvalidRequest, match=r"none\.csv does not exist"):
        open_source(f"{bucket}/in/none.csv", options=options)
    with pytest.raises(InvalidRequest, match="bucket"):
        open_source("s3://no-such-bucket-here/t.csv", options=options)
