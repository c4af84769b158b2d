"""A second run over a changed table: all readers see the new data set and nothing else."""

import csv
import io
from pathlib import Path

import datasets
import duckdb
import pandas
import polars
import pytest
import webdataset
from PIL import Image

from tests.jobs.conftest import Finished, Zimage, published

FAKE = ("--fake", "--progress", "json")
Rows = list[dict[str, object]]
FIRST: Rows = [{"id": i, "prompt": f"a cup number {i}", "price": i} for i in range(6)]
SECOND: Rows = [
    {"id": i, "prompt": f"a cup number {222 if i == 2 else i}", "price": i, "brand": f"B{i}"}
    for i in range(5)
]


def write_csv(path: Path, rows: Rows) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def prompts(rows: Rows) -> list[str]:
    return sorted(str(row["prompt"]) for row in rows)


@pytest.fixture(scope="module")
def twice(zimage: Zimage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Publish one table and then the other in the same folder, with both exports."""
    folder = tmp_path_factory.mktemp("twice")
    for name, rows in (("first.csv", FIRST), ("second.csv", SECOND)):
        table = write_csv(folder / name, rows)
        done = zimage(
            *("generate", table, folder / "out", *FAKE, "--commit-rows", 2),
            *("--export", "files", "--export", "webdataset"),
        )
        assert done.code == 0, done.err
    return folder / "out"


def test_readers_that_glob_see_the_second_table_alone(twice: Path, tmp_path: Path) -> None:
    glob, cache = f"{twice}/data/*.parquet", str(tmp_path)
    by_name = datasets.load_dataset(str(twice), split="train", cache_dir=cache)
    by_glob = datasets.load_dataset("parquet", data_files=f"{twice}/data/*", split="train", cache_dir=cache)
    seen = {
        "datasets": by_name["prompt"],
        "datasets, parquet": by_glob["prompt"],
        "pandas": pandas.read_parquet(twice / "data")["prompt"],
        "duckdb": [row[0] for row in duckdb.sql(f"SELECT prompt FROM '{glob}'").fetchall()],
        "polars": polars.read_parquet(glob)["prompt"],
    }
    assert {reader: sorted(found) for reader, found in seen.items()} == dict.fromkeys(seen, prompts(SECOND))


def test_exports_hold_the_second_table_alone(twice: Path) -> None:
    shards = [str(path) for path in (twice / "webdataset").glob("*.tar")]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert sorted(sample["txt"].decode() for sample in samples) == prompts(SECOND)
    assert sorted(path.name for path in (twice / "images").iterdir()) == [f"{i}_00.png" for i in range(5)]


def test_the_first_generation_is_still_there(zimage: Zimage, twice: Path, tmp_path: Path) -> None:
    done = zimage("export", twice, "--generation", 1)
    assert (done.code, done.out) == (
        0,
        f"6 images of generation 1 as parquet in {twice}/_exports/000001/data\n",
    )
    loaded = datasets.load_dataset(str(twice / "_exports" / "000001"), split="train", cache_dir=str(tmp_path))
    assert sorted(loaded["prompt"]) == prompts(FIRST)
    assert all(isinstance(image, Image.Image) for image in loaded["image"])
    assert len(list((twice / "data").iterdir())) == len(published(twice).manifest.parts)


def test_a_generation_is_exported_into_any_folder(zimage: Zimage, twice: Path, tmp_path: Path) -> None:
    def export(*options: object) -> Finished:
        return zimage(
            "export", twice, "--to", "files", "--to", "webdataset", "--into", tmp_path / "x", *options
        )

    for number, rows in ((1, FIRST), (2, SECOND), (1, FIRST)):
        done = export("--generation", number)
        assert done.code == 0, done.err
        assert f"{len(rows)} images of generation {number} as files in {tmp_path}/x/images" in done.out
        assert len(list((tmp_path / "x" / "images").iterdir())) == len(rows)
        shards = [str(path) for path in (tmp_path / "x" / "webdataset").glob("*.tar")]
        samples = list(webdataset.WebDataset(shards, shardshuffle=False))
        assert sorted(sample["txt"].decode() for sample in samples) == prompts(rows)
        assert all(Image.open(io.BytesIO(sample["png"])).size for sample in samples)
    assert export().out.startswith("5 images of generation 2 ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "to: give one of files, webdataset, parquet"),
        (("--to", "zip"), "to: 'zip' is not one of files, webdataset, parquet"),
        (("--generation", 7), "generation: 7 is none of {out}; it has 1 to 2"),
        (("--generation", 1, "--into", "{out}"), "into: {out} belongs to a data set"),
        (("--generation", 1, "--into", "{out}/data"), "into: {out}/data belongs to a data set"),
        (("--into", "gs://bucket"), "into: 'gs://bucket' has the unsupported scheme"),
    ],
)
def test_an_export_that_cannot_be_is_refused_in_a_line(
    zimage: Zimage, twice: Path, options: tuple[object, ...], said: str
) -> None:
    done = zimage("export", twice, *(str(option).format(out=twice) for option in options))
    assert done.code == 2
    assert said.format(out=twice) in done.err
    assert len(done.err.splitlines()) == 1


def test_another_table_replaces_a_data_set_only_when_told(
    zimage: Zimage, twice: Path, tmp_path: Path
) -> None:
    other = write_csv(tmp_path / "other.csv", [{"id": f"x{i}", "prompt": "an owl"} for i in range(3)])
    for more in ((), ("--dry-run",)):
        done = zimage("generate", other, twice, *FAKE, *more)
        assert done.code == 2
        assert "output: 5 of the 5 published keys are not in the table" in done.err
        assert "--replace" in done.err
    assert len(published(twice).rows) == 5
    done = zimage("generate", other, tmp_path / "new", *FAKE)
    assert done.code == 0, done.err
    done = zimage("generate", write_csv(tmp_path / "first.csv", FIRST), tmp_path / "new", *FAKE, "--replace")
    assert done.code == 0, done.err
    assert published(tmp_path / "new").by_key.keys() == {str(i) for i in range(6)}


def test_a_table_of_bad_rows_alone_publishes_nothing(zimage: Zimage, tmp_path: Path) -> None:
    bad = write_csv(tmp_path / "bad.csv", [{"id": i, "prompt": ""} for i in range(25)])
    out = tmp_path / "out"
    done = zimage("generate", bad, out, *FAKE)
    assert done.code == 3
    assert "nothing is published: all 25 rows are rejected" in done.err
    assert "row 0 (0): prompt: missing\n" in done.err
    assert "and 22 more; the same command with --dry-run --all-errors lists them" in done.err
    assert not (out / "_SUCCESS").exists()
    assert not (out / "_manifests").exists()
    with pytest.raises(datasets.exceptions.DataFilesNotFoundError):
        datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    told = zimage("status", out)
    assert "nothing is published yet" in told.out
    assert "bad_input: 25, such as row 0" in told.out

    good = write_csv(tmp_path / "good.csv", FIRST)
    assert zimage("generate", good, out, *FAKE).code == 0
    before = published(out).manifest
    for more in ((), ("--append",), ("--replace",)):
        done = zimage("generate", bad, out, *FAKE, *more)
        assert (done.code, "all 25 rows are rejected" in done.err) == (3, True)
        assert "and 22 more; the same command with --dry-run --all-errors lists them" in done.err
        assert published(out).manifest == before
        assert (out / "_SUCCESS").read_text() == before.path


def test_a_table_whose_images_all_fail_is_no_success(zimage: Zimage, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows: Rows = [{"id": i, "prompt": "tile [fake: blank]"} for i in range(3)]
    assert zimage("generate", write_csv(tmp_path / "t.csv", rows), out, *FAKE).code == 3
    assert not (out / "_SUCCESS").exists()
    with pytest.raises(datasets.exceptions.DataFilesNotFoundError):
        datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert zimage("retry", out, "--progress", "json").event("planned")["new"] == 3
