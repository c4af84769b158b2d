import itertools
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.dataset.layout import PartPlaces, published_path
from pipelines.dataset.manifest import RunManifest, manifest_path
from pipelines.dataset.parts import read_part
from pipelines.storage import StorageOptions
from tests.pipelines.part_tables import CATALOGUE
from tests.pipelines.plan_fixtures import DataSet, Row, products, write_table
from tests.s3_server import S3Server


@pytest.fixture
def data_set(tmp_path: Path) -> DataSet:
    return DataSet(folder=tmp_path)


def paths(manifest: RunManifest) -> set[str]:
    return {part.path for part in manifest.parts}


def keys(data_set: DataSet, path: str) -> list[str]:
    return [str(key) for key in PartPlaces(data_set.output).read(path, ["key"])["key"].to_pylist()]


def images(data_set: DataSet) -> dict[str, bytes]:
    return {f"{row['key']}/{row['variant']}": row["image"]["bytes"] for row in data_set.published()}


def check_whole(data_set: DataSet, num_images: int) -> None:
    """Make sure that every planned unit is published once, sound and of today's plan."""
    report = data_set.verify()
    assert report.problems == ()
    assert report.num_images == num_images


class TestParts:
    """Which parts are the data set."""

    def test_whole_parts_are_kept_as_they_are(self, data_set: DataSet) -> None:
        plan = data_set.plan(products(10))
        written = data_set.make(plan)
        manifest = data_set.publish(plan)
        assert set(manifest.parts) == {replace(part, path=published_path(part.path)) for part in written}
        assert (manifest.number, len(written)) == (1, 3)
        assert manifest.counts["published"] == 10
        assert manifest.counts["failed"] == manifest.counts["rejected"] == 0
        assert [row["sku"] for row in data_set.published()] == [row["sku"] for row in products(10)]
        check_whole(data_set, 10)

    def test_nothing_changed_keeps_the_manifest(self, data_set: DataSet) -> None:
        rows = [*products(10), {"sku": "bad", "prompt": None, "brand": "x"}]
        first = data_set.generate(rows)
        assert data_set.generate(rows) == first
        assert data_set.generate(random.Random(0).sample(rows, 11)[::-1]).parts == first.parts

    def test_a_changed_row_rewrites_its_part_alone(self, data_set: DataSet) -> None:
        rows = products(12)
        first = data_set.generate(rows)
        rows[5] = rows[5] | {"prompt": "a green pear"}
        plan = data_set.plan(rows)
        assert plan.counts.new == 1
        [new_part] = data_set.make(plan)
        second = data_set.publish(plan)
        assert second.number == 2
        [replaced] = paths(first) - paths(second)
        assert len(paths(first) & paths(second)) == 2
        [copied] = paths(second) - paths(first) - {published_path(new_part.path)}
        assert keys(data_set, replaced) == ["sku-004", "sku-005", "sku-006", "sku-007"]
        assert keys(data_set, copied) == ["sku-004", "sku-006", "sku-007"]
        assert [row["prompt"] for row in data_set.published()][4:7] == [
            "a red apple number 4",
            "a green pear",
            "a red apple number 6",
        ]
        check_whole(data_set, 12)

    def test_rows_that_are_gone_are_not_published(self, data_set: DataSet) -> None:
        data_set.generate(products(12))
        data_set.generate(products(6))
        assert [row["key"] for row in data_set.published()] == [f"sku-{i:03d}" for i in range(6)]
        check_whole(data_set, 6)

    def test_of_two_parts_with_the_same_units_one_is_kept(self, data_set: DataSet) -> None:
        plan = data_set.plan(products(4))
        work = data_set.work(plan)
        written = [data_set.write_rows(work, plan), data_set.write_rows(work[::-1], plan)]
        assert written[0].sha256 != written[1].sha256
        [part] = data_set.publish(plan).parts
        assert part.sha256 in {part.sha256 for part in written}
        check_whole(data_set, 4)

    def test_of_overlapping_parts_each_unit_is_kept_once(self, data_set: DataSet) -> None:
        plan = data_set.plan(products(9))
        work = data_set.work(plan)
        for start in (0, 2, 5):
            data_set.write_rows(work[start : start + 4], plan)
        manifest = data_set.publish(plan)
        assert sum(part.num_rows for part in manifest.parts) == 9
        check_whole(data_set, 9)

    def test_a_unit_that_is_twice_in_one_part_is_kept_once(self, data_set: DataSet) -> None:
        plan = data_set.plan(products(3))
        work = data_set.work(plan)
        data_set.write_rows([work[0], work[1], work[0], work[2], work[1]], plan)
        data_set.publish(plan)
        check_whole(data_set, 3)

    def test_a_late_part_adds_nothing(self, data_set: DataSet) -> None:
        plan = data_set.plan(products(5))
        [part] = data_set.make(plan, rows_per_part=5)
        first = data_set.publish(plan)
        # The same rows in another order, until a file comes before the published one.
        orders = itertools.permutations(data_set.work(plan))
        assert any(data_set.write_rows(rows, plan).path < part.path for rows in orders)
        data_set.write_rows(data_set.work(data_set.plan(products(2, prompt="something else"))), plan)
        assert data_set.manifest() == first
        check_whole(data_set, 5)
        assert data_set.generate(products(5)) == first

    def test_a_damaged_part_is_made_again(self, data_set: DataSet) -> None:
        first = data_set.generate(products(8))
        path = first.parts[0].path
        data_set.output.write(path, data_set.output.read(path)[:-9])
        assert data_set.generate(products(8)) == first
        check_whole(data_set, 8)

    def test_a_deleted_part_is_made_again(self, data_set: DataSet) -> None:
        first = data_set.generate(products(8))
        data_set.output.delete(first.parts[1].path)
        assert data_set.generate(products(8)) == first
        check_whole(data_set, 8)

    def test_a_plan_without_units_publishes_an_empty_set(self, data_set: DataSet) -> None:
        data_set.generate(products(3))
        manifest = data_set.generate(products(3, steps=0), replace=True)
        assert (manifest.number, manifest.parts, manifest.counts["rejected"]) == (2, (), 3)
        check_whole(data_set, 0)


class TestGenerations:
    """One current version after each change of settings."""

    def test_another_seed_replaces_all_and_the_old_one_comes_back(self, data_set: DataSet) -> None:
        rows = products(10)
        first = data_set.generate(rows)
        second = data_set.generate(rows, seed=1)
        assert not paths(first) & paths(second)
        check_whole(data_set, 10)
        plan = data_set.plan(rows)
        assert (plan.counts.new, plan.counts.unchanged) == (0, 10)
        third = data_set.publish(plan)
        assert (third.number, set(third.parts)) == (3, set(first.parts))
        check_whole(data_set, 10)

    @pytest.mark.parametrize(
        "changes", [{"seed": 1}, {"fields": {"size": "72x64"}}, {"variants": 2}], ids=str
    )
    def test_changed_settings_make_the_set_anew(self, data_set: DataSet, changes: dict[str, Any]) -> None:
        rows = products(5)
        data_set.generate(rows)
        data_set.generate(rows, **changes)
        check_whole(data_set, 5 * changes.get("variants", 1))

    def test_more_variants_keep_the_images_there_are(self, data_set: DataSet) -> None:
        rows = products(5)
        data_set.generate(rows)
        before = images(data_set)
        assert data_set.plan(rows, variants=3).counts.new == 10
        data_set.generate(rows, variants=3)
        assert before.items() <= images(data_set).items()
        check_whole(data_set, 15)

    def test_the_manifest_tells_run_model_and_options(self, data_set: DataSet) -> None:
        manifest = data_set.generate(products(2), seed=3)
        assert (manifest.model, manifest.variant, manifest.weights_sha256) == (
            "tiny-zimage-turbo",
            "turbo",
            "fake",
        )
        assert manifest.options["seed"] == 3
        assert manifest.run_id in manifest.work_files[0]
        assert set(manifest.versions) == {
            "zimage-ray",
            "ray",
            "torch",
            "diffusers",
            "transformers",
            "pyarrow",
        }
        assert manifest.speed == {"generate_s": 0.0, "images_per_s": 0.0}


class TestColumns:
    """What is published beside the images follows the table, without new images."""

    def check_refreshed(self, data_set: DataSet, rows: list[Row], num_rewritten: int, **changes: Any) -> None:
        before, first = images(data_set), data_set.manifest()
        plan = data_set.plan(rows, **changes)
        assert plan.counts.new == 0
        second = data_set.publish(plan, **changes)
        assert len(paths(second) - paths(first)) == num_rewritten
        assert sorted(images(data_set).values()) == sorted(before.values())
        check_whole(data_set, len(rows))

    def test_a_changed_value_refreshes_its_part(self, data_set: DataSet) -> None:
        rows = products(12)
        data_set.generate(rows)
        rows[6] = rows[6] | {"brand": "zenith"}
        self.check_refreshed(data_set, rows, num_rewritten=1)
        assert [row["brand"] for row in data_set.published()] == [row["brand"] for row in rows]

    def test_a_new_column_refreshes_every_part(self, data_set: DataSet) -> None:
        rows = products(12)
        data_set.generate(rows)
        rows = [row | {"price": number, "note": None} for number, row in enumerate(rows)]
        random.Random(0).shuffle(rows)
        self.check_refreshed(data_set, rows, num_rewritten=3)
        expected = {row["sku"]: (row["price"], row["brand"]) for row in rows}
        assert {r["sku"]: (r["price"], r["brand"]) for r in data_set.published()} == expected

    def test_a_column_less_refreshes_every_part(self, data_set: DataSet) -> None:
        data_set.generate(products(12))
        self.check_refreshed(data_set, products(12), num_rewritten=3, drop=("brand",))
        assert "brand" not in data_set.published()[0]

    def test_a_column_under_another_name_refreshes_every_part(self, data_set: DataSet) -> None:
        rows = products(12)
        data_set.generate(rows)
        rows = [{"sku": row["sku"], "prompt": row["prompt"], "maker": row["brand"]} for row in rows]
        self.check_refreshed(data_set, rows, num_rewritten=3)
        assert {part["maker"] for part in data_set.published()} == {"brand 0", "brand 1", "brand 2"}

    def test_another_key_and_name_need_no_new_image(self, data_set: DataSet) -> None:
        rows = products(4, seed=1)
        data_set.generate(rows)
        rows[2] = rows[2] | {"sku": "renamed"}
        self.check_refreshed(data_set, rows, num_rewritten=1)
        [row, *_] = data_set.published()
        assert (row["key"], row["image"]["path"]) == ("renamed", "renamed_00.png")

    def test_names_can_change(self, data_set: DataSet) -> None:
        data_set.generate(products(8))
        self.check_refreshed(data_set, products(8), num_rewritten=2, name="{brand}/{key}.png")
        assert data_set.published()[1]["image"]["path"] == "brand 1/sku-001.png"

    def test_every_type_of_column_survives_a_refresh(self, data_set: DataSet, tmp_path: Path) -> None:
        types = {"sku": pa.string(), "prompt": pa.string(), "seed": pa.int64()}
        schema = pa.schema([*types.items(), *((name, dtype) for name, (dtype, _) in CATALOGUE.items())])
        full = {name: value for name, (_, value) in CATALOGUE.items()}
        rows = [{"sku": str(i), "prompt": "x", "seed": i, **(full if i % 2 else {})} for i in range(6)]
        data_set.generate(write_table(tmp_path / "in.parquet", rows, schema))
        rows[0]["brand"] = "changed"
        data_set.generate(write_table(tmp_path / "in.parquet", rows, schema))
        names = ["seed", *CATALOGUE]
        expected = [{name: row.get(name) for name in names} for row in rows]
        assert [{name: row[name] for name in names} for row in data_set.published()] == expected
        check_whole(data_set, 6)

    def test_all_parts_have_one_schema(self, data_set: DataSet, tmp_path: Path) -> None:
        rows = products(8)
        for name, dtype in (("text", pa.string()), ("number", pa.int64())):
            schema = pa.schema([(column, pa.string()) for column in rows[0]] + [("note", dtype)])
            data_set.generate(write_table(tmp_path / f"{name}.parquet", rows, schema))
        rows[0]["prompt"] = "something else"
        manifest = data_set.generate(write_table(tmp_path / "number.parquet", rows, schema))
        schemas = [read_part(data_set.output, part.path).schema for part in manifest.parts]
        assert len(schemas) == 3
        assert all(schema.equals(schemas[0], check_metadata=True) for schema in schemas)
        assert schemas[0].field("note").type == pa.int64()


class TestErrors:
    """Rows that could not be made."""

    def test_rejected_and_failed_rows_are_listed_until_they_are_made(self, data_set: DataSet) -> None:
        rows = products(6)
        rows[1] = rows[1] | {"steps": 0}
        plan = data_set.plan(rows)
        data_set.make(plan, fails=lambda row: "blank_image" if row["row"] in (3, 4) else None)
        manifest = data_set.publish(plan)
        assert [(row["row"], row["key"], row["error_class"]) for row in data_set.errors()] == [
            (1, "sku-001", "bad_input"),
            (3, "sku-003", "blank_image"),
            (4, "sku-004", "blank_image"),
        ]
        assert data_set.errors()[0]["message"] == "num_inference_steps: 0 is outside 1..50"
        counts = manifest.counts
        assert (counts["published"], counts["failed"], counts["rejected"]) == (3, 2, 1)
        report = data_set.verify()
        assert (report.num_images, report.num_failed, report.problems) == (3, 2, ())

        plan = data_set.plan(rows, retried=["blank_image"])
        data_set.make(plan, fails=lambda row: "blank_image" if row["row"] == 4 else None)
        data_set.publish(plan)
        assert [row["key"] for row in data_set.errors()] == ["sku-001", "sku-004"]

        rows[1] = products(6)[1]
        plan = data_set.plan(rows, retried=None)
        data_set.make(plan)
        manifest = data_set.publish(plan)
        assert (manifest.error_parts, manifest.counts["published"]) == ((), 6)
        check_whole(data_set, 6)

    def test_the_same_errors_again_keep_the_manifest(self, data_set: DataSet) -> None:
        rows = [*products(40), {"sku": "bad", "prompt": None, "brand": "x"}]
        plan = data_set.plan(rows)
        data_set.make(plan, rows_per_part=3, fails=lambda row: "blank_image" if row["row"] % 2 else None)
        first = data_set.publish(plan)
        assert len(data_set.errors()) == 21
        for _ in range(3):
            assert data_set.publish(data_set.plan(rows)) == first

    def test_a_failed_unit_is_listed_under_todays_row_and_key(self, data_set: DataSet) -> None:
        rows = products(3, seed=1)
        plan = data_set.plan(rows)
        data_set.make(plan, fails=lambda row: "blank_image" if row["row"] == 0 else None)
        data_set.publish(plan)
        moved = [*rows[1:], rows[0] | {"sku": "renamed"}]
        data_set.generate(moved)
        assert [(row["row"], row["key"], row["error_class"]) for row in data_set.errors()] == [
            (2, "renamed", "blank_image")
        ]

    def test_failures_of_another_generation_are_not_listed(self, data_set: DataSet) -> None:
        plan = data_set.plan(products(4))
        data_set.make(plan, fails=lambda row: "blank_image" if row["row"] == 0 else None)
        data_set.publish(plan)
        assert data_set.generate(products(4), seed=1).error_parts == ()
        check_whole(data_set, 4)


class TestRaces:
    """Other runs publish into the same folder."""

    def test_a_commit_that_comes_second_starts_again(
        self, data_set: DataSet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = products(6)
        plans = [data_set.plan(rows, seed=seed) for seed in (0, 1)]
        for plan in plans:
            data_set.make(plan)
        create = data_set.output.create
        overtaken: list[RunManifest] = []

        def create_late(path: str, data: bytes) -> bool:
            if not overtaken:
                monkeypatch.setattr(data_set.output, "create", create)
                overtaken.append(data_set.publish(plans[1], seed=1))
            return create(path, data)

        monkeypatch.setattr(data_set.output, "create", create_late)
        manifest = data_set.publish(plans[0])
        assert (overtaken[0].number, manifest.number) == (1, 2)
        assert data_set.output.exists(manifest_path(1))
        assert data_set.manifest() == manifest
        assert manifest.run_id == plans[0].run_id
        check_whole(data_set, 6)

    def test_runs_that_publish_at_once_get_a_number_each(self, data_set: DataSet) -> None:
        rows = products(4)
        plans = [data_set.plan(rows, seed=seed) for seed in range(4)]
        for plan in plans:
            data_set.make(plan)
        together = threading.Barrier(len(plans))

        def publish(plan: Any) -> RunManifest:
            together.wait()
            return data_set.publish(plan)

        with ThreadPoolExecutor(len(plans)) as pool:
            manifests = list(pool.map(publish, plans))
        assert sorted(manifest.number for manifest in manifests) == [1, 2, 3, 4]
        assert data_set.manifest() == max(manifests, key=lambda manifest: manifest.number)
        check_whole(data_set, 4)

    def test_runs_that_publish_the_same_share_a_manifest(self, data_set: DataSet) -> None:
        plan = data_set.plan(products(4))
        data_set.make(plan)
        with ThreadPoolExecutor(4) as pool:
            manifests = list(pool.map(lambda _: data_set.publish(plan), range(4)))
        assert {manifest.number for manifest in manifests} == {1}
        check_whole(data_set, 4)


def test_s3_publishes_as_a_disk_does(tmp_path: Path, s3: S3Server, bucket: str) -> None:
    data_set = DataSet(
        folder=tmp_path, uri=f"{bucket}/set", storage=StorageOptions(s3_endpoint_url=s3.endpoint_url)
    )
    rows = [*products(8), {"sku": "bad", "prompt": None, "brand": "x"}]
    first = data_set.generate(rows)
    assert data_set.generate(rows) == first
    rows[5] = rows[5] | {"prompt": "a green pear", "brand": "zenith"}
    second = data_set.generate(rows)
    assert (second.number, len(paths(first) & paths(second))) == (2, 1)
    assert [row["key"] for row in data_set.errors()] == ["bad"]
    check_whole(data_set, 8)
    damaged = second.parts[0].path
    content = bytearray(data_set.output.read(damaged))
    content[len(content) // 2] ^= 1
    data_set.output.write(damaged, bytes(content))
    assert any(damaged in problem for problem in data_set.verify().problems)
    data_set.output.delete(damaged)
    assert f"{damaged}: missing" in data_set.verify().problems
