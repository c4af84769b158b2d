from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.dataset.manifest import RunManifest
from pipelines.dataset.parts import PartFile, write_part
from pipelines.dataset.verify import VerifyReport, verify
from pipelines.part_schema import ERROR_SCHEMA, part_schema
from tests.pipelines.plan_fixtures import DataSet, Row, failed_row, made_row, products


@pytest.fixture
def data_set(tmp_path: Path) -> DataSet:
    return DataSet(folder=tmp_path)


def problems(data_set: DataSet, manifest: RunManifest) -> tuple[str, ...]:
    return verify(data_set.output, manifest).problems


def write(data_set: DataSet, rows: list[Row]) -> PartFile:
    """Write rows of products with their images as a part."""
    schema = part_schema(pa.schema([("sku", pa.string()), ("brand", pa.string())]))
    return write_part(data_set.output, "data", pa.Table.from_pylist(rows, schema=schema))


def with_images(data_set: DataSet, num_rows: int) -> tuple[RunManifest, list[Row]]:
    """Publish some rows as one part; returns the manifest and the rows of that part."""
    plan = data_set.plan(products(num_rows))
    data_set.make(plan, rows_per_part=num_rows)
    return data_set.publish(plan), [made_row(row) for row in data_set.work(plan)]


def test_a_sound_set_has_no_problems(data_set: DataSet) -> None:
    rows = [*products(10), {"sku": "bad", "prompt": None}]
    plan = data_set.plan(rows, variants=2)
    data_set.make(plan, fails=lambda row: "blank_image" if row["row"] == 3 else None)
    manifest = data_set.publish(plan)
    report = verify(data_set.output, manifest)
    assert report == VerifyReport(num_parts=len(manifest.parts), num_images=18, num_failed=2, problems=())


def test_an_empty_set_has_no_problems(data_set: DataSet) -> None:
    report = verify(data_set.output, data_set.generate(products(2, steps=0)))
    assert report == VerifyReport(num_parts=0, num_images=0, num_failed=0, problems=())


def test_any_flipped_byte_is_found(data_set: DataSet) -> None:
    manifest, _ = with_images(data_set, 2)
    [part] = manifest.parts
    content = data_set.output.read(part.path)
    for place in range(0, len(content), 89):
        damaged = bytearray(content)
        damaged[place] ^= 0x40
        data_set.output.write(part.path, bytes(damaged))
        assert f"{part.path}: its content does not match its hash" in problems(data_set, manifest), place


def test_a_flipped_byte_of_an_image_names_the_image(data_set: DataSet) -> None:
    manifest, rows = with_images(data_set, 3)
    [part] = manifest.parts
    content = data_set.output.read(part.path)
    image = rows[1]["image"]["bytes"]
    place = content.index(image) + len(image) // 2
    data_set.output.write(part.path, content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    assert problems(data_set, manifest) == (
        f"{part.path}: its content does not match its hash",
        f"{part.path}: image of 'sku-001', variant 0: its bytes do not match its hash",
    )


def test_a_deleted_part_is_found(data_set: DataSet) -> None:
    manifest = data_set.generate(products(6))
    path = next(part.path for part in manifest.parts if part.num_rows == 2)
    data_set.output.delete(path)
    assert problems(data_set, manifest) == (
        f"{path}: missing",
        "'sku-004', variant 0: missing",
        "'sku-005', variant 0: missing",
    )


@pytest.mark.parametrize("num_bytes", [0, 3, 1000, -1])
def test_a_truncated_part_is_found(data_set: DataSet, num_bytes: int) -> None:
    manifest, _ = with_images(data_set, 1)
    [part] = manifest.parts
    data_set.output.write(part.path, data_set.output.read(part.path)[:num_bytes])
    hash_problem, unreadable, missing = problems(data_set, manifest)
    assert hash_problem == f"{part.path}: its content does not match its hash"
    assert unreadable.startswith(f"{part.path}: unreadable (")
    assert missing == "'sku-000', variant 0: missing"


@pytest.mark.parametrize("damage", ["cut", "no image", "none", "other bytes", "other size"])
def test_an_image_that_is_not_what_its_row_says_is_found(data_set: DataSet, damage: str) -> None:
    import hashlib

    manifest, rows = with_images(data_set, 3)
    row = rows[1]
    image = row["image"]["bytes"]
    changed = {"cut": image[:-30], "no image": b"hello", "none": None}.get(damage, image)
    row["image"] = row["image"] | {"bytes": changed}
    if changed is not None:
        row["image_sha256"] = hashlib.sha256(changed).hexdigest()
    if damage == "other bytes":
        row["image_sha256"] = "0" * 64
    if damage == "other size":
        row["width"] = 72
    part = write(data_set, rows)
    told = {
        "cut": "does not decode",
        "no image": "does not decode",
        "none": "missing",
        "other bytes": "its bytes do not match its hash",
        "other size": "is 64x64, not 72x64",
    }
    [problem] = problems(data_set, replace(manifest, parts=(part,)))
    assert problem.startswith(f"{part.path}: image of 'sku-001', variant 0: {told[damage]}")


def test_a_missing_unit_is_found(data_set: DataSet) -> None:
    manifest, rows = with_images(data_set, 3)
    part = write(data_set, rows[:2])
    assert problems(data_set, replace(manifest, parts=(part,))) == ("'sku-002', variant 0: missing",)


def test_a_unit_that_is_twice_is_found(data_set: DataSet) -> None:
    manifest, rows = with_images(data_set, 3)
    within = write(data_set, [rows[0], *rows])
    assert problems(data_set, replace(manifest, parts=(within,))) == ("'sku-000', variant 0: found 2 times",)
    across = (*manifest.parts, write(data_set, rows[2:]))
    assert problems(data_set, replace(manifest, parts=across)) == ("'sku-002', variant 0: found 2 times",)


def test_a_unit_that_is_made_and_failed_is_found(data_set: DataSet) -> None:
    manifest, rows = with_images(data_set, 2)
    failed = pa.Table.from_pylist([failed_row(rows[1], "blank_image")], schema=ERROR_SCHEMA)
    errors = (write_part(data_set.output, "errors", failed),)
    assert problems(data_set, replace(manifest, error_parts=errors)) == (
        "'sku-001', variant 0: found 2 times",
    )


def test_a_unit_that_nobody_planned_is_found(data_set: DataSet) -> None:
    manifest, rows = with_images(data_set, 2)
    part = write(data_set, [*rows, rows[0] | {"unit_id": "ab" * 16}])
    assert problems(data_set, replace(manifest, parts=(part,))) == ("1 units are published but not planned",)


def test_a_wrong_count_of_rows_is_found(data_set: DataSet) -> None:
    manifest, _ = with_images(data_set, 2)
    [part] = manifest.parts
    wrong = replace(manifest, parts=(replace(part, num_rows=3),))
    assert problems(data_set, wrong) == (f"{part.path}: 2 rows; the manifest says 3",)


@pytest.mark.parametrize("content", [None, b"", b"PAR1 and nothing more PAR1"])
def test_an_unreadable_work_table_is_found(data_set: DataSet, content: bytes | None) -> None:
    manifest, _ = with_images(data_set, 2)
    [path] = manifest.work_files
    if content is None:
        data_set.output.delete(path)
    else:
        data_set.output.write(path, content)
    [problem] = problems(data_set, manifest)
    assert problem.startswith("work table: unreadable (")


def test_a_damaged_part_of_errors_is_found(data_set: DataSet) -> None:
    manifest = data_set.generate([*products(1), {"sku": "bad", "prompt": None}])
    [part] = manifest.error_parts
    data_set.output.write(part.path, data_set.output.read(part.path)[:-5])
    assert f"{part.path}: its content does not match its hash" in problems(data_set, manifest)
