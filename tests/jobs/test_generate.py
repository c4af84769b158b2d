"""`zimage generate` and its sisters on a real Ray, mostly with the fake engine."""

import csv
import io
import shutil
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from tests.jobs.conftest import Zimage, published

EXAMPLES = Path(__file__).parents[2] / "examples"


def write_csv(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def table(count: int = 40) -> list[dict[str, object]]:
    return [{"sku": f"sku-{i:03d}", "prompt": f"tile number {i}", "price": i} for i in range(count)]


@pytest.fixture
def fake(zimage: Zimage, tmp_path: Path) -> Zimage:
    def run(rows: list[dict[str, object]], *options: object) -> object:
        source = write_csv(tmp_path / "table.csv", rows)
        return zimage("generate", source, tmp_path / "out", "--fake", "--progress", "json", *options)

    return run


@pytest.fixture(scope="module")
def published_table(zimage: Zimage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Publish the table once; returns the data set's folder."""
    folder = tmp_path_factory.mktemp("published")
    source = write_csv(folder / "table.csv", table())
    assert zimage("generate", source, folder / "out", "--fake", "--progress", "json").code == 0
    return folder / "out"


@pytest.fixture
def again(fake: Zimage, published_table: Path, tmp_path: Path) -> Zimage:
    """Run with a data set that holds the images of the table already."""
    shutil.copytree(published_table, tmp_path / "out")
    return fake


def test_unchanged_table_generates_and_publishes_nothing(again: Zimage, tmp_path: Path) -> None:
    first = published(tmp_path / "out").manifest
    done = again(table())
    assert done.code == 0
    assert done.event("planned")["new"] == 0
    assert done.event("planned")["unchanged"] == 40
    assert published(tmp_path / "out").manifest == first


def test_changed_prompt_generates_that_row_alone(again: Zimage, tmp_path: Path) -> None:
    before = published(tmp_path / "out")
    rows = table()
    rows[7]["prompt"] = "another tile"
    assert again(rows).event("planned")["new"] == 1
    after = published(tmp_path / "out")
    assert after.manifest.number == before.manifest.number + 1
    assert after.by_key["sku-007"]["prompt"] == "another tile"
    for key in before.by_key.keys() - {"sku-007"}:
        assert after.by_key[key] == before.by_key[key]


def test_changed_price_is_published_without_a_new_image(again: Zimage, tmp_path: Path) -> None:
    rows = table()
    rows[3]["price"] = 999
    assert again(rows).event("planned")["new"] == 0
    assert published(tmp_path / "out").by_key["sku-003"]["price"] == "999"


@pytest.mark.parametrize(
    "options", [["--seed", 1], ["--size", "80x64"], ["--steps", 4], ["--image-format", "webp"]]
)
def test_changed_setting_generates_all_rows_again(
    again: Zimage, tmp_path: Path, options: list[object]
) -> None:
    before = published(tmp_path / "out")
    assert again(table(), *options).event("planned")["new"] == 40
    after = published(tmp_path / "out")
    assert len(after.rows) == 40
    assert {row["unit_id"] for row in after.rows}.isdisjoint(row["unit_id"] for row in before.rows)


def test_reordered_table_keeps_every_image(again: Zimage) -> None:
    assert again(table()[::-1], "--commit-rows", 7).event("planned")["new"] == 0


def test_removed_row_leaves_the_data_set(again: Zimage, tmp_path: Path) -> None:
    assert again(table(39)).event("planned")["new"] == 0
    assert len(published(tmp_path / "out").rows) == 39
    assert "sku-039" not in published(tmp_path / "out").by_key


def test_failed_rows_are_errors_until_they_are_retried(fake: Zimage, zimage: Zimage, tmp_path: Path) -> None:
    rows = table(20)
    rows[4]["prompt"] = "tile [fake: blank]"
    rows[5]["prompt"] = "tile [fake: out of memory]"
    rows[6]["prompt"] = ""
    done = fake(rows)
    assert done.code == 3
    assert done.event("published")["counts"]["failed"] == 2
    out = published(tmp_path / "out")
    assert len(out.rows) == 17
    classes = {row["key"]: row["error_class"] for row in out.errors}
    assert classes == {"sku-004": "blank_image", "sku-005": "out_of_memory", "sku-006": "bad_input"}
    assert "prompt" in next(row["message"] for row in out.errors if row["key"] == "sku-006")
    assert fake(rows).event("planned")["new"] == 0, "a plain run does not repeat failures"
    assert zimage("verify", tmp_path / "out").code == 0
    status = zimage("status", tmp_path / "out")
    assert "blank_image: 1" in status.out
    retried = zimage("retry", tmp_path / "out", "--only", "blank_image", "--progress", "json")
    assert retried.event("planned")["new"] == 1


def test_row_that_kills_its_engine_becomes_an_error(fake: Zimage, tmp_path: Path) -> None:
    rows = table(20)
    rows[9]["prompt"] = "tile [fake: die]"
    done = fake(rows, "--commit-rows", 5)
    assert done.code == 3, done.err
    out = published(tmp_path / "out")
    assert len(out.rows) == 19
    [error] = out.errors
    assert error["key"] == "sku-009"
    assert error["error_class"] == "engine_error"
    assert "died" in error["message"]


def test_variants_have_names_and_seeds_of_their_own(fake: Zimage, tmp_path: Path) -> None:
    fake(table(3), "--variants", 4, "--name", "{sku}/{variant:02d}.png", "--export", "files")
    rows = published(tmp_path / "out").rows
    assert len({row["seed"] for row in rows}) == 12
    names = {row["image"]["path"] for row in rows}
    assert names == {f"sku-{sku:03d}/{variant:02d}.png" for sku in range(3) for variant in range(4)}
    for row in rows:
        assert (tmp_path / "out" / "images" / row["image"]["path"]).read_bytes() == row["image"]["bytes"]


def test_export_asked_for_later_is_written_without_new_images(again: Zimage, tmp_path: Path) -> None:
    done = again(table(), "--export", "files")
    assert done.event("planned")["new"] == 0
    assert len(list((tmp_path / "out" / "images").glob("*.png"))) == 40


def test_table_without_usable_rows_leaves_the_data_set_alone(again: Zimage, tmp_path: Path) -> None:
    done = again(table(), "--where", "sku == 'nothing'")
    assert done.code == 2
    assert "is unchanged" in done.err
    assert len(published(tmp_path / "out").rows) == 40


def test_export_writes_webdataset_shards_and_image_files(
    fake: Zimage, zimage: Zimage, tmp_path: Path
) -> None:
    fake(table(20), "--commit-rows", 10)
    assert zimage("export", tmp_path / "out", "--to", "webdataset", "--to", "files").code == 0
    shards = sorted(str(path) for path in (tmp_path / "out" / "webdataset").glob("*.tar"))
    assert len(shards) == 2
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert {sample["txt"].decode() for sample in samples} == {row["prompt"] for row in table(20)}
    assert all(Image.open(io.BytesIO(sample["png"])).size == (64, 64) for sample in samples)
    assert len(list((tmp_path / "out" / "images").glob("*.png"))) == 20


def test_template_where_and_pass_through(fake: Zimage, tmp_path: Path) -> None:
    rows = [{"sku": f"s{i}", "title": "shoe", "colour": c} for i, c in enumerate(["red", "blue", "red"])]
    fake(rows, "--template", "Studio photo of {{title}}, {{colour}}", "--where", "colour == 'red'")
    out = published(tmp_path / "out")
    assert {row["prompt"] for row in out.rows} == {"Studio photo of shoe, red"}
    assert {row["sku"] for row in out.rows} == {"s0", "s2"}
    assert {row["colour"] for row in out.rows} == {"red"}


def test_dry_run_counts_and_writes_nothing(fake: Zimage, tmp_path: Path) -> None:
    done = fake([*table(9), {"sku": "bad", "prompt": "", "price": 0}], "--dry-run")
    assert done.code == 3, "as the run would end"
    assert (done.event("planned")["new"], done.event("planned")["rejected"]) == (9, 1)
    assert "9 images to make" in done.out
    assert "prompt: " in done.err
    assert not (tmp_path / "out").exists()


def test_time_limit_stops_with_its_own_code_and_continues(fake: Zimage, tmp_path: Path) -> None:
    done = fake(table(200), "--commit-rows", 5, "--time-limit", 0.001)
    assert done.code == 4
    assert not (tmp_path / "out" / "_manifests").exists()
    assert "time limit" in done.err
    done = fake(table(200), "--commit-rows", 5)
    assert done.code == 0
    assert done.event("planned")["unchanged"] >= 5
    assert len(published(tmp_path / "out").by_key) == 200


def test_error_cap_stops_the_run(fake: Zimage) -> None:
    rows = table(100)
    for row in rows[:50]:
        row["prompt"] = f"{row['prompt']} [fake: blank]"
    done = fake(rows, "--commit-rows", 5, "--max-errors", 3)
    assert done.code == 4
    assert "the limit of 3 failed images" in done.err


def test_openai_batch_file_is_read_as_it_is(zimage: Zimage, tmp_path: Path) -> None:
    done = zimage(
        "generate", EXAMPLES / "openai_batch.jsonl", tmp_path / "out", "--fake", "--progress", "json"
    )
    assert done.code == 0, done.err
    assert done.event("published")["counts"]["rows"] == 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", "nothing.csv", "out"], "nothing.csv"),
        (["generate", "t.csv", "gs://bucket/x"], "gs"),
        (["generate", "t.csv", "out", "--model", "nonsense"], "nonsense"),
        (["generate", "t.csv", "out", "--variant", "edit"], "edit needs a checkpoint of ZImageOmniPipeline"),
        (["generate", "t.csv", "out", "--engines", "many"], "engines: 'many'"),
        (["generate", "t.csv", "out", "--engines", "3:1"], "below the minimum 3"),
        (["generate", "t.csv", "out", "--variants", "0"], "variants"),
        (["generate", "t.csv", "out", "--map", "prompt"], "FIELD=COLUMN"),
        (["generate", "t.csv", "out", "--map", "key=a", "--map", "key=b"], "'key' is given twice"),
        (["generate", "t.csv", "out", "--template", "{{ nothing }}"], "nothing"),
        (["generate", "t.csv", "out", "--template", ""], "template: is empty; leave the option out"),
        (["generate", "t.csv", "out", "--quality", "70"], "quality"),
        (["generate", "t.csv", "out", "--export", "zip"], "zip"),
        (["generate", "t.csv", "out", "--dtype", "float16"], "float16"),
        (
            ["generate", "t.csv", "out", "--precision", "int4"],
            "precision: 'int4' is not one of auto, bf16, fp8",
        ),
        (["generate", "t.csv", "out", "--bogus"], "--bogus"),
        (["verify", "out"], "nothing is published"),
        (["retry", "out"], "nothing is published"),
        (["explode"], "explode"),
    ],
)
def test_bad_usage_is_told_and_ends_with_code_2(
    zimage: Zimage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "t.csv", table(2))
    done = zimage(*arguments)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
