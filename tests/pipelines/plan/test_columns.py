import re
from collections.abc import Collection, Mapping

import pyarrow as pa
import pytest

from pipelines.plan.columns import ALIASES, RESERVED_COLUMNS, ColumnMap, map_columns
from zimage_models.errors import InvalidRequest


def mapped(
    *names: str,
    explicit: Mapping[str, str] | None = None,
    has_template: bool = False,
    drop: Collection[str] = (),
    **types: pa.DataType,
) -> ColumnMap:
    schema = pa.schema([(name, types.get(name, pa.string())) for name in names])
    return map_columns(schema, explicit=explicit or {}, has_template=has_template, drop=drop)


def refusal(*names: str, **arguments: object) -> str:
    with pytest.raises(InvalidRequest) as caught:
        mapped(*names, **arguments)  # type: ignore[arg-type]
    return str(caught.value)


def test_every_field_is_guessed_and_the_rest_passed_through() -> None:
    names = ("SKU", "caption", "steps", "Guidance", "seed", "size", "model", "n", "brand", "cfg")
    assert mapped(*names) == ColumnMap(
        prompt="caption",
        key="SKU",
        fields={
            "num_inference_steps": "steps",
            "guidance_scale": "Guidance",
            "seed": "seed",
            "size": "size",
        },
        pictures={},
        model="model",
        variants="n",
        passthrough=("SKU", "brand", "cfg"),
    )


@pytest.mark.parametrize(
    ("names", "prompt"),
    [
        (("text", "prompt"), "prompt"),
        (("Prompt", "prompt"), "prompt"),
        (("Caption", "text"), "text"),
        (("Caption", "Prompt"), "Prompt"),
        (("TEXT",), "TEXT"),
    ],
)
def test_best_spelled_name_is_taken(names: tuple[str, ...], prompt: str) -> None:
    assert mapped(*names).prompt == prompt


@pytest.mark.parametrize(
    ("names", "field"),
    [
        (("text", "caption"), "prompt"),
        (("Prompt", "PROMPT"), "prompt"),
        (("Prompt", "text"), "prompt"),
        (("Text", "Caption"), "prompt"),
        (("prompt", "id", "sku"), "key"),
        (("prompt", "n", "Variants"), "variants"),
    ],
)
def test_a_guess_that_could_go_two_ways_asks_for_map(names: tuple[str, ...], field: str) -> None:
    message = refusal(*names)
    assert f"--map {field}=COLUMN" in message
    assert all(repr(name) in message for name in names if name != "prompt")


def test_explicit_columns_go_before_guesses() -> None:
    columns = mapped(
        "prompt", "title", "id", "sku", explicit={"prompt": "title", "key": "sku"}, drop=["prompt"]
    )
    assert (columns.prompt, columns.key, columns.passthrough) == ("title", "sku", ("id", "sku"))


def test_a_column_mapped_explicitly_is_not_guessed_for_another_field() -> None:
    columns = mapped("text", "caption", explicit={"negative_prompt": "text"})
    assert (columns.prompt, columns.fields) == ("caption", {"negative_prompt": "text"})


def test_an_empty_map_turns_a_guess_off() -> None:
    columns = mapped("prompt", "size", "id", explicit={"size": "", "key": ""})
    assert (columns.fields, columns.key, columns.passthrough) == ({}, None, ("size", "id"))


def test_dropped_columns_are_neither_guessed_nor_passed_through() -> None:
    columns = mapped("prompt", "model", "seed", "brand", "sku", drop=["model", "seed", "sku"])
    assert columns == ColumnMap(
        prompt="prompt", key=None, fields={}, pictures={}, model=None, variants=None, passthrough=("brand",)
    )


def test_a_dropped_column_can_still_be_the_key() -> None:
    columns = mapped("prompt", "sku", explicit={"key": "sku"}, drop=["sku"])
    assert (columns.key, columns.passthrough) == ("sku", ())


def test_the_key_keeps_its_own_name_beside_ours() -> None:
    assert mapped("prompt", "sku").passthrough == ("sku",)
    assert mapped("prompt", "key").passthrough == ()


@pytest.mark.parametrize(
    ("name", "passthrough"), [("prompt", ()), ("caption", ("caption",)), ("title", ("title",))]
)
def test_a_template_needs_no_prompt_column(name: str, passthrough: tuple[str, ...]) -> None:
    columns = mapped(name, has_template=True)
    assert (columns.prompt, columns.passthrough) == (None, passthrough)


def test_a_template_and_a_mapped_prompt_are_refused() -> None:
    assert "both a template" in refusal("title", explicit={"prompt": "title"}, has_template=True)


def test_missing_prompt_lists_the_columns_and_the_ways_out() -> None:
    message = refusal("title", "sku")
    for part in ("'title', 'sku'", "--map prompt=COLUMN", "--template"):
        assert part in message


def test_prompts_are_taken_from_text_columns_only() -> None:
    assert mapped("text", "caption", text=pa.list_(pa.string())).prompt == "caption"
    assert mapped("text", text=pa.dictionary(pa.int32(), pa.string())).prompt == "text"
    assert "no text column" in refusal("prompt", prompt=pa.int64())


def test_keys_are_text_or_whole_numbers() -> None:
    assert mapped("prompt", "id", id=pa.int32()).key == "id"
    assert "column 'id' is double" in refusal("prompt", "id", id=pa.float64())


@pytest.mark.parametrize(
    ("explicit", "drop", "named"),
    [
        ({"promt": "title"}, (), "map: unknown field 'promt'; fields are 'prompt', 'key'"),
        ({"prompt": "name"}, (), "map: no column 'name'; columns are 'title', 'sku'"),
        ({"prompt": "title"}, ("name",), "drop: no column 'name'; columns are 'title', 'sku'"),
    ],
)
def test_unknown_names_list_what_there_is(
    explicit: dict[str, str], drop: tuple[str, ...], named: str
) -> None:
    assert named in refusal("title", "sku", explicit=explicit, drop=drop)


@pytest.mark.parametrize("name", sorted(RESERVED_COLUMNS - {"prompt"}))
def test_reserved_names_are_not_passed_through(name: str) -> None:
    explicit = {"prompt": "title"}
    if name in ALIASES:
        explicit[name] = ""  # or it would be mapped
    message = refusal("title", name, explicit=explicit)
    assert re.search(rf"column '{name}': the output has .*--drop {name}", message)
    assert mapped("title", name, explicit=explicit, drop=[name]).passthrough == ()


def test_a_name_that_only_looks_like_a_reserved_one_is_passed_through() -> None:
    assert mapped("prompt", "Unit_id", "row_digests").passthrough == ("Unit_id", "row_digests")


@pytest.mark.parametrize(
    "type_",
    [
        pa.string(),
        pa.binary(),
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        pa.list_(pa.string()),
        pa.large_list(pa.struct([("path", pa.string()), ("bytes", pa.binary())])),
    ],
    ids=str,
)
def test_columns_of_pictures_are_guessed(type_: pa.DataType) -> None:
    columns = mapped("instruction", "images", "Mask", "strength", "brand", images=type_)
    assert (columns.prompt, columns.pictures) == ("instruction", {"image": "images", "mask": "Mask"})
    assert columns.fields == {"strength": "strength"}
    assert columns.passthrough == ("brand",)


def test_mask_and_strength_mean_something_beside_images_only() -> None:
    columns = mapped("prompt", "mask", "strength")
    assert (columns.pictures, columns.fields) == ({}, {})
    assert columns.passthrough == ("mask", "strength")
    assert "mask: column 'm' has no effect without" in refusal("prompt", "m", explicit={"mask": "m"})
    assert mapped("prompt", "images", explicit={"image": ""}).passthrough == ("images",)


def test_control_images_need_no_others_and_their_scale_needs_them() -> None:
    columns = mapped("prompt", "conditioning_image", "controlnet_conditioning_scale")
    assert columns.pictures == {"control_image": "conditioning_image"}
    assert columns.fields == {"controlnet_conditioning_scale": "controlnet_conditioning_scale"}
    assert mapped("prompt", "controlnet_conditioning_scale").fields == {}
    assert "give --map control_image=COLUMN" in refusal(
        "prompt", "s", explicit={"controlnet_conditioning_scale": "s"}
    )
    assert "--drop control_sha256" in refusal("prompt", "control_image", "control_sha256")


def test_column_that_cannot_name_pictures_is_none_of_them() -> None:
    assert mapped("prompt", "images", images=pa.int64()).passthrough == ("images",)
    assert mapped("prompt", "images", images=pa.struct([("url", pa.string())])).pictures == {}


def test_names_of_what_an_image_is_made_from_are_taken_beside_images() -> None:
    assert "--drop mask_sha256" in refusal("prompt", "image", "mask_sha256")
    assert mapped("prompt", "mask_sha256").passthrough == ("mask_sha256",)
