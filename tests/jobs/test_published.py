"""What `zimage status`, `retry` and dry runs say of rows that cannot be made."""

import json
from pathlib import Path

import pytest

from tests.jobs.conftest import Zimage, published
from tests.jobs.test_generate import table, write_csv


@pytest.fixture(scope="module")
def failures(zimage: Zimage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Publish 40 rows of which 30 have no prompt and 2 come out blank, from the table's own folder."""
    folder = tmp_path_factory.mktemp("failures")
    rows = table(40)
    for row in rows[10:]:
        row["prompt"] = ""
    for row in rows[2:4]:
        row["prompt"] = "tile [fake: blank]"
    write_csv(folder / "table.csv", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert zimage("generate", "table.csv", "out", "--fake", "--progress", "json").code == 3
    return folder / "out"


def test_status_lists_every_row_that_failed(zimage: Zimage, failures: Path) -> None:
    header, *lines = zimage("status", failures, "--errors").out.splitlines()
    assert header.startswith("32 errors;")
    assert "row 0" in header, "what the numbers count from"
    assert [line.split(":")[0] for line in lines] == [
        f"row {row} (sku-{row:03d})" for row in (2, 3, *range(10, 40))
    ]
    assert "blank_image" in lines[0]
    assert "prompt" in lines[-1]


def test_status_lists_one_class_up_to_a_limit(zimage: Zimage, failures: Path) -> None:
    done = zimage("status", failures, "--errors", "--class", "bad_input", "--limit", 2)
    header, *lines, last = done.out.splitlines()
    assert header.startswith("30 errors;")
    assert [line.split(":")[:2] for line in lines] == [
        ["row 10 (sku-010)", " bad_input"],
        ["row 11 (sku-011)", " bad_input"],
    ]
    assert last == "and 28 more"


def test_status_gives_errors_as_json_lines(zimage: Zimage, failures: Path) -> None:
    lines = zimage("status", failures, "--errors", "--class", "blank_image", "--json").out.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["row"], row["key"], row["error_class"]) for row in rows] == [
        (2, "sku-002", "blank_image"),
        (3, "sku-003", "blank_image"),
    ]
    assert all(row["message"] for row in rows)


def test_class_without_errors_is_answered_with_those_that_have_some(zimage: Zimage, failures: Path) -> None:
    done = zimage("status", failures, "--errors", "--class", "bad-input")
    assert done.code == 2
    assert "bad_input, blank_image" in done.err


def test_retry_works_from_another_folder(
    zimage: Zimage, failures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = zimage("retry", failures, "--only", "blank_image", "--progress", "json")
    assert done.event("planned")["new"] == 2, done.err
    assert done.code == 3
    assert list(tmp_path.iterdir()) == []


def test_retry_of_a_class_that_does_not_exist_is_refused(zimage: Zimage, failures: Path) -> None:
    done = zimage("retry", failures, "--only", "blank")
    assert done.code == 2
    assert "only: 'blank' is not one of bad_input, fetch_failed, out_of_memory, blank_image" in done.err


@pytest.mark.parametrize(
    ("options", "num_shown", "rest"), [([], 20, "and 10 more"), (["--all-errors"], 30, None)]
)
def test_dry_run_says_how_many_rejected_rows_it_does_not_show(
    zimage: Zimage, failures: Path, options: list[str], num_shown: int, rest: str | None
) -> None:
    done = zimage("generate", failures.parent / "table.csv", failures, "--fake", "--dry-run", *options)
    assert done.code == 3, "as the run would end"
    shown = [line for line in done.err.splitlines() if line.startswith("row ")]
    assert len(shown) == num_shown
    assert ("more; " in done.err) is bool(rest)
    assert not rest or f"\n{rest}; " in done.err


def test_run_shows_its_first_rejected_rows(zimage: Zimage, failures: Path) -> None:
    done = zimage("generate", failures.parent / "table.csv", failures, "--fake")
    assert done.code == 3
    assert len([line for line in done.err.splitlines() if line.startswith("row ")]) == 3
    assert "and 27 more; zimage status" in done.err


def test_progress_and_manifest_tell_one_speed(zimage: Zimage, tmp_path: Path) -> None:
    source = write_csv(tmp_path / "table.csv", table(200))
    done = zimage("generate", source, tmp_path / "out", "--fake", "--progress", "json", "--commit-rows", 20)
    last = [event for event in done.events() if event["event"] == "progress"][-1]
    speed = done.event("published")["speed"]
    assert last["images_per_s"] == speed["images_per_s"] > 0
    assert last["generate_s"] == speed["generate_s"]
    assert last["eta_s"] == 0
    assert published(tmp_path / "out").manifest.speed == speed
