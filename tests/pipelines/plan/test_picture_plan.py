"""Plans over tables with pictures, and the stage that decodes what was planned."""

import base64
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.options import GenerateOptions
from pipelines.plan.picture_plan import picture_folder
from pipelines.plan.plan import Plan
from pipelines.run.picture_stage import PictureSettings, RowFailure, picture_stage, read_pictures
from pipelines.work_table import MADE_FROM_FIELDS, read_work, work_schema
from tests.controlnets import build_embedded_controlnet
from tests.picture_files import HOSTILE_FILES, file_of, noise, plain, png_of
from tests.pipelines.plan_fixtures import DataSet, Row, Table
from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.checkpoints.tiny import build_tiny_checkpoint
from zimage_models.config import EngineConfig
from zimage_models.errors import InvalidRequest
from zimage_models.image_files.image_codec import Encoding, encode_image
from zimage_models.image_files.image_inputs import ImageLimits, read_image
from zimage_models.image_files.xmp import GENERATED
from zimage_models.request_fields import GENERATION_FIELDS
from zimage_models.requests import build_request

RED, BLUE = file_of(plain(colour="red", size=(96, 64)), "png"), file_of(plain(colour="blue"), "jpeg")
MASK = file_of(plain("L", 255, size=(96, 64)), "png")


class PictureSet(DataSet):
    """A data set whose tables have columns of files' names, which a job has to ask for."""

    def options(self, table: Table, **changes: Any) -> GenerateOptions:
        names = set() if isinstance(table, str) else {name for row in table for name in row}
        fields = {"image", "mask", "strength", "height"} if "image" in names else set()
        columns = {name: name for name in names & fields} | changes.pop("columns", {})
        return super().options(table, columns=columns, **changes)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def data_set(tmp_path: Path) -> DataSet:
    for name, data in {"red.png": RED, "blue.jpg": BLUE, "mask.png": MASK}.items():
        (tmp_path / name).write_bytes(data)
    return PictureSet(folder=tmp_path, engine=EngineConfig(fake=True, model="tiny-zimage-base"))


@pytest.fixture
def controlled(data_set: DataSet, tmp_path: Path) -> DataSet:
    """Give the engine a ControlNet."""
    controlnet = build_embedded_controlnet(tmp_path / "controlnet")
    data_set.engine = replace(data_set.engine, controlnet=str(controlnet))
    return data_set


def rows(*images: Any, **same: Any) -> list[Row]:
    return [{"id": f"row-{i}", "prompt": "a pear", "image": image, **same} for i, image in enumerate(images)]


def messages(plan: Plan) -> dict[str | None, str]:
    return {error.key: f"{error.error_class}: {error.message}" for error in plan.rejected}


def decoded(data_set: DataSet, plan: Plan, **options: Any) -> pa.Table:
    options_ = data_set.options("in.jsonl", **options)
    work = read_work(data_set.output, plan.work_files, work_schema(plan.passthrough).names)
    settings = PictureSettings(
        access=options_.picture_access(plan.source_folder),
        output=data_set.output,
        folder=picture_folder(plan.run_id),
        spec=resolve_model(options_.engine),
    )
    return picture_stage(work, settings)


def failures(table: pa.Table) -> list[str | None]:
    found = read_pictures(table)
    return [f"{each.error_class}: {each}" if isinstance(each, RowFailure) else None for each in found]


# Planning


def test_a_row_says_what_it_is_made_from(data_set: DataSet) -> None:
    plan = data_set.plan(
        rows("red.png", "blue.jpg", None, mask=None, strength=0.5)[:2] + rows(*[None] * 3)[2:]
    )
    red, blue, none = data_set.work(plan)
    assert (red["width"], red["height"]) == (96, 64)
    assert (blue["width"], blue["height"]) == (48, 32)
    assert red["reference_images"] == [
        {"address": "red.png", "sha256": sha256(RED), "height": 64, "width": 96}
    ]
    assert red["reference_sha256"] == [sha256(RED)]
    assert (red["strength"], none["strength"]) == (0.5, None)
    assert (none["reference_sha256"], none["mask_sha256"], none["width"]) == ([], None, 64)


def test_references_are_read_at_the_size_that_a_request_gives_them(tmp_path: Path) -> None:
    # Past the model's own 64 x 64 px a reference shrinks, here to less than one may be given with.
    model = build_tiny_checkpoint(tmp_path / "edit", reads_references=True)
    data_set = PictureSet(folder=tmp_path, engine=EngineConfig(fake=True, model=str(model)))
    photo, tall, small = (file_of(noise(size), "png") for size in ((200, 100), (80, 300), (64, 64)))
    for name, data in {"photo.png": photo, "tall.png": tall, "small.png": small}.items():
        (tmp_path / name).write_bytes(data)
    for size in ({}, {"size": "96x64"}, {"height": 96}):
        plan = data_set.plan(rows(["photo.png", "tall.png", "small.png"], **size))
        [row] = read_pictures(decoded(data_set, plan))
        assert isinstance(row, dict), row
        spec = resolve_model(data_set.engine)
        images = [read_image(data, field="image", limits=ImageLimits()) for data in (photo, tall, small)]
        request = build_request(spec, {"prompt": "a pear", "seed": 0, "reference_images": images, **size})
        assert row["reference_images"] == request.reference_images
        [planned] = data_set.work(plan)
        assert (planned["height"], planned["width"]) == (request.height, request.width)


def test_a_table_without_images_is_planned_as_ever(data_set: DataSet) -> None:
    plan = data_set.plan([{"id": "a", "prompt": "a pear", "mask": "sales", "strength": 40}])
    assert plan.passthrough.names == ["id", "mask", "strength"]
    assert "reference_images" not in work_schema(plan.passthrough).names


def test_size_strength_and_default_strengths_are_resolved(data_set: DataSet) -> None:
    table = [
        *rows("red.png", size="64x64"),
        {"id": "masked", "prompt": "a pear", "image": "red.png", "mask": "mask.png"},
        {"id": "strong", "prompt": "a pear", "image": "red.png", "strength": 0.9},
    ]
    first, masked, strong = data_set.work(data_set.plan(table, fields={"strength": 0.4}))
    assert (first["width"], first["height"], first["strength"]) == (64, 64, 0.4)
    assert (masked["mask_sha256"], masked["strength"]) == (sha256(MASK), 0.4)
    assert strong["strength"] == 0.9
    first, masked, strong = data_set.work(data_set.plan(table))
    assert (first["strength"], masked["strength"], strong["strength"]) == (0.6, 1.0, 0.9)


def test_settings_of_pictures_without_any_are_bad_usage(data_set: DataSet) -> None:
    needs = {"strength": "reference_images", "controlnet_conditioning_scale": "control_image"}
    for field, needed in needs.items():
        with pytest.raises(InvalidRequest, match=rf"{field}: 0\.5 has no effect without {needed}"):
            data_set.plan([{"id": "a", "prompt": "a pear"}], fields={field: 0.5})


def ids(data_set: DataSet, table: Any, **changes: Any) -> list[str]:
    return [row["unit_id"] for row in data_set.work(data_set.plan(table, **changes))]


def test_unit_id_is_of_the_bytes_and_not_of_the_address(data_set: DataSet, tmp_path: Path) -> None:
    [before] = ids(data_set, rows("red.png"))
    (tmp_path / "moved.png").write_bytes(RED)
    url = f"data:image/png;base64,{base64.b64encode(RED).decode()}"
    for same in ("moved.png", url, str(tmp_path / "red.png")):
        assert ids(data_set, rows(same)) == [before]
    (tmp_path / "red.png").write_bytes(file_of(plain(colour="red", size=(96, 64)), "png", compress_level=0))
    assert ids(data_set, rows("red.png")) != [before]
    others = [rows("moved.png", strength=0.5), rows("moved.png", mask="mask.png"), rows("blue.jpg")]
    assert len({before, *(unit for table in others for unit in ids(data_set, table))}) == 4


def test_a_control_image_guides_alone_or_paints_in_an_image(controlled: DataSet) -> None:
    guided = {"id": "guided", "prompt": "a pear", "control_image": "blue.jpg"}
    painted = {**guided, "id": "painted", "image": "red.png", "mask": "mask.png", "control_image": "red.png"}
    started = {"id": "started", "prompt": "a pear", "image": "red.png", "control_image": None}
    plan = controlled.plan(
        [guided, painted | {"controlnet_conditioning_scale": 0.4}, started],
        fields={"controlnet_conditioning_scale": 1.5},
    )
    assert plan.rejected == ()
    settings = [(row["controlnet_conditioning_scale"], row["strength"]) for row in controlled.work(plan)]
    assert settings == [(1.5, None), (0.4, None), (None, 0.6)]
    hashes = [(row["control_sha256"], row["reference_sha256"]) for row in controlled.work(plan)]
    assert hashes == [(sha256(BLUE), []), (sha256(RED), [sha256(RED)]), (None, [sha256(RED)])]
    table = decoded(controlled, plan)
    spec = resolve_model(controlled.engine)
    for work, found in zip(controlled.work(plan), read_pictures(table), strict=True):
        assert isinstance(found, dict), found
        request = build_request(spec, {name: work[name] for name in GENERATION_FIELDS} | found)
        assert (request.width, request.height) == (work["width"], work["height"])
        assert {name: getattr(request, name) for name in found} == found
    # It guides as a reference does, and is an ingredient as that is; a mask is none.
    ingredients = [[each["sha256"] for each in cell] for cell in table["ingredients"].to_pylist()]
    assert ingredients == [[sha256(BLUE)], [sha256(RED), sha256(RED)], [sha256(RED)]]


def test_units_differ_by_control_image_and_scale_and_those_without_are_as_ever(
    controlled: DataSet, tmp_path: Path
) -> None:
    plain_row = {"id": "row", "prompt": "a pear", "image": None}
    started, guided = {**plain_row, "image": "red.png"}, {**plain_row, "control_image": "red.png"}
    before = ids(controlled, [plain_row]) + ids(controlled, [started])
    after = ids(controlled, [{**plain_row, "control_image": None}])
    assert after + ids(controlled, [{**started, "control_image": None}]) == before
    (tmp_path / "moved.png").write_bytes(RED)
    same = ids(controlled, [guided]) + ids(controlled, [{**guided, "control_image": "moved.png"}])
    assert len(set(same)) == 1
    scaled = ids(controlled, [guided], fields={"controlnet_conditioning_scale": 0.4})
    other = ids(controlled, [{**guided, "control_image": "blue.jpg", "size": "96x64"}])
    assert len({*before, *same, *scaled, *other}) == 5


def test_bad_control_images_are_row_errors(controlled: DataSet, tmp_path: Path) -> None:
    def row(key: str, control: Any, **more: Any) -> Row:
        return {"id": key, "prompt": "a pear", "control_image": control, **more}

    # Its head is fine: only the decoding finds it out.
    (tmp_path / "damaged.png").write_bytes(png_of((64, 64), (b"IDAT", b"not zlib")))
    table = [
        row("fine", "red.png"),
        row("two", ["red.png", "blue.jpg"]),
        row("gone", "none.png"),
        row("foreign", "controlnet/config.json"),
        row("no mask", "red.png", image="red.png"),
        row("started", "red.png", image="red.png", mask="mask.png", strength=0.5),
        row("scale", "red.png", controlnet_conditioning_scale=3),
        row("scale alone", None, controlnet_conditioning_scale=1),
        row("damaged", "damaged.png"),
    ]
    plan = controlled.plan(table)
    assert [each["key"] for each in controlled.work(plan)] == ["fine", "damaged"]
    assert messages(plan) == {
        "two": "bad_input: control_image: 2 given; the limit is 1",
        "gone": "fetch_failed: control_image: 'none.png' cannot be read (No such file or directory)",
        "foreign": "bad_input: control_image: not a readable PNG, JPEG or WebP image",
        "no mask": "bad_input: image: with control_image, a mask of where to paint is required",
        "started": "bad_input: strength: 0.5 has no effect with control_image: painting starts from noise",
        "scale": "bad_input: controlnet_conditioning_scale: 3 is outside 0..2",
        "scale alone": "bad_input: controlnet_conditioning_scale: 1 has no effect without control_image",
    }
    fine, damaged = failures(decoded(controlled, plan))
    assert fine is None
    assert (damaged or "").startswith("bad_input: control_image: damaged or cut off")


def test_control_images_need_a_controlnet(data_set: DataSet) -> None:
    table = [{"id": key, "prompt": "a pear", "control_image": key} for key in ("red.png", None)]
    plan = data_set.plan([{**row, "id": str(row["id"])} for row in table])
    assert [row["key"] for row in data_set.work(plan)] == ["None"]
    assert messages(plan) == {"red.png": "bad_input: control_image: this base engine has no ControlNet"}


def test_rows_without_keys_differ_by_their_images(data_set: DataSet) -> None:
    table = [{"prompt": "a pear", "image": image} for image in ("red.png", "blue.jpg", "red.png")]
    plan = data_set.plan(table)
    keys = [row["key"] for row in data_set.work(plan)]
    assert keys[2] == f"{keys[0]}-2"
    assert keys[1] != keys[0]


def test_nothing_is_to_do_for_a_published_table_and_one_row_for_a_changed_image(
    data_set: DataSet, tmp_path: Path
) -> None:
    table = rows("red.png", "blue.jpg", "red.png")
    plan = data_set.plan(table)
    data_set.make(plan)
    data_set.publish(plan)
    published = data_set.published()
    assert [row["reference_sha256"] for row in published] == [[sha256(RED)], [sha256(BLUE)], [sha256(RED)]]
    assert [row["strength"] for row in published] == [0.6] * 3
    assert data_set.plan(table).counts.new == 0
    (tmp_path / "blue.jpg").write_bytes(file_of(plain(colour="green"), "jpeg"))
    assert data_set.plan(table).counts.new == 1


def test_rows_made_before_the_table_had_images_are_taken_over(data_set: DataSet) -> None:
    plain_rows = [{key: row[key] for key in ("id", "prompt")} for row in rows(None, None)]
    data_set.generate(plain_rows)
    table = [*rows("red.png"), plain_rows[1]]
    assert data_set.plan(table).counts.unchanged == 1
    data_set.generate(table)
    assert [row["reference_sha256"] for row in data_set.published()] == [[sha256(RED)], []]
    assert data_set.verify().problems == ()


def test_cells_of_parquet(data_set: DataSet, tmp_path: Path) -> None:
    cells = [
        pa.array([RED, BLUE]),
        pa.array([{"bytes": RED, "path": "x.png"}, {"bytes": None, "path": "blue.jpg"}]),
        pa.array([["red.png"], ["blue.jpg"]]),
        pa.array(["red.png", "blue.jpg"]),
    ]
    units = set()
    for cell in cells:
        table = pa.table({"id": ["a", "b"], "prompt": ["p", "p"], "image": cell, "price": [1, 2]})
        pq.write_table(table, tmp_path / "table.parquet")
        plan = data_set.plan(str(tmp_path / "table.parquet"), columns={"image": "image"})
        assert plan.rejected == ()
        assert plan.passthrough.names[:2] == ["id", "price"]
        units.add(tuple(row["unit_id"] for row in data_set.work(plan)))
        assert failures(decoded(data_set, plan)) == [None, None]
    assert len(units) == 1


def test_cells_of_csv_and_an_openai_batch(data_set: DataSet, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("id,instruction,images\nrow-0,a pear,red.png\n")
    [expected] = ids(data_set, rows("red.png"))
    assert ids(data_set, str(tmp_path / "table.csv"), columns={"image": "images"}) == [expected]
    line = (
        '{"custom_id": "%s", "method": "POST", "url": "/v1/images/edits", "body": {"prompt": "a pear", %s}}\n'
    )
    url = f"data:image/png;base64,{base64.b64encode(RED).decode()}"
    lines = [
        ("row-0", f'"images": [{{"image_url": "{url}"}}]'),
        ("b", '"image": "red.png", "mask": "mask.png", "strength": 0.3'),
        ("c", '"image": {"file_id": "file-1"}'),
        ("d", '"n": 1'),
        ("e", '"control_image": "red.png", "controlnet_conditioning_scale": 0.3'),
    ]
    (tmp_path / "batch.jsonl").write_text("".join(line % each for each in lines))
    plan = data_set.plan(str(tmp_path / "batch.jsonl"))
    first, second = data_set.work(plan)
    assert first["unit_id"] == expected
    assert (second["strength"], second["mask_sha256"]) == (0.3, sha256(MASK))
    told = messages(plan)
    assert "only image_url" in told["c"]
    assert "body.image: missing" in told["d"]
    assert told["e"] == "bad_input: control_image: this base engine has no ControlNet"


def test_bad_pictures_are_row_errors_beside_good_rows(data_set: DataSet, tmp_path: Path) -> None:
    (tmp_path.parent / "outside.png").write_bytes(RED)
    table = rows(
        "red.png", "none.png", "../outside.png", "/etc/passwd", "http://127.0.0.1/a.png", 7, ["red.png"] * 2,
        "file:///etc/passwd", "s3:/odd", [""],
    )  # fmt: skip
    table += [
        {"id": "mask of another size", "prompt": "a pear", "image": "blue.jpg", "mask": "mask.png"},
        {"id": "mask alone", "prompt": "a pear", "mask": "mask.png"},
        {"id": "strength", "prompt": "a pear", "image": "red.png", "strength": 7},
    ]
    plan = data_set.plan(table)
    assert [row["key"] for row in data_set.work(plan)] == ["row-0"]
    expected = {
        "row-1": "fetch_failed: image: 'none.png' cannot be read (No such file or directory)",
        "row-2": "bad_input: image: '../outside.png' is outside",
        "row-3": "bad_input: image: '/etc/passwd' is outside",
        "row-4": "bad_input: image: 'http://127.0.0.1/a.png' is a URL; URLs are fetched only with",
        "row-5": "fetch_failed: image: '7' cannot be read (No such file or directory)",
        "row-6": "bad_input: image: 2 images; base takes at most 1",
        "row-7": "bad_input: image: 'file:///etc/passwd' is not a picture address",
        "row-8": "fetch_failed: image: 's3:/odd' cannot be read",
        "row-9": "bad_input: image: '' (str) is not a picture",
        "mask of another size": "bad_input: mask: 96x64 px is not the size of the reference image, 48x32 px",
        "mask alone": "bad_input: mask: ",
        "strength": "bad_input: strength: 7 is outside 0..1",
    }
    told = messages(plan)
    assert told.keys() == expected.keys()
    assert {
        key: message for key, message in told.items() if not message.startswith(expected[key or ""])
    } == {}


def test_another_root_may_be_named(data_set: DataSet, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(BLUE)
    plan = data_set.plan(rows("a.png", "../red.png"), image_root=str(tmp_path / "photos"))
    assert len(data_set.work(plan)) == 1
    assert "is outside" in messages(plan)["row-1"]


def test_limit_and_filter_come_before_any_file_is_read(data_set: DataSet) -> None:
    table = rows("red.png", "none.png", "none.png")
    assert data_set.plan(table, limit=1).counts.rejected == 0
    assert data_set.plan(table, where="id == 'row-0'").counts.rejected == 0


# Decoding


def test_hostile_files_are_errors_when_planned_or_when_decoded(data_set: DataSet, tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": [str(i) for i in range(len(HOSTILE_FILES) + 1)],
            "prompt": ["a pear"] * (len(HOSTILE_FILES) + 1),
            "image": [RED, *(data for data, _ in HOSTILE_FILES)],
        }
    )
    pq.write_table(table, tmp_path / "table.parquet")
    plan = data_set.plan(str(tmp_path / "table.parquet"))
    refused = messages(plan)
    work = data_set.work(plan)
    told = refused | dict(zip((row["key"] for row in work), failures(decoded(data_set, plan)), strict=True))
    assert told.pop("0") is None
    assert len(told) == len(HOSTILE_FILES)
    for index, (data, _) in enumerate(HOSTILE_FILES, start=1):
        assert (told[str(index)] or "").startswith("bad_input: image: "), (index, data[:20], told[str(index)])


def test_pictures_are_decoded_and_fitted(data_set: DataSet) -> None:
    plan = data_set.plan(
        [
            *rows("red.png"),
            {"id": "masked", "prompt": "a pear", "image": "red.png", "mask": "mask.png", "size": "64x64"},
            {"id": "none", "prompt": "a pear"},
        ]
    )
    table = decoded(data_set, plan)
    red, masked, none = read_pictures(table)
    assert isinstance(red, dict) and isinstance(masked, dict) and isinstance(none, dict)  # noqa: PT018
    assert (red["reference_images"][0].pixels == np.array([255, 0, 0])).all()
    assert red["reference_images"][0].pixels.shape == (64, 96, 3)
    assert masked["mask"].pixels.shape == masked["reference_images"][0].pixels.shape[:2] == (64, 64)
    assert (none["reference_images"], none["mask"], none["strength"]) == ((), None, None)
    assert [ingredient["sha256"] for ingredient in table["ingredients"][0].as_py()] == [sha256(RED)]


def test_marks_of_the_picture_go_with_the_row(data_set: DataSet, tmp_path: Path) -> None:
    generated = encode_image(np.asarray(noise()), Encoding(), parameters={})
    (tmp_path / "generated.png").write_bytes(generated)
    [ingredients] = decoded(data_set, data_set.plan(rows("generated.png")))["ingredients"].to_pylist()
    assert ingredients[0]["digital_source_type"] == GENERATED


def test_a_file_that_changed_since_the_plan_is_an_error(data_set: DataSet, tmp_path: Path) -> None:
    plan = data_set.plan(rows("red.png", "blue.jpg"))
    (tmp_path / "red.png").write_bytes(BLUE)
    told, fine = failures(decoded(data_set, plan))
    assert told == "fetch_failed: image: the file has changed since the run was planned; run again"
    assert fine is None


def test_an_image_in_a_table_is_stored_once_and_only_if_it_is_to_be_made(
    data_set: DataSet, tmp_path: Path
) -> None:
    table = pa.table({"id": ["a", "b", "c"], "prompt": ["p", "q", "r"], "image": [RED, RED, BLUE]})
    pq.write_table(table, tmp_path / "table.parquet")
    plan = data_set.plan(str(tmp_path / "table.parquet"))
    files = data_set.output.list(picture_folder(plan.run_id))
    assert {Path(file.path).name for file in files} == {sha256(RED), sha256(BLUE)}
    data_set.output.delete(f"{picture_folder(plan.run_id)}/{sha256(BLUE)}")
    first, second, lost = failures(decoded(data_set, plan))
    assert (first, second) == (None, None)
    assert (lost or "").startswith("fetch_failed: image: ")
    data_set.make(plan)
    again = data_set.plan(str(tmp_path / "table.parquet"))
    assert again.counts.new == 0
    assert data_set.output.list(picture_folder(again.run_id)) == []


def test_steps_of_a_plan_are_those_really_run(data_set: DataSet) -> None:
    fields = {"num_inference_steps": 10, "guidance_scale": 1.0}
    plan = data_set.plan(rows("red.png", strength=0.5), fields=fields)
    assert plan.transformer_steps == 2 * 5


# Our own output as a table


@pytest.mark.parametrize("pictures", [(None, None), ("red.png", "red.png")])
@pytest.mark.parametrize("model", ["turbo", "base", "edit"])
def test_our_own_images_are_edited_in_one_round(
    data_set: DataSet, pictures: tuple[Any, ...], model: str
) -> None:
    data_set.engine = replace(data_set.engine, model="tiny-zimage-turbo")
    data_set.generate(rows(*pictures, brand="Acme"))
    engine = replace(data_set.engine, model=f"tiny-zimage-{model}")
    edits = DataSet(folder=data_set.folder, uri=str(data_set.folder / "edits"), engine=engine)
    edits.generate(str(data_set.folder / "out" / "data"))
    before, after = data_set.published(), edits.published()
    assert [row["key"] for row in after] == [row["key"] for row in before]
    assert [row["reference_sha256"] for row in after] == [[row["image_sha256"]] for row in before]
    assert [row["brand"] for row in after] == ["Acme", "Acme"]
    assert after[0].keys() - before[0].keys() <= {field.name for field in MADE_FROM_FIELDS}
