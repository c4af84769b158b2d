import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.plan.plan import Plan, PlanCounts
from pipelines.work_table import WORK_FIELDS
from tests.pipelines.part_tables import CATALOGUE
from tests.pipelines.plan_fixtures import DataSet, Row, products, write_table
from zimage_models.config import EngineConfig
from zimage_models.errors import InvalidRequest

LONG_PROMPT = "many words " * 800
LONG_PROMPT_TOKENS = 4009
"""Of the embedded model, whose limit is 512; the prompt is short enough in characters."""

# What a row has, and what its message must say. Each has a good key, prompt and settings but for this.
BAD_CELLS: list[tuple[Row, str]] = [
    ({"prompt": ""}, "prompt: missing"),
    ({"prompt": "   "}, "prompt: '   ' is empty"),
    ({"prompt": "x" * 100_000}, "prompt: 100000 characters; the limit is 16384"),
    (
        {"prompt": LONG_PROMPT},
        f"prompt: {LONG_PROMPT_TOKENS} tokens with the chat template; the limit is 512",
    ),
    ({"prompt": "a\0b"}, "prompt: 'a\\x00b' contains a NUL character"),
    ({"size": "7x7"}, "size: 7x7 is not a multiple of 8 px: use 8x8"),
    ({"size": "0x0"}, "size: 0x0 is outside 1..4096 px per side: use 8x8"),
    ({"size": "big"}, "size: 'big' is not of the form WIDTHxHEIGHT"),
    ({"size": "65x64"}, "size: 65x64 is not a multiple of 8 px: use 64x64 or 72x64"),
    ({"size": "8192x64"}, "size: 8192x64 is outside 1..4096 px per side: use 4096x32"),
    ({"size": "4096x4096"}, "size: 4096x4096 is 16777216 px; the limit is 4194304: use 2048x2048"),
    ({"size": "64x64", "height": "64"}, "size: give either size or height and width, not both"),
    ({"height": "7"}, "height: 7 px is not a multiple of 8: use 8"),
    ({"height": "-64"}, "height: '-64' is outside 1..4096 px: use 8"),
    ({"seed": "NaN"}, "seed: 'NaN' is not a number; leave it empty for a seed of its own"),
    ({"seed": "-1"}, "seed: '-1' is outside 0..4294967295; leave it empty for a seed of its own"),
    (
        {"seed": "4294967296"},
        "seed: '4294967296' is outside 0..4294967295; larger seeds repeat the noise of smaller ones",
    ),
    ({"seed": "1.5"}, "seed: '1.5' is not a whole number"),
    ({"seed": "soon"}, "seed: 'soon' is not a number; leave it empty for a seed of its own"),
    ({"seed": "4294967295", "n": "2"}, "seed: 4294967295 with 2 variants ends at"),
    ({"steps": "-5"}, "num_inference_steps: '-5' is outside 1..50"),
    ({"steps": "0"}, "num_inference_steps: '0' is outside 1..50"),
    ({"steps": "51"}, "num_inference_steps: '51' is outside 1..50"),
    ({"steps": "eight"}, "num_inference_steps: 'eight' is not a number"),
    ({"guidance": "inf"}, "guidance_scale: 'inf' is not a finite number"),
    ({"guidance": "3.5"}, "guidance_scale: '3.5' must be 0"),
    (
        {"negative_prompt": "ugly"},
        "negative_prompt: 'ugly' has no effect at guidance_scale 0 (turbo allows up to 0)",
    ),
    ({"cfg_truncation": "0.5"}, "cfg_truncation: 0.5 has no effect at guidance_scale 0"),
    ({"truncate_prompt": "maybe"}, "truncate_prompt: 'maybe' is not true or false"),
    ({"model": "flux"}, "model: 'flux' is not this run's model, 'tiny-zimage-turbo'"),
    ({"n": "0"}, "variants: '0' is outside 1..1000"),
    ({"n": "1001"}, "variants: '1001' is outside 1..1000"),
    ({"n": "nan"}, "variants: 'nan' is not a"),
    ({"sku": "good-0"}, "sku: an earlier row has the key 'good-0' too"),
    ({"sku": ""}, "sku: missing"),
    ({"sku": "  "}, "sku: '  ' is empty"),
    ({"sku": "a\x1bb"}, "sku: 'a\\x1bb' contains '\\x1b'; a key has no line breaks"),
    ({"sku": "a\nb"}, "sku: 'a\\nb' contains '\\n'; a key has no line breaks"),
    ({"sku": "k" * 5000}, "is 5000 bytes long; the limit is 400"),
    ({"title": "good-0"}, "name: another image has the file name 'good-0.png' too"),
]
# Of JSON Lines; a column of text and other values is text.
BAD_VALUES: list[tuple[Row, str]] = [
    ({"prompt": None}, "prompt: missing"),
    ({"steps": True}, "num_inference_steps: 'true' is not a number"),
    ({"steps": [8]}, "num_inference_steps: '[8]' is not a number"),
    ({"steps": 8.5}, "num_inference_steps: '8.5' is not a whole number"),
    ({"seed": 1.5}, "seed: '1.5' is not a whole number"),
    ({"seed": 2**63}, "seed: '9223372036854775808' is outside 0..4294967295"),
    ({"seed": {"a": 1}}, "seed: '{\"a\": 1}' is not a number"),
    ({"size": 64}, "size: '64' is not of the form WIDTHxHEIGHT"),
    ({"size": [64, 64]}, "size: '[64, 64]' is not of the form WIDTHxHEIGHT"),
    ({"height": True}, "height: True is bool, not a number"),
    ({"n": True}, "variants: 'true' is not a number"),
    ({"n": [2]}, "variants: '[2]' is not a number"),
    ({"truncate_prompt": 1}, "truncate_prompt: 1 is not true or false"),
    ({"model": ["turbo"]}, "model: ['turbo'] is not this run's model"),
    ({"negative_prompt": 5}, "negative_prompt: 5 is int, not text"),
    ({"sku": None}, "sku: missing"),
    ({"sku": ""}, "sku: '' is empty"),
]
MAPPED = {"size": "size", "height": "height", "model": "model", "variants": "n"}
"""Columns that mean something else in many tables, so they are not guessed."""
BAD_LINES: list[tuple[str, str]] = [
    ('{"sku": "n", "prompt": "x", "seed": Infinity}', "Infinity is not a JSON number"),
    ('["a pear"]', "['a pear'] is not a JSON object"),
    ("a pear", "not valid JSON"),
    ('{"sku": "s", "prompt": "\\ud800"}', "surrogates not allowed"),
    ('{"sku": "s", "sku": "t", "prompt": "x"}', "'sku' is given twice"),
]


@pytest.fixture
def data_set(tmp_path: Path) -> DataSet:
    return DataSet(folder=tmp_path)


def check_counts(plan: Plan) -> PlanCounts:
    """Make sure that every row and every image is counted once, if rows have one image each."""
    counts = plan.counts
    assert counts.rejected == len(plan.rejected)
    assert counts.rows == counts.filtered + counts.rejected + counts.duplicate + counts.units
    assert counts.units == counts.unchanged + counts.failed_before + counts.new
    return counts


def by_key(data_set: DataSet, plan: Plan, name: str) -> dict[str, Any]:
    return {row["key"]: row[name] for row in data_set.work(plan)}


def beside_good_rows(bad: list[tuple[Row, str]]) -> list[Row]:
    """Put a good row before and after each bad one."""
    rows = [{"sku": "good-0", "prompt": "a pear", "title": "good-0"}]
    for number, (change, _) in enumerate(bad):
        rows.append({"sku": f"bad-{number}", "prompt": "a pear", "title": f"bad-{number}", **change})
        rows.append({"sku": f"good-{number + 1}", "prompt": "a pear", "title": f"good-{number + 1}"})
    return rows


def check_messages(plan: Plan, bad: list[tuple[Row, str]]) -> None:
    """Compare with what the bad rows, at every odd place, should be told."""
    assert [error.row for error in plan.rejected] == list(range(1, 2 * len(bad), 2))
    for error, (change, message) in zip(plan.rejected, bad, strict=True):
        assert message in error.message, change
        assert error.error_class == "bad_input"
        assert len(error.message) < 200
    assert plan.counts.rejected == len(bad)


def test_bad_text_cells_are_told_and_good_rows_are_planned(data_set: DataSet) -> None:
    table = data_set.table(beside_good_rows(BAD_CELLS), "in.csv")
    plan = data_set.plan(table, name="{title}.png", columns=MAPPED)
    check_messages(plan, BAD_CELLS)
    assert [row["key"] for row in data_set.work(plan)] == [f"good-{i}" for i in range(len(BAD_CELLS) + 1)]
    check_counts(plan)


def test_bad_typed_values_are_told_and_good_rows_are_planned(data_set: DataSet) -> None:
    plan = data_set.plan(beside_good_rows(BAD_VALUES), columns=MAPPED)
    check_messages(plan, BAD_VALUES)
    assert [row["key"] for row in data_set.work(plan)] == [f"good-{i}" for i in range(len(BAD_VALUES) + 1)]
    check_counts(plan)


def test_bad_lines_are_told_and_good_rows_are_planned(data_set: DataSet, tmp_path: Path) -> None:
    good = '{"sku": "good-%d", "prompt": "a pear"}\n'
    text = good % 0 + "".join(f"{line}\n{good % (i + 1)}" for i, (line, _) in enumerate(BAD_LINES))
    (tmp_path / "in.jsonl").write_text(text)
    plan = data_set.plan(str(tmp_path / "in.jsonl"))
    check_messages(plan, [({"line": line}, message) for line, message in BAD_LINES])
    assert check_counts(plan).units == len(BAD_LINES) + 1


def test_a_float_column_may_hold_nan(data_set: DataSet, tmp_path: Path) -> None:
    rows = products(2)
    path = write_table(tmp_path / "in.parquet", [rows[0] | {"seed": 5.0}, rows[1] | {"seed": float("nan")}])
    plan = data_set.plan(path)
    assert [error.message for error in plan.rejected] == [
        "seed: nan is not a number; leave it empty for a seed of its own"
    ]
    assert by_key(data_set, plan, "seed") == {"sku-000": 5}


def test_a_table_of_bad_rows_alone_has_an_empty_plan(data_set: DataSet) -> None:
    plan = data_set.plan(products(5, size="7x7"), columns={"size": "size"})
    assert plan.work_files == ()
    assert check_counts(plan) == PlanCounts(
        rows=5, filtered=0, rejected=5, duplicate=0, units=0, unchanged=0, failed_before=0, new=0
    )


def test_long_prompts_are_cut_where_asked(data_set: DataSet) -> None:
    rows = [{"sku": "cut", "prompt": LONG_PROMPT, "truncate_prompt": True}, {"sku": "whole", "prompt": "x"}]
    plan = data_set.plan(rows)
    assert check_counts(plan).rejected == 0
    assert by_key(data_set, plan, "prompt")["cut"] == LONG_PROMPT


def test_a_negative_prompt_can_be_too_long(data_set: DataSet) -> None:
    data_set.engine = EngineConfig(model="tiny-zimage-base", fake=True)
    rows = products(3)
    rows[1]["negative_prompt"] = LONG_PROMPT
    rows[2] |= {"negative_prompt": LONG_PROMPT, "prompt": LONG_PROMPT}
    plan = data_set.plan(rows)
    too_long = f"{LONG_PROMPT_TOKENS} tokens with the chat template; the limit is 512"
    assert [(error.key, error.message) for error in plan.rejected] == [
        ("sku-001", f"negative_prompt: {too_long}"),
        ("sku-002", f"prompt: {too_long}"),
    ]
    assert check_counts(plan).units == 1


def test_too_long_prompts_of_a_whole_batch(data_set: DataSet) -> None:
    prompts = ["w " * 600, "a pear"]
    rows = [{"sku": str(i), "prompt": prompts[i % 2]} for i in range(3000)]
    plan = data_set.plan(rows)
    assert [error.row for error in plan.rejected] == list(range(0, 3000, 2))
    assert [row["row"] for row in data_set.work(plan)] == list(range(1, 3000, 2))


def test_order_and_limit_change_no_seed_and_no_unit(data_set: DataSet) -> None:
    rows = products(20)
    in_order = data_set.plan(rows, variants=2)
    shuffled = data_set.plan(random.Random(0).sample(rows, 20), variants=2)
    limited = data_set.plan(rows, variants=2, limit=7)

    def units(plan: Plan) -> dict[tuple[str, int], tuple[str, int, str]]:
        return {
            (row["key"], row["variant"]): (row["unit_id"], row["seed"], row["row_digest"])
            for row in data_set.work(plan)
        }

    assert units(shuffled) == units(in_order)
    assert len(units(limited)) == 14
    assert units(limited).items() <= units(in_order).items()


def test_a_limit_ends_the_table(data_set: DataSet, tmp_path: Path) -> None:
    rows = [{"sku": str(i), "prompt": "a pear", "brand": "ab"[i % 2]} for i in range(10)]
    lines = [json.dumps(row) + "\n" for row in rows]
    lines[2:2] = ["bad before\n"]
    lines += ["bad after\n"]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    plan = data_set.plan(str(tmp_path / "in.jsonl"), limit=3, where='brand == "b"')
    counts = check_counts(plan)
    assert [row["key"] for row in data_set.work(plan)] == ["1", "3", "5"]
    assert (counts.rows, counts.filtered, counts.rejected) == (7, 3, 1)
    assert [error.row for error in plan.rejected] == [2]


def test_filtered_rows_are_counted_and_not_checked(data_set: DataSet) -> None:
    rows = [*products(4), {"sku": "bad", "prompt": None, "brand": "other"}]
    plan = data_set.plan(rows, where='brand == "brand 0"')
    assert check_counts(plan).filtered == 3
    assert list(by_key(data_set, plan, "row").items()) == [("sku-000", 0), ("sku-003", 3)]


def test_a_filter_that_fails_rejects_its_row(data_set: DataSet) -> None:
    rows = [*products(2, price=3), {"sku": "none", "prompt": "x", "price": None}]
    plan = data_set.plan(rows, where="price > 1")
    assert [error.key for error in plan.rejected] == ["none"]
    assert check_counts(plan).units == 2


def test_prompts_come_from_a_template(data_set: DataSet) -> None:
    plan = data_set.plan(
        [{"sku": "a", "brand": "Acme", "title": "chair"}, {"sku": "b", "brand": None, "title": "lamp"}],
        template="Photo of {{ brand }} {{ title }}",
    )
    assert by_key(data_set, plan, "prompt") == {"a": "Photo of Acme chair"}
    assert by_key(data_set, plan, "title") == {"a": "chair"}
    assert "brand" in plan.rejected[0].message


def test_every_column_of_a_unit_is_in_the_work_table(data_set: DataSet) -> None:
    plan = data_set.plan(
        [
            {
                "sku": "a/b",
                "text": "a pear",
                "steps": 4,
                "size": "72x80",
                "seed": 9,
                "brand": None,
                "tags": [1],
            }
        ],
        columns={"size": "size"},
    )
    [row] = data_set.work(plan)
    digest, unit = row.pop("row_digest"), row.pop("unit_id")
    assert len(digest) == len(unit) == 32
    assert row == {
        "todo": True,
        "key": "a/b",
        "variant": 0,
        "row": 0,
        "prompt": "a pear",
        "negative_prompt": "",
        "width": 72,
        "height": 80,
        "num_inference_steps": 4,
        "guidance_scale": 0.0,
        "cfg_normalization": 0.0,
        "cfg_truncation": 1.0,
        "truncate_prompt": False,
        "quality_mode": "exact",
        "step_schedule": None,
        "seed": 9,
        "file_name": "a/b_00.png",
        "sku": "a/b",
        "brand": None,
        "tags": "[1]",
    }
    assert set(row) | {"row_digest", "unit_id"} == {f.name for f in WORK_FIELDS} | {*plan.passthrough.names}


def test_any_column_type_is_passed_through(data_set: DataSet, tmp_path: Path) -> None:
    schema = pa.schema(
        [("sku", pa.string()), ("prompt", pa.string()), *((n, t) for n, (t, _) in CATALOGUE.items())]
    )
    row = {"sku": "a", "prompt": "x", **{name: value for name, (_, value) in CATALOGUE.items()}}
    path = write_table(tmp_path / "in.parquet", [row, {"sku": "b", "prompt": "x"}], schema)
    plan = data_set.plan(path)
    read_back = data_set.work(plan)[0]
    assert {name: read_back[name] for name in CATALOGUE} == {name: row[name] for name in CATALOGUE}


def test_a_column_that_no_part_can_hold_is_refused_before_any_image(
    data_set: DataSet, tmp_path: Path
) -> None:
    schema = pa.schema([("prompt", pa.string()), ("links", pa.opaque(pa.null(), "type", "vendor"))])
    path = write_table(tmp_path / "in.parquet", [{"prompt": "x", "links": None}], schema)
    with pytest.raises(InvalidRequest, match=r"column 'links' .* arrow\.opaque"):
        data_set.plan(path)


def test_a_bad_field_of_the_job_stops_the_plan(data_set: DataSet) -> None:
    with pytest.raises(InvalidRequest, match=r"num_inference_steps: 0 is outside 1\.\.50"):
        data_set.plan(products(3), fields={"num_inference_steps": 0})


def test_seeds_that_older_releases_recorded_draw_the_noise_that_they_drew(data_set: DataSet) -> None:
    data_set.generate([{"sku": "a", "prompt": "a pear"}])
    [recorded] = data_set.published()
    del recorded["image"]
    plan = data_set.plan([recorded | {"seed": 7 * 2**32 + 5}, recorded | {"key": "b", "seed": 6}])
    assert by_key(data_set, plan, "seed") == {"a": 5, "b": 6}


def test_repeated_rows_without_keys_are_images_of_their_own(data_set: DataSet) -> None:
    plan = data_set.plan([{"prompt": "a pear"}] * 50 + [{"prompt": "a plum"}] * 50)
    work = data_set.work(plan)
    assert check_counts(plan).units == 100
    assert len({row["key"] for row in work}) == len({row["seed"] for row in work}) == 100


def test_repeated_rows_with_keys_are_counted_once(data_set: DataSet) -> None:
    rows = products(5)
    plan = data_set.plan([*rows, *rows, rows[0]])
    counts = check_counts(plan)
    assert (counts.units, counts.duplicate) == (5, 6)


def test_what_is_made_or_failed_is_not_to_do(data_set: DataSet) -> None:
    rows = products(10)
    data_set.make(data_set.plan(rows), fails=lambda row: "blank_image" if row["row"] < 3 else None)
    rows[9]["prompt"] = "something else"
    plan = data_set.plan(rows)
    counts = check_counts(plan)
    assert (counts.unchanged, counts.failed_before, counts.new) == (6, 3, 1)
    assert [key for key, todo in by_key(data_set, plan, "todo").items() if todo] == ["sku-009"]
    assert data_set.plan(rows, retried=None).counts.new == 4


def test_steps_to_run_are_those_of_new_units_and_guidance_doubles_them(data_set: DataSet) -> None:
    data_set.engine = EngineConfig(model="tiny-zimage-base", fake=True)
    rows = [{"sku": str(i), "prompt": "x", "steps": 10, "guidance": i} for i in range(3)]
    assert data_set.plan(rows).transformer_steps == 10 + 20 + 20
    data_set.make(data_set.plan(rows[:2]))
    assert data_set.plan(rows).transformer_steps == 20


def test_a_row_digest_changes_with_what_is_published_beside_the_image(data_set: DataSet) -> None:
    row = {"sku": "a", "prompt": "x", "seed": 1, "brand": "acme", "made": "here"}
    tables = [
        row,
        row | {"brand": "zenith"},
        row | {"sku": "b"},
        {("maker" if name == "brand" else name): value for name, value in row.items()},
        row | {"brand": None},
        {**row, "extra": None},
        {**row, "extra": 1},
    ]
    works = [data_set.work(data_set.plan([table]))[0] for table in tables]
    works += data_set.work(data_set.plan([row], name="{brand}.png"))
    assert len({work["row_digest"] for work in works}) == len(works)
    assert len({work["unit_id"] for work in works}) == 1
    assert data_set.work(data_set.plan([row]))[0]["row_digest"] == works[0]["row_digest"]


def test_a_null_column_of_another_type_makes_another_row(data_set: DataSet, tmp_path: Path) -> None:
    digests = set()
    for dtype in (pa.string(), pa.int64(), pa.null()):
        schema = pa.schema([("sku", pa.string()), ("prompt", pa.string()), ("note", dtype)])
        path = write_table(tmp_path / "in.parquet", [{"sku": "a", "prompt": "x"}], schema)
        digests.add(data_set.work(data_set.plan(path))[0]["row_digest"])
    assert len(digests) == 3


@pytest.mark.parametrize(("num_rows", "variants"), [(70, 1000), (7_000, 10)])
def test_a_long_table_is_written_in_several_files(data_set: DataSet, num_rows: int, variants: int) -> None:
    # No prompt is measured in tokens: that takes longer than all the rest.
    rows = [{"sku": f"s{i}", "prompt": "a pear"} for i in range(num_rows)]
    plan = data_set.plan(rows, variants=variants, fields={"truncate_prompt": True})
    tables = [pq.read_table(f"{data_set.uri}/{path}") for path in plan.work_files]
    lengths = [table.num_rows for table in tables]
    assert len(lengths) == 2
    assert 65_536 <= lengths[0] < 65_536 + 4096
    assert sum(lengths) == plan.counts.units == plan.counts.new == 70_000
    table = pa.concat_tables(tables)
    assert np.array_equal(table["row"].to_numpy(), np.repeat(np.arange(num_rows), variants))
    assert np.array_equal(table["variant"].to_numpy(), np.tile(np.arange(variants), num_rows))
    assert len(set(table["unit_id"].to_pylist())) == 70_000


def test_work_files_of_long_prompts_are_bounded_in_bytes(data_set: DataSet) -> None:
    rows = [{"sku": str(i), "prompt": f"{i} ".ljust(16_000, "x")} for i in range(60)]
    plan = data_set.plan(rows, variants=100, fields={"truncate_prompt": True})
    assert len(plan.work_files) == 2
    assert plan.counts.units == len(data_set.work(plan)) == 6_000


def test_a_plan_tells_of_sizes_that_the_model_does_not_know(data_set: DataSet) -> None:
    rows: list[Row] = [{"sku": size, "prompt": "x", "size": size} for size in ("64x64", "128x64")]
    (hint,) = data_set.plan(rows, columns={"size": "size"}).hints
    assert hint.startswith("size: 128x64 is not a size that this model was trained on (64x64)")
