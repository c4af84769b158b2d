"""What a table's columns mean, and what is told about it."""

from typing import Any

import pyarrow as pa
import pytest

from pipelines.options import GenerateOptions
from pipelines.part_schema import COLUMN_NAMES
from pipelines.plan.columns.choose_columns import choose_columns
from pipelines.plan.columns.column_map import ColumnMap
from pipelines.plan.columns.column_names import ALIASES, RESERVED_COLUMNS
from pipelines.work_table import MADE_FROM_FIELDS, STAGE_COLUMNS, WORK_FIELDS
from tests.pipelines.plan.columns.table_source import TableSource
from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.config import EngineConfig
from zimage_models.errors import InvalidRequest

TURBO, EDIT = "tiny-zimage-turbo", "tiny-zimage-edit"
HF_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
Cells = dict[str, Any]
"""A table's cells by column: values, one value for all rows, or a type for a column of nulls."""


def table_of(cells: Cells) -> pa.Table:
    num_rows = max((len(cell) for cell in cells.values() if isinstance(cell, list | pa.Array)), default=1)

    def column(cell: Any) -> pa.Array:
        if isinstance(cell, pa.DataType):
            return pa.nulls(num_rows, cell)
        return pa.array([cell] * num_rows if isinstance(cell, str | int | float) else cell)

    return pa.table({name: column(cell) for name, cell in cells.items()})


def told(columns: ColumnMap) -> tuple[str, ...]:
    return (*columns.notes, *columns.hints)


def chosen(
    cells: Cells | list[str],
    *,
    model: str = TURBO,
    format: str = "parquet",
    refused: dict[str, str] | None = None,
    **options: Any,
) -> ColumnMap:
    """Choose the columns of a table, or of one row of text in columns of these names."""
    if isinstance(cells, list):
        cells = dict.fromkeys(cells, "text")
    engine = EngineConfig(model=model, fake=True)
    job = GenerateOptions(input="in.parquet", output="out", engine=engine, **options)
    source = TableSource(table_of(cells), format)
    source.refused = refused or {}
    return choose_columns(source, options=job, spec=resolve_model(engine))


def refusal(cells: Cells | list[str], **options: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        chosen(cells, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(*names: str) -> dict[str, str]:
    """Columns that are copied under their own names."""
    return {name: name for name in names}


# Names that mean one thing


def test_settings_are_guessed_and_the_rest_is_copied() -> None:
    settings = {"steps": 8, "Guidance": "2,5", "seed": "-1", "variants": 2}
    columns = chosen({"SKU": "a", "caption": "b", **settings, "brand": "c", "a.b/c's 名": "d"})
    assert columns == ColumnMap(
        prompt="caption",
        key="SKU",
        key_template=None,
        fields={"num_inference_steps": "steps", "guidance_scale": "Guidance", "seed": "seed"},
        pictures={},
        model=None,
        variants="variants",
        passthrough=same("SKU", "brand", "a.b/c's 名"),
        left_out=(),
        notes=(),
        hints=(),
    )


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("seed", "tomato"),
        ("seed", pa.array([True])),
        ("steps", "1. mix; 2. bake"),
        ("steps", [["mix", "bake"]]),
        ("guidance", "adults only"),
        ("variants", '[{"id": 2, "price": "3.00"}]'),
    ],
)
def test_a_column_without_any_number_is_no_setting(name: str, cell: Any) -> None:
    columns = chosen({"prompt": "a", name: cell})
    assert not columns.fields
    assert columns.variants is None
    assert name in columns.passthrough


def test_one_number_or_no_value_at_all_makes_a_setting() -> None:
    cells = {"prompt": "a", "seed": ["", "random", "7"], "steps": ["", " ", None], "guidance": pa.null()}
    assert set(chosen(cells).fields) == {"seed", "num_inference_steps", "guidance_scale"}


def test_n_is_the_number_of_images_in_a_table_of_prompts_only() -> None:
    assert chosen({"prompt": "a", "n": 2}).variants == "n"
    assert chosen({"caption": "a", "N": 2}).variants is None
    columns = chosen({"caption": "a", "n": 2})
    assert columns.variants is None
    assert columns.hints == ("column n is not used; if it is the number of images, give --map variants=n",)


@pytest.mark.parametrize(
    ("names", "prompt"),
    [
        (["text", "prompt"], "prompt"),
        (["Prompt", "prompt"], "prompt"),
        (["Caption", "text"], "text"),
        (["Caption", "Prompt"], "Prompt"),
        (["TEXT"], "TEXT"),
        (["instruction"], "instruction"),
    ],
)
def test_best_spelled_name_is_taken(names: list[str], prompt: str) -> None:
    assert chosen(names).prompt == prompt


@pytest.mark.parametrize(
    ("names", "field"),
    [
        (["text", "caption"], "prompt"),
        (["Prompt", "PROMPT"], "prompt"),
        (["Prompt", "text"], "prompt"),
        (["Text", "Caption"], "prompt"),
        (["prompt", "id", "sku"], "key"),
        (["prompt", "n", "Variants"], "variants"),
    ],
)
def test_a_guess_that_could_go_two_ways_asks_for_map(names: list[str], field: str) -> None:
    message = refusal(names)
    assert f"--map {field}=COLUMN" in message
    assert all(f'"{name}"' in message for name in names if name != "prompt")


def test_prompts_are_taken_from_text_columns_only() -> None:
    assert chosen({"text": [["a"]], "caption": "a"}).prompt == "caption"
    assert chosen({"text": pa.dictionary(pa.int32(), pa.string())}).prompt == "text"
    assert "no text column is called prompt, text, caption or instruction ('prompt' is int64)" in refusal(
        {"prompt": 7}
    )


def test_explicit_columns_go_before_guesses() -> None:
    options = {"columns": {"prompt": "title", "key": "sku"}, "drop": ["prompt"]}
    columns = chosen(["prompt", "title", "id", "sku"], **options)
    assert (columns.prompt, columns.key, columns.passthrough) == ("title", "sku", same("id", "sku"))
    columns = chosen(["text", "caption"], columns={"negative_prompt": "text"})
    assert (columns.prompt, columns.fields) == ("caption", {"negative_prompt": "text"})


def test_dropped_columns_are_neither_guessed_nor_copied() -> None:
    columns = chosen(["prompt", "seed", "brand", "sku"], drop=["seed", "sku"])
    assert (columns.key, columns.fields, columns.passthrough) == (None, {}, same("brand"))
    columns = chosen(["prompt", "sku"], columns={"key": "sku"}, drop=["sku"])
    assert (columns.key, columns.passthrough) == ("sku", {})


# Keys


@pytest.mark.parametrize(
    "type_",
    [
        *(pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())),
        *(pa.int32(), pa.uint64(), pa.float64(), pa.decimal128(9, 0)),
    ],
    ids=str,
)
def test_keys_are_text_or_numbers(type_: pa.DataType) -> None:
    columns = chosen({"prompt": "a", "id": type_})
    assert (columns.key, columns.passthrough) == ("id", same("id"))
    assert chosen({"prompt": "a", "key": type_}).passthrough == {}


@pytest.mark.parametrize("type_", [pa.bool_(), pa.binary(), pa.list_(pa.string()), pa.date32()], ids=str)
def test_other_columns_are_no_keys(type_: pa.DataType) -> None:
    message = refusal({"prompt": "a", "id": type_})
    assert f"key: column 'id' is {type_}; keys are text or numbers" in message
    assert "--map key=" in message
    assert chosen({"prompt": "a", "id": type_}, columns={"key": ""}).passthrough == same("id")
    # Another column of the same rank is one.
    assert chosen({"prompt": "a", "id": type_, "sku": "a"}).key == "sku"


def test_with_a_template_of_keys_no_column_is_the_key() -> None:
    columns = chosen(["prompt", "id", "key"], key="{{id}}-x")
    assert (columns.key, columns.key_template) == (None, "{{id}}-x")
    assert columns.passthrough == {"id": "id", "key": "key_1"}
    assert "key: both a template and column 'id'" in refusal(["prompt", "id"], key="x", columns={"key": "id"})


# Templates


def test_with_a_template_no_column_is_the_prompt() -> None:
    columns = chosen(["title", "caption", "prompt"], template="{{title}}")
    assert (columns.prompt, columns.passthrough) == (None, same("title", "caption") | {"prompt": "prompt_1"})
    assert "both a template" in refusal(["title"], template="x", columns={"prompt": "title"})


# Names that mean something else in a catalogue


@pytest.mark.parametrize(
    "names",
    ["size", "width", "height", "model", "image", "images", "mask", "strength", "quality", "reference_image"],
)
def test_goods_columns_are_copied_and_taken_only_by_map(names: str) -> None:
    cells = {"title": "Cup", names: ["XL", "12"]}
    columns = chosen(cells, columns={"prompt": "title"})
    assert (columns.fields, columns.pictures, columns.model) == ({}, {}, None)
    output_has = names in ("width", "height", "model", "image")
    assert columns.passthrough == {names: f"{names}_1" if output_has else names}


@pytest.mark.parametrize("field", ["size", "width", "height", "model", "image"])
def test_map_takes_any_column_and_an_empty_map_keeps_it(field: str) -> None:
    cells = {"prompt": "Cup", field: ["64x64", None], "other": "x"}
    columns = chosen(cells, columns={field: "other"})
    found = {**columns.fields, **columns.pictures, "model": columns.model}
    assert found[field] == "other"
    columns = chosen(cells, columns={field: ""})
    assert (columns.fields, columns.pictures, columns.model) == ({}, {}, None)
    assert list(columns.passthrough) == [field, "other"]


@pytest.mark.parametrize(
    ("prompt", "sizes", "options", "is_taken"),
    [
        ("prompt", ["64x64", "96x64"], {}, True),
        ("Prompt", ["64x64", "65x64", None], {}, True),
        ("prompt", ["64x64", "big", "1:1"], {}, False),
        ("prompt", ["XL"], {}, False),
        ("prompt", ["7x7"], {}, False),
        ("prompt", pa.nulls(2, pa.string()), {}, False),
        ("prompt", [64, 128], {}, False),
        ("caption", ["64x64"], {}, False),
        ("prompt", ["64x64"], {"template": "{{prompt}}"}, False),
        ("caption", ["64x64"], {"columns": {"size": "size"}}, True),
    ],
)
def test_sizes_are_taken_if_half_of_them_can_be_made(
    prompt: str, sizes: Any, options: Any, is_taken: bool
) -> None:
    columns = chosen({prompt: "a cup", "size": pa.array(sizes)}, **options)
    assert columns.fields == ({"size": "size"} if is_taken else {})
    assert ("size" in columns.passthrough) is not is_taken


@pytest.mark.parametrize(
    ("cells", "are_taken"),
    [
        ({"prompt": "a", "width": [64, 96], "height": [64, 128]}, True),
        ({"prompt": "a", "Width": ["64", "96"], "height": [64.0, 128.0]}, True),
        ({"prompt": "a", "width": [64, 96], "height": [64, None]}, False),
        ({"prompt": "a", "width": [None, None], "height": [None, None]}, False),
        ({"prompt": "a", "width": [64, 96], "height": [64, 127]}, False),
        ({"prompt": "a", "width": [64, 96], "height": [64, 8192]}, False),
        ({"prompt": "a", "width": [64, 4096], "height": [64, 4096]}, False),
        ({"prompt": "a", "width": [64, 96]}, False),
        ({"prompt": "a", "width": [64], "height": [64], "size": ["XL"]}, False),
        ({"caption": "a", "width": [64], "height": [64]}, False),
        ({"prompt": "a", "width": [[64]], "height": [64]}, False),
    ],
)
def test_sides_are_taken_together_if_every_row_can_be_made(cells: Cells, are_taken: bool) -> None:
    columns = chosen(cells)
    assert (len(columns.fields) == 2) is are_taken
    assert (columns.fields == {}) is not are_taken


def test_sides_are_not_taken_beside_a_mapped_size() -> None:
    cells = {"prompt": "a", "width": [64], "height": [64], "shape": ["64x64"]}
    assert chosen(cells, columns={"size": "shape"}).fields == {"size": "shape"}
    assert chosen(cells, columns={"height": "height"}).fields == {"height": "height"}


@pytest.mark.parametrize(
    ("cells", "num_batches"),
    [
        ({"prompt": "a", "seed": [1] * 5000}, 0),
        ({"prompt": "a", "width": [64] * 5000, "height": 64}, 2),
        ({"prompt": "a", "width": [63] * 5000, "height": 64}, 1),
    ],
)
def test_rows_are_read_only_as_long_as_they_decide(cells: Cells, num_batches: int) -> None:
    engine = EngineConfig(fake=True)
    source = TableSource(table_of(cells))
    job = GenerateOptions(input="in.parquet", output="out", engine=engine)
    choose_columns(source, options=job, spec=resolve_model(engine))
    assert source.num_batches_read == num_batches


# Pictures


@pytest.mark.parametrize(
    "type_", [pa.binary(), HF_IMAGE, pa.list_(pa.large_binary()), pa.large_list(HF_IMAGE)], ids=str
)
@pytest.mark.parametrize("name", ["image", "Images", "reference_image"])
def test_columns_of_files_are_pictures(name: str, type_: pa.DataType) -> None:
    columns = chosen({"instruction": "a", name: type_, "Mask": pa.string(), "brand": "b"})
    assert columns.pictures == {"image": name, "mask": "Mask"}
    assert columns.passthrough == same("brand")


@pytest.mark.parametrize("cell", ["a.png", ["https://a/1.jpg", "https://a/2.jpg"]])
def test_text_names_pictures_only_if_the_job_is_about_pictures(cell: Any) -> None:
    cells = {"prompt": "a", "Images": pa.array([cell])}
    columns = chosen(cells)
    assert (columns.pictures, columns.passthrough) == ({}, same("Images"))
    assert told(columns) == (
        "column Images is copied as text; to start from its pictures, give --map image=Images "
        "(--allow-urls for web addresses)",
    )
    for options in ({"model": EDIT}, {"fields": {"strength": 0.5}}, {"columns": {"image": "Images"}}):
        columns = chosen(cells, **options)
        assert (columns.pictures, columns.passthrough, told(columns)) == ({"image": "Images"}, {}, ())
    assert chosen(cells, columns={"image": ""}, model=EDIT).passthrough == same("Images")


@pytest.mark.parametrize("cell", [7, {"url": "a.png"}])
def test_other_columns_are_no_pictures(cell: Any) -> None:
    columns = chosen({"prompt": "a", "images": [cell]}, model=EDIT)
    assert (columns.pictures, told(columns)) == ({}, ())


@pytest.mark.parametrize(
    ("values", "is_taken"),
    [
        ([0.5, 1, None], True),
        (["0.5", "1"], True),
        ([0.5, 0], False),
        ([0.5, 1.1], False),
        (["strong"], False),
        ([None], False),
    ],
)
def test_strengths_are_numbers_up_to_one_beside_pictures(values: list[Any], is_taken: bool) -> None:
    cells = {"prompt": "a", "image": HF_IMAGE, "strength": pa.array(values)}
    columns = chosen(cells)
    assert columns.fields == ({"strength": "strength"} if is_taken else {})
    # The output of a table with pictures has a strength of its own.
    assert columns.passthrough == ({} if is_taken else {"strength": "strength_1"})


def test_mask_and_strength_mean_something_beside_pictures_only() -> None:
    columns = chosen({"prompt": "a", "mask": "b", "strength": [0.5]})
    assert (columns.pictures, columns.fields) == ({}, {})
    assert columns.passthrough == same("mask", "strength")
    assert "mask: column 'm' has no effect without" in refusal(["prompt", "m"], columns={"mask": "m"})


def test_control_images_need_no_others_and_their_scale_needs_them() -> None:
    scale = "controlnet_conditioning_scale"
    columns = chosen(["prompt", "conditioning_image", scale, "control_sha256"])
    assert columns.pictures == {"control_image": "conditioning_image"}
    assert any("need --controlnet" in hint for hint in columns.hints)
    assert columns.fields == {scale: scale}
    assert columns.passthrough == {"control_sha256": "control_sha256_1"}
    assert chosen(["prompt", scale]).fields == {}
    assert "give --map control_image=COLUMN" in refusal(["prompt", "s"], columns={scale: "s"})


# Tables that are clearly ours


def test_columns_of_a_batch_file_are_what_they_are_called() -> None:
    names = ["key", "model", "variants", "prompt", "size", "seed", "image", "mask", "strength"]
    columns = chosen(dict.fromkeys(names, "x"), format="openai-batch")
    assert (columns.model, columns.pictures) == ("model", {"image": "image", "mask": "mask"})
    assert columns.fields == {"size": "size", "seed": "seed", "strength": "strength"}
    assert columns.passthrough == {}


def own_output(**changes: Any) -> Cells:
    cells: Cells = dict.fromkeys(COLUMN_NAMES, "x")
    cells |= {"variant": [0, 0], "image": HF_IMAGE, "model": TURBO, "width": [64, 96], "height": [64, 64]}
    return {**cells, "brand": "b", **changes}


RECORDED = {
    *("negative_prompt", "width", "height", "num_inference_steps", "guidance_scale"),
    *("cfg_normalization", "cfg_truncation", "seed"),
}


def test_our_own_output_is_edited_or_made_again_in_one_round() -> None:
    columns = chosen(own_output())
    assert (columns.prompt, columns.key, columns.model) == ("prompt", "key", None)
    assert columns.pictures == {"image": "image"}
    assert columns.fields == same(*RECORDED)
    assert columns.passthrough == same("brand")
    assert set(columns.left_out) == {*COLUMN_NAMES} - {"prompt", "key", "image"} - RECORDED
    assert any("--drop image" in note for note in told(columns))
    assert chosen(own_output(), drop=["image"]).pictures == {}


def test_seeds_of_our_own_output_are_known_as_recorded() -> None:
    assert chosen(own_output()).has_recorded_seeds
    assert not chosen(own_output(), columns={"seed": ""}).has_recorded_seeds
    assert not chosen(own_output(s=[7, 8]), columns={"seed": "s"}).has_recorded_seeds


@pytest.mark.parametrize("changes", [{"model": [["x"]] * 2}, {"variant": [{"of": 1}] * 2}])
def test_a_table_with_our_names_but_other_types_is_not_our_own(changes: Cells) -> None:
    assert chosen(own_output(**changes)).passthrough["unit_id"] == "unit_id_1"


def test_settings_of_our_own_output_give_way_to_the_jobs() -> None:
    assert chosen(own_output(), fields={"size": "128x128"}).fields.keys() == RECORDED - {"width", "height"}
    columns = chosen(own_output(), fields={"num_inference_steps": 4})
    assert columns.fields.keys() == RECORDED - {"num_inference_steps"}
    assert "num_inference_steps" in columns.left_out


def test_settings_of_another_model_are_not_taken_over() -> None:
    columns = chosen(own_output(), model=EDIT)
    assert columns.fields == same("seed", "width", "height")
    assert any("another model" in note for note in told(columns))
    assert chosen(own_output(width=[64, 4096], height=[64, 4096]), model=EDIT).fields == same("seed")


def test_several_images_of_a_key_get_keys_of_their_own() -> None:
    columns = chosen(own_output(variant=[0, 1]))
    assert (columns.key, columns.key_template) == (None, "{{key}}-{{variant}}")
    assert columns.passthrough == {"key": "key_1", "brand": "brand"}
    assert any("{{key}}-{{variant}}" in note for note in told(columns))
    columns = chosen(own_output(variant=[0, 1]), key="{{brand}}")
    assert columns.key_template == "{{brand}}"
    assert chosen(own_output(variant=[0, 1]), columns={"key": "brand"}).key == "brand"


def test_what_our_edits_were_made_from_is_left_out() -> None:
    made_from = {field.name: field.type for field in MADE_FROM_FIELDS}
    columns = chosen(own_output(**made_from | {"strength": [0.5, None]}))
    assert columns.fields["strength"] == "strength"
    assert columns.passthrough == same("brand")
    assert chosen(own_output(strength="500 mg")).passthrough == {"strength": "strength_1", "brand": "brand"}


def test_old_prompts_and_unmapped_columns_of_our_own_output_are_kept() -> None:
    columns = chosen(own_output(), columns={"prompt": "brand", "seed": "", "image": ""})
    assert columns.passthrough == {"image": "image_1", "prompt": "prompt_1", "seed": "seed_1"}


# Names in the output


@pytest.mark.parametrize("name", sorted(RESERVED_COLUMNS))
def test_columns_whose_name_is_taken_are_renamed_and_it_is_told(name: str) -> None:
    unused = {name: ""} if name in ALIASES else {}
    columns = chosen(["title", name, f"{name}_1"], template="{{title}}", columns=unused | {"key": "title"})
    assert columns.passthrough == {"title": "title", name: f"{name}_2", f"{name}_1": f"{name}_1"}
    assert f"renamed, because the output has its own: {name} to {name}_2" in told(columns)


def test_names_of_ours_cannot_collide_with_those_of_tables() -> None:
    ours = {*COLUMN_NAMES, *STAGE_COLUMNS, *(field.name for field in WORK_FIELDS)}
    assert ours.isdisjoint(chosen(sorted(ours), template="x", columns={"seed": ""}).passthrough.values())
    assert chosen(["prompt", "Unit_id", "row_digests"]).passthrough == same("Unit_id", "row_digests")


@pytest.mark.parametrize("name", [field.name for field in MADE_FROM_FIELDS])
def test_names_of_what_an_image_is_made_from_are_taken_beside_pictures(name: str) -> None:
    assert chosen(["prompt", name]).passthrough == same(name)
    columns = chosen({"prompt": "a", "image": HF_IMAGE, name: "text"})
    assert columns.passthrough == {name: f"{name}_1"}
    # All of them together say that a table has pictures.
    every = [field.name for field in MADE_FROM_FIELDS]
    assert chosen(["prompt", *every]).passthrough[name] == f"{name}_1"


# What people are told


@pytest.mark.parametrize(
    ("name", "field", "meaning"),
    [
        ("cfg", "guidance_scale", "the guidance scale"),
        ("Guidance Scale", "guidance_scale", "the guidance scale"),
        ("CFG-Scale", "guidance_scale", "the guidance scale"),
        ("step", "num_inference_steps", "the number of steps"),
        ("Sampling Steps", "num_inference_steps", "the number of steps"),
        ("num_steps", "num_inference_steps", "the number of steps"),
        ("negative prompt", "negative_prompt", "the negative prompt"),
        ("NegativePrompt", "negative_prompt", "the negative prompt"),
        ("neg_prompt", "negative_prompt", "the negative prompt"),
        ("random_seed", "seed", "the seed"),
        ("aspect_ratio", "size", "the image's size, such as 1024x768"),
        ("num_images", "variants", "the number of images"),
        ("Custom ID", "key", "the row's key"),
        ("width", "width", "the image's width in pixels"),
    ],
)
def test_names_that_look_like_a_setting_are_pointed_out(name: str, field: str, meaning: str) -> None:
    columns = chosen(["prompt", name])
    option = f"'{field}={name}'" if " " in name else f"{field}={name}"
    hint = f"column {name} is not used; if it is {meaning}, give --map {option}"
    assert hint in told(columns)
    assert name in columns.passthrough
    assert told(chosen(["prompt", name], columns={field: name})) == ()
    assert hint not in told(chosen(["prompt", name], columns={field: ""}))
    assert told(chosen(["prompt", name], drop=[name])) == ()


def test_a_setting_that_has_its_column_is_not_pointed_out() -> None:
    names = ["prompt", "steps", "num_steps", "seed", "random_seed", "id", "custom id"]
    assert told(chosen(dict.fromkeys(names, "7"))) == ()
    assert told(chosen({"prompt": "a", "size": "64x64", "aspect_ratio": "1:1", "image_width": 51})) == ()


@pytest.mark.parametrize(
    "name", ["image_url", "mask_url", "denoise", "controlnet_scale", "brand", "Width (cm)"]
)
def test_names_that_say_nothing_here_are_not_pointed_out(name: str) -> None:
    assert told(chosen(["prompt", name])) == ()


def test_addresses_are_pointed_out_where_images_are_made_from_pictures() -> None:
    [note] = told(chosen(["prompt", "image_url"], model=EDIT))
    assert "--map image=image_url" in note
    [note] = told(chosen({"prompt": "a", "image": HF_IMAGE, "denoise": 0.5}))
    assert "--map strength=denoise" in note


def test_lines_say_what_every_column_became() -> None:
    names = ["SKU", "caption", "seed", "brand", "height", "a, b"]
    columns = chosen(dict.fromkeys(names, "7"), drop=["brand"])
    assert columns.lines() == [
        "columns: prompt <- caption; key <- SKU; seed <- seed",
        "copied: SKU, height as height_1, 'a, b'",
        "left out: brand",
    ]
    assert chosen(["title"], template="{{title}}").lines() == [
        "columns: prompt <- the template; key <- the row's content",
        "copied: title",
    ]
    assert "key <- {{title}}" in chosen(["title"], template="x", key="{{title}}").lines()[0]


def test_lines_are_lines_whatever_the_keys_are_made_of() -> None:
    assert chosen({"prompt": "a", "b": "c"}, key="{{ b }}\n").lines()[0].endswith("key <- a template")


def test_lines_of_a_wide_table_are_short() -> None:
    lines = chosen(["prompt", *(f"column {i}" for i in range(100))]).lines()
    assert lines[1].endswith("column 10, column 11 and 88 more")
    assert len(lines) == 2


def test_a_missing_prompt_lists_the_columns_and_the_ways_out() -> None:
    message = refusal(["title", "sku"])
    for part in ('"title" and "sku"', "--map prompt=COLUMN", "--template"):
        assert part in message
    assert "--map 'prompt=Prompt text'" in refusal(["title", "Prompt text"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"columns": {"promt": "title"}}, 'map: unknown field "promt" (did you mean prompt?); fields are'),
        ({"columns": {"steps": "title"}}, "did you mean num_inference_steps?"),
        ({"columns": {"cfg": "title"}}, "did you mean guidance_scale?"),
        ({"columns": {"zzz": "title"}}, 'map: unknown field "zzz"; fields are "prompt", "key", '),
        (
            {"columns": {"prompt": "Titel"}},
            'map: no column "Titel" (did you mean "title"?); columns are "title" and',
        ),
        ({"drop": ("brand",)}, 'drop: no column "brand"; columns are "title" and "sku"'),
    ],
)
def test_unknown_names_are_told_with_the_closest(options: dict[str, Any], told: str) -> None:
    assert told in refusal(["title", "sku"], **options)


def test_columns_that_cannot_be_read_are_problems_unless_they_are_dropped() -> None:
    refused = {"shape": "input: column 'shape' is a union", "n": "input: column 'n' has two types"}
    assert chosen(["prompt"], refused=refused, drop=["shape", "n"]).left_out == ("shape", "n")
    message = refusal(["prompt"], refused=refused, drop=["n", "m"], columns={"seed": "shape"})
    assert message.startswith('columns: 2 problems: (1) drop: no column "m"')
    assert message.endswith("; (2) input: column 'shape' is a union")


def test_all_problems_are_told_at_once() -> None:
    cells: Cells = {"id": [True], "n": "1", "Variants": "2", "m": "a"}
    cells["odd"] = pa.run_end_encoded(pa.int32(), pa.string())
    columns = {"mask": "m", "wdth": "m", "seed": "sed"}
    message = refusal(cells, columns=columns, drop=["nothing"])
    assert message.startswith('columns: 8 problems: (1) map: unknown field "wdth" (did you mean width?)')
    for part in (
        'no column "sed"',
        'no column "nothing"',
        "prompt: no text column",
        "key: column 'id' is bool",
        'variants: columns "n" and "Variants" all match',
        "(7) mask: column 'm' has no effect",
        "(8) column odd: Hugging Face datasets has no type",
    ):
        assert part in message


def test_problems_of_templates_are_among_them() -> None:
    options: dict[str, Any] = {
        "template": "{{ titel }} {{ nope }}",
        "key": "{{ id }",
        "where": "prize > 3",
        "name": "{idd}.png",
        "fill_down": ["Vendor"],
        "drop": ["nothing"],
    }
    message = refusal(["id", "title", "price"], **options)
    assert message.startswith('columns: 6 problems: (1) drop: no column "nothing"')
    for part in (
        'fill_down: no column "Vendor"',
        'where: no column "prize" (did you mean price?)',
        'template: no column "nope", no column "titel" (did you mean title?)',
        "key: '{{ id }': unexpected '}'",
        'name: no column "idd" (did you mean {id}?)',
    ):
        assert part in message


def test_a_prompt_mapped_to_nothing_needs_a_template() -> None:
    assert refusal(["prompt"], columns={"prompt": ""}).endswith("give --template too")
    assert chosen(["prompt"], columns={"prompt": ""}, template="a").prompt is None


# Tables as people have them


def test_a_shops_dimensions_are_no_pixels() -> None:
    cells = {
        "item_id": ["100", "102", "103"],
        "name": "STOL",
        "height": ["99", "64", None],
        "width": ["51", "128", None],
    }
    columns = chosen(cells, template="a {{name}}", columns={"key": "item_id"})
    assert (columns.key, columns.fields) == ("item_id", {})
    assert columns.passthrough == same("item_id", "name") | {"height": "height_1", "width": "width_1"}
    assert told(columns) == (
        "renamed, because the output has its own: height to height_1, width to width_1",
        "columns height and width are not used; if they are the images' size in pixels, "
        "give --map height=height --map width=width",
    )


def test_an_export_of_woocommerce_is_copied() -> None:
    names = ["ID", "Type", "SKU", "Name", "Width (cm)", "Height (cm)", "Images", "Attribute 1 value(s)"]
    cells = dict.fromkeys(names, "a") | {"Images": "https://a.invalid/a.jpg, https://a.invalid/b.jpg"}
    columns = chosen(cells, template="{{Name}}", columns={"key": "SKU"})
    assert columns.passthrough == same(*names)
    [note] = told(columns)
    assert "--map image=Images (--allow-urls" in note


def test_sizes_as_people_write_them_are_sizes() -> None:
    sizes = ["64*64", "64\u00d764", "64 x 64", "64X64", "1:1", "64x64", "64", "65x64"]
    assert chosen({"prompt": "a cup", "size": sizes}).fields == {"size": "size"}


def test_what_img2dataset_says_of_photos_is_copied() -> None:
    names = ["url", "caption", "key", "status", "width", "height", "original_width", "sha256"]
    cells = dict.fromkeys(names, "a") | {"width": [256, 256], "height": [256, 176]}
    columns = chosen(cells)
    assert (columns.prompt, columns.key, columns.fields) == ("caption", "key", {})
    assert columns.passthrough == same("url", "status", "original_width", "sha256") | {
        "width": "width_1",
        "height": "height_1",
    }
