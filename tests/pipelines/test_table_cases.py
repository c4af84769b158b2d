"""Small tables in the shapes that people bring, each from plan to published data set.

They are not part of the project. Each kind has tests with tables of its own beside the module it concerns.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.dataset.layout import PartPlaces
from pipelines.plan.plan import Plan
from pipelines.plan.row_digests import row_digests
from tests.pipelines.plan_fixtures import DataSet
from zimage_models.errors import InvalidRequest

CASES = Path(__file__).parents[3] / "shared" / "data" / "cases" / "batch"
NAMED: dict[str, Any] = {"template": "a {{name}}", "columns": {"key": "item_id"}}

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"{CASES} is not there")


@pytest.fixture
def data_set(tmp_path: Path) -> DataSet:
    return DataSet(folder=tmp_path)


def run(data_set: DataSet, name: str, **options: Any) -> tuple[Plan, pa.Table]:
    """Generate a case; return its plan and the published rows in order of key."""
    plan = data_set.plan(str(CASES / name), **options)
    data_set.make(plan)
    data_set.publish(plan, **options)
    assert data_set.verify().problems == ()
    places = PartPlaces(data_set.output)
    rows = pa.concat_tables([places.read(part.path) for part in data_set.manifest().parts])
    return plan, rows.take(np.argsort(rows["key"].to_numpy()))


def said(plan: Plan) -> str:
    return "\n".join([*plan.columns, *plan.notes, *plan.hints])


def keys(rows: pa.Table) -> list[str]:
    return sorted(rows["key"].to_pylist())


def test_a_nameless_index_column_is_kept_under_a_name_that_is_told(data_set: DataSet) -> None:
    plan, rows = run(data_set, "c01_index_column.csv", **NAMED)
    assert keys(rows) == ["100", "101", "102", "103"]
    assert rows["column_1"].to_pylist() == ["0", "1", "2", "3"]
    assert "column_1" in said(plan)
    assert rows["height_1"].to_pylist() == ["99", "105", "64", None]
    plan, rows = run(data_set, "c01_index_column.csv", **NAMED, drop=["column_1"])
    assert "column_1" not in rows.column_names


def test_centimetres_are_no_pixels(data_set: DataSet) -> None:
    plan, rows = run(data_set, "c02_dimensions_cm.csv", **NAMED)
    assert plan.counts.units == 5
    assert set(rows["height"].to_pylist()) == set(rows["width"].to_pylist()) == {64}
    assert rows["height_1"].to_pylist() == ["99", "105", "64", None, "64"]
    assert rows["width_1"].to_pylist() == ["51", "80", "128", None, None]
    assert "height_1" in said(plan)
    assert "--map height=height" in said(plan)


def test_a_woocommerce_export_keeps_its_images_as_text(data_set: DataSet) -> None:
    plan, rows = run(data_set, "c03_woo.csv", template="{{Name}}", columns={"key": "SKU"})
    assert keys(rows) == ["w-cap", "w-cup", "w-tee"]
    assert rows["Images"].to_pylist()[2] == "https://shop.invalid/a.jpg, https://shop.invalid/b.jpg"
    assert "--map image=Images" in said(plan)


@pytest.mark.parametrize(
    ("name", "prompts", "told"),
    [
        ("c05_trailing_blank.csv", ["a red shoe", "a blue cup"], "nameless"),
        ("c06_semicolon.csv", ["a red shoe", "a blue cup, on a table"], ";"),
        ("c07_utf16.csv", ["a red shoe"], "utf-16"),
        ("c08_mac.csv", ["a red shoe", "a blue cup"], ""),
        ("c09_array.json", ["a red shoe", "a cup"], ""),
        ("c09_prompts.txt", ["a yellow stool under a purple lamp", "a van, on a bridge", "a cat"], ""),
        ("c18.jsonl.bz2", ["a red shoe", "a cup"], ""),
    ],
)
def test_every_prompt_of_a_text_is_made(data_set: DataSet, name: str, prompts: list[str], told: str) -> None:
    plan, rows = run(data_set, name)
    assert sorted(rows["prompt"].to_pylist()) == sorted(prompts)
    assert told in said(plan)


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("c11_null", {"note"}),
        ("c11_order", {"price"}),
        ("c28_datafusion_pq", {"colour"}),
    ],
)
def test_files_that_differ_are_one_table(data_set: DataSet, name: str, columns: set[str]) -> None:
    plan, rows = run(data_set, name)
    assert rows.num_rows == plan.counts.rows
    assert columns < set(rows.column_names)


def test_decimal_commas_stay_text(data_set: DataSet) -> None:
    assert run(data_set, "c06_semicolon.csv")[1]["price"].to_pylist() == ["3,50", "2,10"]


def test_another_encoding_is_read_or_refused_by_name(data_set: DataSet) -> None:
    _, rows = run(data_set, "c07_cp1252.csv", text_encoding="cp1252")
    assert rows["prompt"].to_pylist() == ["a café table", "a red shoe", "the crème jug"]
    with pytest.raises(InvalidRequest, match=r"2 of 4 lines.*--encoding, such as cp1252"):
        data_set.plan(str(CASES / "c07_cp1252.csv"))


def test_partitions_are_columns(data_set: DataSet) -> None:
    _, rows = run(data_set, "c10_hive", columns={"prompt": "title"})
    assert rows.num_rows == 8
    pairs = set(zip(rows["category"].to_pylist(), rows["country"].to_pylist(), strict=True))
    assert pairs == {(category, country) for category in ("cups", "shoes") for country in ("DE", "FR")}
    plan = data_set.plan(str(CASES / "c10_hive"), template="{{category}} in {{country}}")
    assert plan.counts.units == 8


@pytest.mark.parametrize(
    "name",
    [
        "c12_emb.parquet",
        "c12_map.parquet",
        "c12_ts_far.parquet",
        "c26_polars_nested.parquet",
        "c27_duckdb_inf.parquet",
        "c29_all.parquet",
    ],
)
def test_every_cell_that_is_passed_through_comes_back_equal(data_set: DataSet, name: str) -> None:
    given = pq.read_table(CASES / name)
    _, rows = run(data_set, name)
    assert rows.num_rows == given.num_rows
    order = {key: index for index, key in enumerate(rows["key"].to_pylist())}
    rows = rows.take([order[str(key)] for key in given["id"].to_pylist()])
    copied = [column for column in given.column_names if column not in ("prompt", "key")]
    for column in copied:
        expected, found = given[column].combine_chunks(), rows[column].combine_chunks()
        if isinstance(expected, pa.MapArray):
            pairs = pa.list_(pa.struct([("key", expected.type.key_type), ("value", expected.type.item_type)]))
            expected, found = expected.cast(pairs), found.cast(pairs)
        if isinstance(expected, pa.DictionaryArray):
            expected, found = expected.dictionary_decode(), found.dictionary_decode()
        # By bits: a NaN does not equal itself.
        digests = [row_digests(pa.table({"cell": one})) for one in (found, expected.cast(found.type))]
        assert digests[0] == digests[1], column


@pytest.mark.parametrize("name", ["c12_ts_far.parquet", "c27_duckdb_inf.parquet"])
def test_a_column_that_python_cannot_hold_can_be_dropped(data_set: DataSet, name: str) -> None:
    column = pq.read_schema(CASES / name).names[-1]
    _, rows = run(data_set, name, drop=[column])
    assert rows.num_rows == 3
    assert column not in rows.column_names


def test_a_shop_systems_global_ids_are_keys(data_set: DataSet) -> None:
    _, rows = run(data_set, "c13_gid.jsonl", template="{{title or 'item'}}")
    given = ["gid://shopify/Product/1", "gid://shopify/Product/2", "gid://shopify/ProductVariant/9"]
    assert keys(rows) == given
    assert len(set(rows["image"].combine_chunks().field("path").to_pylist())) == 3


def test_uuids_are_keys(data_set: DataSet) -> None:
    _, rows = run(data_set, "c13_uuid_id.parquet")
    given = pq.read_table(CASES / "c13_uuid_id.parquet")["id"].to_pylist()
    assert keys(rows) == sorted(str(key) for key in given)


def test_sizes_as_people_write_them(data_set: DataSet) -> None:
    plan, rows = run(data_set, "c15_sizes.csv")
    assert keys(rows) == ["1", "2", "3", "4", "6"]
    assert set(rows["width"].to_pylist()) == set(rows["height"].to_pylist()) == {64}
    messages = {error.key: error.message for error in plan.rejected}
    assert messages.keys() == {"5", "7", "8"}
    assert "64x64" in messages["8"]
    assert "72x64" in messages["8"]


def test_seeds_as_people_write_them(data_set: DataSet) -> None:
    plan, rows = run(data_set, "c15_seeds.csv")
    assert keys(rows) == ["3", "4"]
    assert {error.key for error in plan.rejected} == {"1", "2", "5", "6"}
    assert all(error.message.startswith("seed: ") for error in plan.rejected)


@pytest.mark.parametrize("inputs", ["c19_jsonl", "c19_jsonl/*.jsonl"])
def test_a_folder_and_a_pattern_are_one_table(data_set: DataSet, inputs: str) -> None:
    _, rows = run(data_set, inputs)
    assert keys(rows) == ["0", "1", "2"]


def test_text_among_other_values_stays_text(data_set: DataSet) -> None:
    plan, rows = run(data_set, "c20_mixed.jsonl")
    assert keys(rows) == ["1", "3", "A2"]
    assert sorted(rows["colour"].to_pylist()) == ["7", "blue", "red"]
    assert sorted(rows["id"].to_pylist()) == ["1", "3", "A2"]
    assert "colour" in said(plan)


def test_sizes_of_pictures_on_the_web_pass_through(data_set: DataSet) -> None:
    plan, rows = run(data_set, "c21_img2dataset.parquet")
    given = pq.read_table(CASES / "c21_img2dataset.parquet")
    usable = [row for row in given.to_pylist() if row["caption"]]
    assert keys(rows) == [row["key"] for row in usable]
    assert rows["height_1"].to_pylist() == [row["height"] for row in usable]
    assert plan.counts.rejected == given.num_rows - len(usable)


def test_nested_json_comes_back_equal(data_set: DataSet) -> None:
    _, rows = run(data_set, "c25_geneval.jsonl")
    lines = (CASES / "c25_geneval.jsonl").read_text().splitlines()
    given = [json.loads(line) for line in lines]
    found = {
        prompt: json.loads(text)
        for prompt, text in zip(rows["prompt"].to_pylist(), rows["include"].to_pylist(), strict=True)
    }
    assert found == {row["prompt"]: row["include"] for row in given}


def test_an_unknown_encoding_is_refused(data_set: DataSet) -> None:
    with pytest.raises(InvalidRequest, match="encoding"):
        data_set.plan(str(CASES / "c07_cp1252.csv"), text_encoding="cp99999")
