from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.sources.open_source import open_source
from pipelines.sources.table_formats import FORMATS
from pipelines.storage import StorageOptions
from pipelines.storage_address import open_storage
from tests.pipelines.sources.source_tables import column, errors, json_lines, records, written
from tests.pipelines.sources.text_formats.written_files import PACKERS
from tests.s3_server import S3Server
from zimage_models.errors import InvalidRequest

EXAMPLES = Path(__file__).parents[3] / "examples"


class TestOpening:
    def test_spreadsheet_is_told_to_be_one(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match=r"t\.xlsx is a spreadsheet; save the sheet as CSV"):
            open_source([written(tmp_path, "t.xlsx", b"PK\x03\x04")])

    def test_missing_input_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match=r"none\.csv does not exist"):
            open_source([str(tmp_path / "none.csv")])

    def test_unsupported_address_is_refused(self) -> None:
        with pytest.raises(InvalidRequest, match="scheme"):
            open_source(["ftp://host/table.csv"])

    @pytest.mark.parametrize("name", ["table", "table.dat", "table.gz", "table.parquet.gz", "csv"])
    def test_undecided_format_lists_the_known_ones(self, tmp_path: Path, name: str) -> None:
        uri = written(tmp_path, name, "prompt\ncat\n")
        with pytest.raises(InvalidRequest, match="parquet, jsonl, csv, tsv, json, txt, openai-batch"):
            open_source([uri])
        assert records(open_source([uri], format="csv")) == {0: {"prompt": "cat"}}

    def test_unknown_format_lists_the_known_ones(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match=r"'xlsx' is not one of parquet, jsonl"):
            open_source([written(tmp_path, "t.csv", "prompt\ncat\n")], format="xlsx")

    @pytest.mark.parametrize("pack", PACKERS)
    @pytest.mark.parametrize(
        ("name", "content", "format"),
        [
            ("t.csv", "prompt,x\ncat,1\n", "csv"),
            ("T.CSV", "prompt,x\ncat,1\n", "csv"),
            ("t.tsv", "prompt\tx\ncat\t1\n", "tsv"),
            ("t.tab", "prompt\tx\ncat\t1\n", "tsv"),
            ("t.jsonl", '{"prompt": "cat", "x": "1"}\n', "jsonl"),
            ("t.NdJson", '{"prompt": "cat", "x": "1"}\n', "jsonl"),
            ("t.json", '[{"prompt": "cat", "x": "1"}]', "json"),
        ],
    )
    def test_suffix_decides(self, tmp_path: Path, name: str, content: str, format: str, pack: str) -> None:
        end = {"plain": "", "gzip": ".gz", "bzip2": ".BZ2", "xz": ".xz", "zstd": ".zst"}[pack]
        source = open_source([written(tmp_path, name + end, PACKERS[pack](content.encode()))])
        assert (source.format, records(source)) == (format, {0: {"prompt": "cat", "x": "1"}})

    def test_text_is_a_prompt_a_line(self, tmp_path: Path) -> None:
        source = open_source([written(tmp_path, "t.TXT", "cat\n\ndog, red\n")])
        assert (source.format, column(source, "prompt")) == ("txt", ["cat", "dog, red"])

    @pytest.mark.parametrize("name", ["t.parquet", "T.PARQUET", "t.parq", "t.pq", "t.snappy.parquet"])
    def test_parquet_suffixes(self, tmp_path: Path, name: str) -> None:
        assert open_source([written(tmp_path, name, {"prompt": ["cat"]})]).format == "parquet"

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("t.csv", ""),
            ("t.csv", "prompt\n\n"),
            ("t.jsonl", "\n\n"),
            ("t.jsonl", "{}\n"),
            ("t.jsonl", "not json\n"),
            ("t.json", "[]"),
            ("t.txt", "\n"),
            ("t.parquet", {"prompt": []}),
        ],
    )
    def test_table_without_rows_is_refused(self, tmp_path: Path, name: str, content: Any) -> None:
        with pytest.raises(InvalidRequest, match=r"is empty|no rows|no usable rows"):
            open_source([written(tmp_path, name, content)])

    def test_empty_batch_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match="no rows"):
            open_source([written(tmp_path, "t.jsonl", "")], format="openai-batch")

    def test_options_of_other_formats_are_refused(self, tmp_path: Path) -> None:
        parquet = written(tmp_path, "t.parquet", {"prompt": ["cat"]})
        json = written(tmp_path, "t.jsonl", json_lines({"prompt": "cat"}))
        with pytest.raises(InvalidRequest, match="no file of the input is CSV"):
            open_source([json], delimiter=";")
        with pytest.raises(InvalidRequest, match="Parquet files have none"):
            open_source([parquet], encoding="cp1252")
        assert column(open_source([json, parquet], encoding="utf-8"), "prompt") == ["cat", "cat"]

    def test_delimiter_and_encoding_reach_the_reader(self, tmp_path: Path) -> None:
        content = "prompt;x\nK\u00e4se,rot;1\n".encode("cp1252")
        for name in ("t.csv", "t.tsv"):
            source = open_source([written(tmp_path, name, content)], delimiter=";", encoding="cp1252")
            assert records(source) == {0: {"prompt": "K\u00e4se,rot", "x": "1"}}

    def test_fingerprint_changes_with_the_file_alone(self, tmp_path: Path) -> None:
        uri = written(tmp_path, "t.csv", "prompt\ncat\n")
        first = open_source([uri]).fingerprint
        assert open_source([uri]).fingerprint == first
        written(tmp_path, "t.csv", "prompt\nbird\n")
        assert open_source([uri]).fingerprint != first

    @pytest.mark.parametrize("name", FORMATS)
    def test_batches_keep_order_and_size(self, tmp_path: Path, name: str) -> None:
        prompts = [f"cat {n}" for n in range(25)]
        url = {"method": "POST", "url": "/v1/images/generations"}
        requests = [
            {"custom_id": str(n), **url, "body": {"prompt": prompt}} for n, prompt in enumerate(prompts)
        ]
        content = {
            "parquet": {"prompt": prompts},
            "txt": "\n".join(prompts),
            "json": "[" + ",".join(f'{{"prompt": "{prompt}"}}' for prompt in prompts) + "]",
            "jsonl": json_lines(*({"prompt": prompt} for prompt in prompts)),
            "openai-batch": json_lines(*requests),
        }.get(name, "prompt\n" + "\n".join(prompts))
        source = open_source([written(tmp_path, "t", content)], format=name)
        assert source.format == name
        for _ in range(2):  # a source can be read again
            batches = list(source.batches(10))
            assert [batch.table.num_rows for batch in batches] == [10, 10, 5]
            assert [row for batch in batches for row in batch.rows] == list(range(25))
            assert all(batch.table.schema == source.schema for batch in batches)
            assert [record["prompt"] for record in records(source, 10).values()] == prompts


class TestFolders:
    @pytest.mark.parametrize(
        ("names", "read", "skipped"),
        [
            (["b.PARQUET", "a.parq", "c.pq"], ["a.parq", "b.PARQUET", "c.pq"], None),
            (["b/a.jsonl.gz", "a.ndjson"], ["a.ndjson", "b/a.jsonl.gz"], None),
            (
                ["a.parquet", "b.jsonl", "c.csv"],
                ["a.parquet"],
                "2 files that are not parquet: b.jsonl, c.csv",
            ),
            (["a.csv", "b.tsv", "c.json"], ["a.csv"], "2 files that are not csv: b.tsv, c.json"),
            (["a.jsonl", "b.csv"], ["a.jsonl"], "1 file that is not jsonl: b.csv"),
            (["a.tsv", "data.json"], ["a.tsv"], "1 file that is not tsv: data.json"),
            (["a.txt", "b.json"], ["b.json"], "1 file that is not json: a.txt"),
            (["a.txt", "README"], ["a.txt"], "1 file that is not txt: README"),
            (
                ["a.csv", "1.md", "2.md", "3.md", "4.md", "x/5"],
                ["a.csv"],
                "5 files that are not csv: 1.md, 2.md, 3.md and 2 more",
            ),
            (["a.csv", "_b.csv", ".c.csv", "_tmp/d.csv", ".git/e.csv", "_SUCCESS"], ["a.csv"], None),
        ],
        ids=str,
    )
    def test_one_format_is_read_and_what_is_skipped_is_said(
        self, tmp_path: Path, names: list[str], read: list[str], skipped: str | None
    ) -> None:
        for name in names:
            written(tmp_path, name, content_of(name))
        source = open_source([str(tmp_path)])
        assert column(source, "prompt") == read
        assert next(source.batches()).rows == [0]
        assert [note for note in source.notes if "skipped" in note] == (
            [f"{tmp_path}: skipped {skipped}"] if skipped else []
        )

    def test_format_chooses_the_files(self, tmp_path: Path) -> None:
        for name in ("a.parquet", "b.csv", "c.txt", "part-0"):
            written(tmp_path, name, content_of(name))
        csv = open_source([str(tmp_path)], format="csv")
        assert column(csv, "prompt") == ["b.csv"]
        assert csv.notes == (f"{tmp_path}: skipped 3 files that are not csv: a.parquet, c.txt, part-0",)
        assert column(open_source([str(tmp_path)], format="txt"), "prompt") == ["c.txt"]
        # A format that no suffix names is that of all files.
        lines = open_source([written(tmp_path / "parts", "part-0", '{"prompt": "x"}')], format="jsonl")
        assert column(lines, "prompt") == ["x"]
        assert column(open_source([str(tmp_path / "parts")], format="jsonl"), "prompt") == ["x"]

    def test_folder_without_a_table_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match="has no files"):
            open_source([str(tmp_path)])
        written(tmp_path, "part-0", "x")
        with pytest.raises(InvalidRequest, match=r"formats in .* are not clear .* --format"):
            open_source([str(tmp_path)])


def content_of(name: str) -> Any:
    """Return a table of one row whose prompt is the file's name."""
    plain = name.lower().removesuffix(".gz")
    if plain.endswith((".parquet", ".parq", ".pq")):
        return {"prompt": [name]}
    if plain.endswith((".jsonl", ".ndjson")):
        text = json_lines({"prompt": name})
    elif plain.endswith(".json"):
        text = f'[{{"prompt": "{name}"}}]'
    else:
        text = name if plain.endswith(".txt") else f"prompt\n{name}\n"
    return PACKERS["gzip"](text.encode()) if name.endswith(".gz") else text


class TestPatterns:
    TREE = (
        "a.csv",
        "b.CSV",
        "c.txt",
        "[1].csv",
        "x/d.csv",
        "x/y/e.csv",
        "x/y/_f.csv",
        ".g/h.csv",
        "z.csv/i.csv",
    )

    @pytest.mark.parametrize(
        ("pattern", "found"),
        [
            ("*.csv", ["[1].csv", "a.csv", "z.csv/i.csv"]),
            ("?.csv", ["a.csv", "z.csv/i.csv"]),
            ("[ab].*", ["a.csv", "b.CSV"]),
            ("[!a].csv", ["z.csv/i.csv"]),
            ("[1].csv", ["[1].csv"]),
            ("x/*.csv", ["x/d.csv"]),
            ("x/*", ["x/d.csv", "x/y/e.csv"]),
            ("*/d.csv", ["x/d.csv"]),
            ("**/*.csv", ["[1].csv", "a.csv", "x/d.csv", "x/y/e.csv", "z.csv/i.csv"]),
            ("x/**", ["x/d.csv", "x/y/e.csv"]),
            ("**/y/*", ["x/y/e.csv"]),
            ("x/y/_*", ["x/y/_f.csv"]),
            (".g/*.csv", [".g/h.csv"]),
            ("*", ["[1].csv", "a.csv", "b.CSV", "x/d.csv", "x/y/e.csv", "z.csv/i.csv"]),
        ],
    )
    def test_pattern_names_files_and_folders(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, found: list[str]
    ) -> None:
        for name in self.TREE:
            written(tmp_path, name, content_of(name))
        monkeypatch.chdir(tmp_path)
        for uri in (pattern, f"{tmp_path}/{pattern}", f"file://{tmp_path}/{pattern}"):
            assert column(open_source([uri]), "prompt") == found

    @pytest.mark.parametrize("pattern", ["*.parquet", "none/*.csv"])
    def test_pattern_without_a_match_is_refused(self, tmp_path: Path, pattern: str) -> None:
        written(tmp_path, "a.csv", "prompt\ncat\n")
        with pytest.raises(InvalidRequest, match="matches no file"):
            open_source([f"{tmp_path}/{pattern}"])


class TestSeveralInputs:
    def test_they_are_read_in_order_and_each_file_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("b.csv", "s/1.csv", "s/2.csv", "a.jsonl"):
            written(tmp_path, name, content_of(name))
        source = open_source(["s", "b.csv", "s/*.csv", "./b.csv", "a.jsonl", str(tmp_path / "s" / "1.csv")])
        assert records(source) == {
            row: {"prompt": prompt} for row, prompt in enumerate(["s/1.csv", "s/2.csv", "b.csv", "a.jsonl"])
        }
        assert (source.format, source.num_rows) == ("csv and jsonl", 4)
        reverse = open_source(["b.csv", "s"])
        assert column(reverse, "prompt") == ["b.csv", "s/1.csv", "s/2.csv"]
        assert reverse.fingerprint != open_source(["s", "b.csv"]).fingerprint

    @pytest.mark.parametrize(
        ("inputs", "folder"),
        [
            (["s/1.csv"], "s"),
            (["s"], "s"),
            (["s/"], "s"),
            (["s/[12].csv"], "s"),
            (["*/1.csv"], ""),
            (["s/1.csv", "s/u/3.csv"], "s"),
            (["s/u", "t"], ""),
        ],
    )
    def test_folder_holds_all_of_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: list[str], folder: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("s/1.csv", "s/2.csv", "s/u/3.csv", "t/1.csv"):
            written(tmp_path, name, content_of(name))
        assert open_source(inputs).folder == str(tmp_path / folder)

    def test_root_is_no_common_folder(self, tmp_path: Path) -> None:
        # Pictures may be read from the folder and below.
        first = written(tmp_path, "a.csv", content_of("a.csv"))
        second = open_source([first, str(EXAMPLES / "objects.csv")])
        if tmp_path.parts[1] == EXAMPLES.parts[1]:
            pytest.skip("the two have a folder in common")
        assert second.folder == str(tmp_path)


@pytest.mark.parametrize(
    ("name", "num_rows", "format"),
    [("objects.csv", 48, "csv"), ("shop.jsonl", 8, "jsonl"), ("openai_batch.jsonl", 6, "openai-batch")],
)
def test_shipped_examples_have_no_bad_rows(name: str, num_rows: int, format: str) -> None:
    source = open_source([str(EXAMPLES / name)])
    assert (source.format, len(records(source)), errors(source)) == (format, num_rows, {})


class TestS3:
    @pytest.fixture
    def put(self, tmp_path: Path, s3: S3Server, bucket: str) -> Callable[[str, Any], None]:
        storage = open_storage(f"{bucket}/in", StorageOptions(s3_endpoint_url=s3.endpoint_url))

        def put(name: str, content: Any) -> None:
            storage.write(name, Path(written(tmp_path, name, content)).read_bytes())

        return put

    def test_everything_reads_as_on_a_disk(
        self, tmp_path: Path, s3: S3Server, bucket: str, put: Callable[[str, Any], None]
    ) -> None:
        options = StorageOptions(s3_endpoint_url=s3.endpoint_url)
        for name in ("t.csv.gz", "[1].csv.gz", "p/b.parquet", "p/a.parquet", "p/c.jsonl", "p/_d.parquet"):
            put(name, content_of(name))
        for name in ("h/k=1/j=x%2Fy/a.csv", "h/k=2/b.csv"):
            put(name, content_of(name))
        for uri in (
            "t.csv.gz",
            "p",
            "p/",
            "p/*.parquet",
            "*.csv.gz",
            "[1].csv.gz",
            "**/*.parquet",
            "h",
            "h/*/*",
        ):
            source = open_source([f"{bucket}/in/{uri}"], options=options)
            on_disk = open_source([f"{tmp_path}/{uri}"])
            assert records(source) == records(on_disk)
            assert source.schema == on_disk.schema
            assert source.folder == on_disk.folder.replace(str(tmp_path), f"{bucket}/in")
            assert [note.split(": ")[-1] for note in source.notes] == [
                note.split(": ")[-1] for note in on_disk.notes
            ]
        assert column(open_source([f"{bucket}/in/h"], options=options), "j") == ["x/y", None]
        both = open_source([f"{bucket}/in/t.csv.gz", str(tmp_path / "p")], options=options)
        assert column(both, "prompt") == ["t.csv.gz", "p/a.parquet", "p/b.parquet"]

    def test_fingerprint_changes_with_the_files(
        self, s3: S3Server, bucket: str, put: Callable[[str, Any], None]
    ) -> None:
        options = StorageOptions(s3_endpoint_url=s3.endpoint_url)
        put("a.csv", content_of("a.csv"))
        before = open_source([f"{bucket}/in/"], options=options).fingerprint
        put("b.csv", content_of("b.csv"))
        assert open_source([f"{bucket}/in"], options=options).fingerprint != before

    def test_what_is_not_there_is_refused(self, s3: S3Server, bucket: str) -> None:
        options = StorageOptions(s3_endpoint_url=s3.endpoint_url)
        with pytest.raises(InvalidRequest, match=r"none\.csv does not exist"):
            open_source([f"{bucket}/in/none.csv"], options=options)
        with pytest.raises(InvalidRequest, match=r"\*\.csv matches no file"):
            open_source([f"{bucket}/in/*.csv"], options=options)
        for uri in ("s3://no-such-bucket-here/t.csv", "s3://no-such-bucket-here/*.csv", "s3://*/t.csv"):
            with pytest.raises(InvalidRequest, match=r"[Bb]ucket"):
                open_source([uri], options=options)
