import logging
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.dataset.layout import PartPlaces, part_name
from pipelines.dataset.ledger import finished_units, scan_parts
from pipelines.dataset.parts import write_part
from pipelines.unit_ids import FinishedUnits
from tests.pipelines.plan_fixtures import DataSet, Row, products


@pytest.fixture
def data_set(tmp_path: Path) -> DataSet:
    return DataSet(folder=tmp_path)


def make_some(data_set: DataSet) -> list[Row]:
    """Make 12 rows in 3 parts, but for three that fail in two ways; returns the work."""
    classes = {0: "out_of_memory", 5: "blank_image", 6: "blank_image"}
    plan = data_set.plan(products(12))
    data_set.make(plan, fails=lambda row: classes.get(row["row"]))
    return data_set.work(plan)


def numbers(work: list[Row], finished: FinishedUnits) -> tuple[list[int], list[int]]:
    """Return the rows that are made, and those that failed."""
    ids = pa.array([row["unit_id"] for row in work])
    made, failed = (index.contains(ids).nonzero()[0].tolist() for index in (finished.made, finished.failed))
    return made, failed


def test_parts_say_what_is_made_and_what_failed(data_set: DataSet) -> None:
    work = make_some(data_set)
    made, failed = numbers(work, finished_units(data_set.output))
    assert made == [1, 2, 3, 4, 7, 8, 9, 10, 11]
    assert failed == [0, 5, 6]


def test_classes_to_retry_count_as_unfinished(data_set: DataSet) -> None:
    work = make_some(data_set)
    for classes, expected in (
        (["blank_image"], [0]),
        (["out_of_memory"], [5, 6]),
        (["blank_image", "out_of_memory"], []),
        (["bad_input"], [0, 5, 6]),
        (None, []),
    ):
        finished = finished_units(data_set.output, retried_classes=classes)
        assert numbers(work, finished)[1] == expected, classes


def test_rejected_rows_are_no_failed_units(data_set: DataSet) -> None:
    data_set.generate([*products(2), {"sku": "bad", "prompt": None}])
    assert len(data_set.errors()) == 1
    assert len(finished_units(data_set.output).failed) == 0


def test_nothing_is_finished_at_first(data_set: DataSet) -> None:
    finished = finished_units(data_set.output, retried_classes=None)
    assert (len(finished.made), len(finished.failed)) == (0, 0)


@pytest.mark.parametrize("damage", ["empty", "cut", "no parquet", "flipped footer", "flipped page"])
def test_a_damaged_part_is_passed_over_with_a_warning(
    data_set: DataSet, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    plan = data_set.plan(products(8))
    first, second = data_set.make(plan)
    content = bytearray(data_set.output.read(first.path))
    if damage == "flipped footer":
        content[-200:-100] = b"\xff" * 100
    elif damage == "flipped page":
        content[4:104] = b"\xff" * 100
    cut = {"empty": b"", "cut": content[:-50], "no parquet": b"<html>Service Unavailable</html>"}
    data_set.output.write(first.path, bytes(cut.get(damage, content)))
    with caplog.at_level(logging.WARNING):
        finished = finished_units(data_set.output)
    assert f"{first.path} is skipped" in caplog.text
    assert second.path not in caplog.text
    assert numbers(data_set.work(plan), finished)[0] == [4, 5, 6, 7]
    assert data_set.plan(products(8)).counts.new == 4


def test_a_part_without_units_is_passed_over(data_set: DataSet, caplog: pytest.LogCaptureFixture) -> None:
    [part] = data_set.make(data_set.plan(products(2)))
    foreign = write_part(data_set.output, "data", pa.table({"text": ["hello"]}))
    with caplog.at_level(logging.WARNING):
        scanned = list(scan_parts(PartPlaces(data_set.output), ["unit_id"]))
    assert [file.path for file, _ in scanned] == [part.path]
    assert f"{foreign.path} is skipped" in caplog.text


def test_parts_come_in_order_of_path_but_for_the_first_ones(data_set: DataSet) -> None:
    parts = sorted(part.path for part in data_set.make(data_set.plan(products(20))))
    first = [part_name(parts[3]), part_name(parts[1])]

    def scanned(**options: list[str]) -> list[str]:
        return [file.path for file, _ in scan_parts(PartPlaces(data_set.output), ["key"], **options)]

    assert scanned() == parts
    assert scanned(first=first) == [parts[1], parts[3], parts[0], parts[2], parts[4]]


def test_parts_count_at_any_depth_and_other_files_do_not(data_set: DataSet) -> None:
    [part] = data_set.make(data_set.plan(products(2)))
    data_set.output.write(f"data/moved/{part.path.split('/')[1]}", data_set.output.read(part.path))
    data_set.output.delete(part.path)
    data_set.output.write("data/notes.parquet", b"x")
    [(file, table)] = scan_parts(PartPlaces(data_set.output), ["unit_id", "key"])
    assert file.path.startswith("data/moved/")
    assert table["key"].to_pylist() == ["sku-000", "sku-001"]
