"""Quality modes in tables: whose rows they are, what their data sets record, and what others keep."""

from pathlib import Path

import pytest

from pipelines.dataset.layout import PartPlaces
from pipelines.part_schema import COLUMN_NAMES
from tests.pipelines.plan_fixtures import DataSet, Row, products
from zimage_models.errors import InvalidRequest

OWN = ["quality_mode", "num_computed_steps"]


@pytest.fixture
def data_set(tmp_path: Path) -> DataSet:
    return DataSet(folder=tmp_path)


def told(data_set: DataSet) -> dict[str, tuple[str | None, int | None]]:
    return {
        row["key"]: (row.get("quality_mode"), row.get("num_computed_steps")) for row in data_set.published()
    }


def columns(data_set: DataSet) -> set[tuple[str, ...]]:
    places = PartPlaces(data_set.output)
    return {tuple(places.read_schema(part.path).names) for part in data_set.manifest().parts}


def test_a_column_sets_the_mode_row_by_row(data_set: DataSet) -> None:
    modes = ["fast", "exact", "", "high"]
    rows = [{**row, "quality_mode": mode} for row, mode in zip(products(4), modes, strict=True)]
    plan = data_set.plan(rows)
    schedules = [row["step_schedule"] for row in data_set.work(plan)]
    assert [schedule and len(schedule) for schedule in schedules] == [4, None, None, 6]
    assert plan.transformer_steps == 4 + 8 + 8 + 6
    data_set.make(plan)
    data_set.publish(plan)
    assert list(told(data_set).values()) == [("fast", 4), ("exact", 8), ("exact", 8), ("high", 6)]
    assert data_set.verify().problems == ()


def test_an_option_sets_it_where_a_row_does_not(data_set: DataSet) -> None:
    rows = [{**row, "quality_mode": mode} for row, mode in zip(products(2), ["exact", None], strict=True)]
    data_set.generate(rows, fields={"quality_mode": "fast"})
    assert list(told(data_set).values()) == [("exact", 8), ("fast", 4)]


@pytest.mark.parametrize("fields", [{}, {"quality_mode": "exact"}])
def test_exact_data_sets_have_the_columns_they_always_had(data_set: DataSet, fields: Row) -> None:
    first = data_set.generate(products(3))
    assert columns(data_set) == {(*COLUMN_NAMES, "sku", "brand")}
    assert data_set.generate(products(3), fields=fields) == first


def test_another_mode_is_another_image(data_set: DataSet) -> None:
    exact = data_set.generate(products(2))
    plan = data_set.plan(products(2), fields={"quality_mode": "fast"})
    assert plan.counts.new == 2
    data_set.make(plan)
    data_set.publish(plan, fields={"quality_mode": "fast"})
    assert columns(data_set) == {(*COLUMN_NAMES, "sku", "brand", *OWN)}
    # And back: the exact images are found again.
    assert data_set.plan(products(2)).counts.new == 0
    assert [part.sha256 for part in data_set.generate(products(2)).parts] == [p.sha256 for p in exact.parts]


def test_modes_can_be_appended_to_an_exact_data_set_and_the_other_way_round(data_set: DataSet) -> None:
    data_set.generate(products(2))
    fast = [{**row, "sku": f"fast-{row['sku']}"} for row in products(2)]
    data_set.generate(fast, append=True, fields={"quality_mode": "fast"})
    data_set.generate([{**products(1)[0], "sku": "later"}], append=True)
    assert told(data_set) == {
        "sku-000": ("exact", None),  # made before there was such a column
        "sku-001": ("exact", None),
        "fast-sku-000": ("fast", 4),
        "fast-sku-001": ("fast", 4),
        "later": ("exact", 8),
    }
    assert len(columns(data_set)) == 1
    assert data_set.verify().problems == ()


def test_a_row_without_a_schedule_is_refused_by_name(data_set: DataSet) -> None:
    rows = [{**row, "steps": steps} for row, steps in zip(products(2), [8, 9], strict=True)]
    plan = data_set.plan(rows, fields={"quality_mode": "high"})
    [error] = plan.rejected
    assert error.message.startswith(
        "quality_mode: 'high' has no schedule for 9 steps of tiny-zimage-turbo: it has schedules for 8 steps;"
    )
    with pytest.raises(InvalidRequest, match="has no schedule for 9 steps"):
        data_set.plan(rows, fields={"quality_mode": "high", "num_inference_steps": 9})


def test_a_column_called_quality_is_only_taken_by_map(data_set: DataSet) -> None:
    rows = [{**row, "quality": "fast"} for row in products(1)]
    plan = data_set.plan(rows)
    assert data_set.work(plan)[0]["quality_mode"] == "exact"
    assert any("--map quality_mode=quality" in hint for hint in plan.hints)
    mapped = data_set.plan(rows, columns={"quality_mode": "quality"})
    assert data_set.work(mapped)[0]["quality_mode"] == "fast"


def test_an_output_is_made_again_in_its_modes(data_set: DataSet, tmp_path: Path) -> None:
    data_set.generate(products(2), fields={"quality_mode": "fast"})
    [part] = data_set.manifest().parts
    again = DataSet(folder=tmp_path / "again")
    again.folder.mkdir()
    plan = again.plan(f"{data_set.uri}/{part.path}", drop=("image",))
    assert [row["quality_mode"] for row in again.work(plan)] == ["fast", "fast"]
    assert plan.passthrough.names == ["sku", "brand", *OWN]
