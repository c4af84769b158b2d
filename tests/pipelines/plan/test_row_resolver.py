from typing import Any

import pyarrow as pa
import pytest

from pipelines.options import GenerateOptions
from pipelines.plan.columns.choose_columns import choose_columns
from pipelines.plan.row_resolver import ResolvedRow, ResolvedUnit, RowResolver
from pipelines.unit_ids import derive_seed
from tests.pipelines.plan.columns.table_source import TableSource
from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.config import EngineConfig
from zimage_models.errors import InvalidRequest
from zimage_models.image_files.image_codec import Encoding

MAX_SEED = 2**32 - 1


def make_resolver(*columns: str, model: str = "tiny-zimage-turbo", **options: Any) -> RowResolver:
    """Make one for a table of these columns, all of text."""
    engine = EngineConfig(model=model, fake=True)
    # These mean something else in many tables, so they are not guessed.
    mapped = {name: name for name in columns if name in ("size", "width", "height", "model")}
    options["columns"] = mapped | options.get("columns", {})
    job = GenerateOptions(input="in.csv", output="out", engine=engine, **options)
    spec = resolve_model(engine)
    table = pa.schema([(name, pa.string()) for name in columns]).empty_table()
    column_map = choose_columns(TableSource(table), options=job, spec=spec)
    return RowResolver(job, columns=column_map, column_names=list(columns), spec=spec, weights_sha256="fake")


def resolve(row: dict[str, Any], **options: Any) -> tuple[ResolvedUnit, ...]:
    """Resolve a single row of a table of its own."""
    return make_resolver(*row, **options).resolve(row).units


def resolve_all(rows: list[dict[str, Any]], **options: Any) -> list[ResolvedRow]:
    resolver = make_resolver(*rows[0], **options)
    return [resolver.resolve(row) for row in rows]


def test_a_row_seed_is_derived_from_job_seed_key_and_variant() -> None:
    units = resolve({"sku": "a", "prompt": "x"}, seed=5, variants=3)
    assert [unit.request.seed for unit in units] == [
        derive_seed(5, "a", variant).seed for variant in range(3)
    ]
    assert [unit.variant for unit in units] == [0, 1, 2]


def test_a_given_seed_is_counted_up_by_variant() -> None:
    units = resolve({"sku": "a", "prompt": "x", "seed": "41"}, variants=3)
    assert [unit.request.seed for unit in units] == [41, 42, 43]
    units = resolve({"sku": "a", "prompt": "x"}, variants=2, fields={"seed": 7})
    assert [unit.request.seed for unit in units] == [7, 8]
    units = resolve({"sku": "a", "prompt": "x", "seed": str(MAX_SEED)})
    assert [unit.request.seed for unit in units] == [MAX_SEED]


def test_variants_may_not_run_past_the_last_seed() -> None:
    with pytest.raises(InvalidRequest, match=rf"seed: {MAX_SEED} with 2 variants .* the limit is {MAX_SEED}"):
        resolve({"sku": "a", "prompt": "x", "seed": str(MAX_SEED)}, variants=2)


def test_a_rows_own_number_of_variants_goes_before_the_jobs() -> None:
    row = {"sku": "a", "prompt": "x", "n": "2"}
    assert len(resolve(row, variants=4)) == 2
    assert len(resolve(row | {"n": "2.0"}, variants=4)) == 2
    assert len(resolve(row | {"n": None}, variants=4)) == 4


def test_a_rows_own_fields_go_before_the_jobs() -> None:
    fields = {"num_inference_steps": 4, "size": "96x128"}
    [unit] = resolve({"sku": "a", "prompt": "x", "steps": "6"}, fields=fields)
    request = unit.request
    assert (request.num_inference_steps, request.width, request.height) == (6, 96, 128)
    [unit] = resolve({"sku": "a", "prompt": "x", "steps": None}, fields=fields)
    assert unit.request.num_inference_steps == 4


def test_blank_text_sets_no_more_than_an_empty_cell() -> None:
    names = ("seed", "steps", "n", "size", "model")
    row = {"sku": "a", "prompt": "x"}
    options: dict[str, Any] = {"columns": {"size": "size", "model": "model"}, "variants": 2}
    empty = resolve(row | dict.fromkeys(names), **options)
    assert len(empty) == 2
    assert resolve(row | dict.fromkeys(names, ""), **options) == empty
    assert resolve(row | dict.fromkeys(names, " "), **options) == empty


@pytest.mark.parametrize(
    ("job", "row", "width", "height"),
    [
        ({"size": "96x128"}, {"height": "80"}, 64, 80),
        ({"size": "96x128"}, {"size": "80x72"}, 80, 72),
        ({"height": 128, "width": 96}, {"size": "80x72"}, 80, 72),
        ({"height": 128, "width": 96}, {"width": "80"}, 80, 64),
        ({"height": 128, "width": 96}, {}, 96, 128),
    ],
    ids=str,
)
def test_a_rows_size_goes_before_the_jobs_whichever_way_it_is_given(
    job: dict[str, Any], row: dict[str, str], width: int, height: int
) -> None:
    [unit] = resolve({"sku": "a", "prompt": "x", **row}, fields=job)
    assert (unit.request.width, unit.request.height) == (width, height)


def test_the_key_is_no_part_of_the_unit() -> None:
    [first] = resolve({"sku": "a", "prompt": "x", "seed": "1"})
    [second] = resolve({"sku": "b", "prompt": "x", "seed": "1"})
    assert first.unit_id == second.unit_id
    assert (first.file_name, second.file_name) == ("a_00.png", "b_00.png")


def test_what_is_no_generation_field_is_no_part_of_the_unit() -> None:
    row = {"sku": "a", "prompt": "x", "brand": "acme"}
    [first] = resolve(row)
    [second] = resolve(row | {"brand": "zenith"}, name="{brand}/{variant}.png")
    assert first.unit_id == second.unit_id


def test_job_seed_and_encoding_make_other_units() -> None:
    row = {"sku": "a", "prompt": "x"}
    ids = {
        resolve(row, **options)[0].unit_id
        for options in ({}, {"seed": 1}, {"encoding": Encoding(format="webp")}, {"fields": {"size": "72x72"}})
    }
    assert len(ids) == 4


def test_identical_content_under_two_keys_gives_two_units() -> None:
    first, second = resolve_all([{"sku": sku, "prompt": "x", "seed": "1"} for sku in "ab"])
    assert first.units[0].request == second.units[0].request
    assert first.units[0].unit_id != second.units[0].unit_id


def test_a_keyed_row_that_comes_again_asks_for_nothing() -> None:
    row = {"sku": "a", "prompt": "x", "brand": "acme"}
    first, second = resolve_all([row, dict(row)])
    assert len(first.units) == 1
    assert (second.key, second.units) == ("a", ())


@pytest.mark.parametrize("change", [{"prompt": "y"}, {"seed": "2"}, {"n": "2"}, {"brand": "zenith"}], ids=str)
def test_a_key_with_other_content_is_refused(change: dict[str, str]) -> None:
    row = {"sku": "a", "prompt": "x", "seed": "1", "n": "1", "brand": "acme"}
    resolver = make_resolver(*row)
    resolver.resolve(row, copied=b"acme")
    with pytest.raises(InvalidRequest, match="sku: an earlier row has the key 'a' too"):
        resolver.resolve(row | change, copied=change.get("brand", "acme").encode())


def test_a_dropped_column_makes_no_other_row() -> None:
    row = {"sku": "a", "prompt": "x", "crawled": "monday"}
    _, again = resolve_all([row, row | {"crawled": "friday"}], drop=("crawled",))
    assert again.units == ()


def test_identical_rows_without_keys_get_a_key_each() -> None:
    rows = resolve_all([{"prompt": "x"}, {"prompt": "y"}, {"prompt": "x"}, {"prompt": "x"}])
    first, other, second, third = (row.key for row in rows)
    assert (second, third) == (f"{first}-2", f"{first}-3")
    assert other != first
    assert len({row.units[0].unit_id for row in rows}) == 4
    assert len({row.units[0].request.seed for row in rows}) == 4


def test_a_key_made_of_content_outlives_the_jobs_settings() -> None:
    row = {"prompt": "x", "brand": "acme"}
    keys = {
        resolve_all([row], **options)[0].key
        for options in ({}, {"variants": 4}, {"fields": {"num_inference_steps": 4}}, {"seed": 3})
    }
    assert len(keys) == 1
    two, four = resolve(row, variants=2), resolve(row, variants=4)
    assert four[:2] == two


def test_a_thousand_identical_rows_without_keys() -> None:
    keys = [row.key for row in resolve_all([{"prompt": "x"}] * 1000)]
    assert len(set(keys)) == 1000


@pytest.mark.parametrize(
    ("key", "text", "name"),
    [
        (7, "7", "7_00.png"),
        (42.0, "42", "42_00.png"),
        ("gid://shop/Product/1", "gid://shop/Product/1", "gid%3A%2F/shop/Product/1_00.png"),
        ("../../etc/passwd", "../../etc/passwd", "%2E%2E/%2E%2E/etc/passwd_00.png"),
    ],
)
def test_a_key_is_kept_and_its_file_name_escaped(key: Any, text: str, name: str) -> None:
    [row] = resolve_all([{"id": key, "prompt": "x"}])
    assert (row.key, row.units[0].file_name) == (text, name)


@pytest.mark.parametrize("key", [["a"], True, 1.5, {"a": 1}], ids=str)
def test_other_values_are_no_keys(key: Any) -> None:
    with pytest.raises(InvalidRequest, match="sku: "):
        resolve({"sku": key, "prompt": "x"})


def test_a_key_is_made_of_columns() -> None:
    row = {"sku": "a", "category": "shoes", "prompt": "x"}
    resolver = make_resolver(*row, key="{{category}}-{{sku}}")
    assert resolver.resolve(row).key == resolver.key(row) == "shoes-a"
    assert resolver.resolve({**row, "category": "hats"}).key == "hats-a"
    with pytest.raises(InvalidRequest, match="key: an earlier row has the key 'hats-a' too"):
        resolver.resolve({**row, "category": "hats", "prompt": "y"})
    with pytest.raises(InvalidRequest, match='key: the column "category" is empty in this row'):
        resolver.resolve({**row, "category": None})


def test_a_prompt_comes_from_the_template() -> None:
    row = {"sku": "a", "brand": "Acme", "colour": None}
    [unit] = resolve(row, template="Photo of {{ brand }}{% if colour %} in {{ colour }}{% endif %}")
    assert unit.request.prompt == "Photo of Acme"
    with pytest.raises(InvalidRequest, match=r"template: .*colour"):
        resolve(row, template="{{ colour }}")


def test_a_row_without_prompt_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="prompt: missing"):
        resolve({"sku": "a", "prompt": None})


@pytest.mark.parametrize("model", ["tiny-zimage-turbo", "turbo", None, ""])
def test_rows_may_name_the_model(model: str | None) -> None:
    assert resolve({"sku": "a", "prompt": "x", "model": model})


@pytest.mark.parametrize("model", ["tiny-zimage-base", "base", "TURBO", ["turbo"]])
def test_rows_may_name_no_other_model(model: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"model: .* is not this run's model, 'tiny-zimage-turbo'"):
        resolve({"sku": "a", "prompt": "x", "model": model})


def test_two_images_cannot_have_one_name() -> None:
    resolver = make_resolver("sku", "prompt", "brand", name="{brand}.png")
    resolver.resolve({"sku": "a", "prompt": "x", "brand": "acme"})
    with pytest.raises(InvalidRequest, match=r"name: another image has the file name 'acme.png' too"):
        resolver.resolve({"sku": "b", "prompt": "x", "brand": "acme"})
    with pytest.raises(InvalidRequest, match=r"name: another image has the file name 'a.png' too"):
        resolve({"sku": "a", "prompt": "x"}, variants=2, name="{sku}.png")


def test_names_are_made_of_columns_and_settings() -> None:
    row = {"sku": "a", "prompt": "x", "brand": "acme", "seed": "5", "size": "72x80"}
    units = resolve(row, variants=2, name="{brand}/{key}-{width}x{height}-{seed}.{ext}")
    assert [unit.file_name for unit in units] == ["acme/a-72x80-5.png", "acme/a-72x80-6.png"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps: 0 is outside 1..50"),
        ({"size": "7x7"}, "size: 7x7 is not a multiple of 8 px: use 8x8"),
        ({"guidance_scale": 4.0}, "guidance_scale: 4.0 must be 0"),
        ({"colour": "red"}, "colour: unknown field"),
    ],
    ids=str,
)
def test_a_bad_field_of_the_job_is_told_before_any_row(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        make_resolver("sku", "prompt", fields=fields)


def test_a_filter_decides_before_a_row_is_resolved() -> None:
    resolver = make_resolver("sku", "prompt", "brand", where='brand == "acme"')
    assert resolver.keeps({"sku": "a", "prompt": None, "brand": "acme"})
    assert not resolver.keeps({"sku": "a", "prompt": None, "brand": None})
    with pytest.raises(InvalidRequest, match="where: "):
        make_resolver("sku", "prompt", where="prompt > 1").keeps({"sku": "a", "prompt": "x"})


def test_messages_can_name_a_row_without_a_usable_key() -> None:
    assert make_resolver("sku", "prompt").key({"sku": "../x", "prompt": "p"}) == "../x"
    assert make_resolver("sku", "prompt").key({"sku": None, "prompt": "p"}) is None
    assert make_resolver("prompt").key({"prompt": "p"}) is None


def test_sizes_that_the_model_does_not_know_are_told() -> None:
    resolver = make_resolver("prompt", "size", "variants")
    for size in ("64x64", "1024x1024", "1024x1024", "32x32"):
        resolver.resolve({"prompt": f"{size} {len(resolver.hints)}", "size": size, "variants": "2"})
    large, small = resolver.hints
    assert large.startswith("size: 1024x1024 is not a size that this model was trained on (64x64)")
    assert large.endswith("(4 images)")
    assert small.endswith("expect a poor picture (2 images)")


def test_many_sizes_are_told_in_a_few_lines() -> None:
    resolver = make_resolver("prompt", "size")
    for number in range(10):
        resolver.resolve({"prompt": "x", "size": f"64x{8 * (number + 9)}"})
    assert len(resolver.hints) == 4
    assert resolver.hints[-1] == "size: so are 7 other sizes"
