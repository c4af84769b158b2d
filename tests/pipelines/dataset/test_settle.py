"""A data set's folder shows exactly the newest generation, whatever happens on the way."""

import io
import json
import shutil
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.dataset.layout import PartPlaces
from pipelines.dataset.manifest import RunManifest, read_manifest
from pipelines.dataset.settle import settle
from pipelines.storage import Storage, StorageOptions
from tests.pipelines.dataset.killed_storage import Killed, KilledStorage, Moment
from tests.pipelines.plan_fixtures import DataSet, Row, products
from tests.s3_server import S3Server

BOTH: tuple[str, ...] = ("files", "webdataset")


@pytest.fixture
def data_set(tmp_path: Path) -> DataSet:
    return DataSet(folder=tmp_path)


def paths(storage: Storage, folder: str) -> list[str]:
    return [file.path for file in storage.list(folder)]


def samples(storage: Storage, shard: str) -> list[tuple[str, str, bytes]]:
    """Read the key, prompt and image of each sample of a shard."""
    with tarfile.open(fileobj=io.BytesIO(storage.read(shard))) as tar:
        files = [tar.extractfile(name) for name in tar.getnames()]
        contents = [file.read() for file in files if file]
    triples = zip(contents[0::3], contents[1::3], contents[2::3], strict=True)
    return [(json.loads(facts)["key"], prompt.decode(), image) for image, facts, prompt in triples]


def assert_card_works(storage: Storage) -> None:
    """Check that `load_dataset` finds every file that the card lists."""
    if not storage.exists("README.md"):
        return
    facts = yaml.safe_load(storage.read("README.md").decode().split("---\n")[1])
    listed = facts["configs"][0]["data_files"][0]["path"]
    assert set([listed] if isinstance(listed, str) else listed) <= {
        *paths(storage, "data"),
        "data/part-*.parquet",
    }


def assert_shows(data_set: DataSet, rows: Sequence[Row], exports: Sequence[str] = BOTH) -> None:
    """Check that everything that readers look into holds exactly these rows."""
    output, manifest = data_set.output, data_set.manifest()
    expected = sorted((row["sku"], row["prompt"]) for row in rows)
    assert data_set.verify().problems == ()
    assert paths(output, "data") == sorted(part.path for part in manifest.parts)
    tables = [pq.read_table(io.BytesIO(output.read(path))) for path in paths(output, "data")]
    held = [row for table in tables for row in table.to_pylist()]
    assert sorted((row["key"], row["prompt"]) for row in held) == expected
    images = {f"images/{row['image']['path']}": row["image"]["bytes"] for row in held if "files" in exports}
    assert paths(output, "images") == sorted(images)
    assert all(output.read(path) == image for path, image in images.items())
    shards = paths(output, "webdataset")
    made = [sample for shard in shards for sample in samples(output, shard)]
    in_shards = expected if "webdataset" in exports else []
    assert sorted((key, prompt) for key, prompt, _ in made) == in_shards
    assert_card_works(output)
    assert output.read("_SUCCESS") == manifest.path.encode()


def change(rows: list[Row]) -> list[Row]:
    """Change one row's image and one's brand, drop a row, and add one."""
    changed = [dict(row) for row in rows[:-1]]
    changed[0]["prompt"] = "a green pear"
    changed[1]["brand"] = "zenith"
    return [*changed, {"sku": "new", "prompt": "an owl", "brand": "brand 0"}]


class TestFolder:
    """What lies where after each run."""

    def test_what_is_superseded_goes_to_the_history_and_comes_back(self, data_set: DataSet) -> None:
        rows = products(10)
        first = data_set.generate(rows, exports=BOTH)
        assert_shows(data_set, rows)
        changed = change(rows)
        data_set.generate(changed, exports=BOTH)
        assert_shows(data_set, changed)
        gone = {part.path for part in first.parts} - set(paths(data_set.output, "data"))
        assert len(gone) == 2
        assert paths(data_set.output, "_history") == sorted(
            path.replace("data/", "_history/") for path in gone
        )
        assert paths(data_set.output, "_staging") == []
        plan = data_set.plan(rows)
        assert plan.counts.new == 0
        data_set.publish(plan, exports=BOTH)
        assert_shows(data_set, rows)

    def test_an_unfinished_run_shows_nowhere(self, data_set: DataSet) -> None:
        rows = products(8)
        data_set.generate(rows, exports=BOTH)
        plan = data_set.plan(rows, seed=1)
        data_set.make(plan, fails=lambda row: "blank_image" if row["row"] == 0 else None)
        assert_shows(data_set, rows)
        data_set.generate(rows, exports=BOTH)  # another run does not take its parts away either
        assert len(paths(data_set.output, "_staging")) == 2
        assert data_set.plan(rows, seed=1, retried=None).counts.new == 1

    def test_a_damaged_part_in_force_is_replaced_by_its_remade_copy(self, data_set: DataSet) -> None:
        rows = products(8)
        path = data_set.generate(rows).parts[0].path
        content = data_set.output.read(path)
        data_set.output.write(path, content[:-9])
        data_set.generate(rows)
        assert data_set.output.read(path) == content
        assert_shows(data_set, rows, exports=())

    def test_success_is_told_only_of_images(self, data_set: DataSet) -> None:
        plan = data_set.plan(products(3))
        data_set.make(plan, fails=lambda row: "blank_image")
        manifest = data_set.publish(plan)
        assert (manifest.parts, manifest.counts["failed"]) == ((), 3)
        assert not data_set.output.exists("_SUCCESS")
        assert_card_works(data_set.output)
        plan = data_set.plan(products(3), retried=None)
        data_set.make(plan)
        data_set.publish(plan)
        assert_shows(data_set, products(3), exports=())

    def test_a_folder_of_the_old_layout_is_tidied_by_the_next_run(self, data_set: DataSet) -> None:
        rows = [*products(8), {"sku": "bad", "prompt": None, "brand": "x"}]
        data_set.generate(rows, exports=BOTH)
        changed = [*change(products(8)), rows[-1]]
        manifest = data_set.generate(changed, exports=BOTH)
        output = data_set.output
        # As release 0.2 left it: everything in data/ and errors/, exports of all runs, no record of them.
        for folder, old in (("_history", "data"), ("_errors", "errors")):
            for path in paths(output, folder):
                output.move(path, path.replace(folder, old))
        output.delete("_exports/files.json")
        for row in data_set.work(data_set.plan(rows)):
            if not output.exists(f"images/{row['file_name']}"):
                output.write(f"images/{row['file_name']}", b"old")
        text = output.read(manifest.path).decode().replace('"_errors/', '"errors/')
        output.write(manifest.path, text.encode())
        output.write("_SUCCESS", f"{manifest.path} files webdataset".encode())
        assert data_set.verify().problems == ()
        again = data_set.generate(changed)
        assert again.number == manifest.number
        assert paths(output, "errors") == []
        assert [row["key"] for row in data_set.errors()] == ["bad"]
        assert_shows(data_set, changed[:-1])


class TestExports:
    """Exports that are there follow the data set."""

    @pytest.mark.parametrize("exports", [("files",), ("webdataset",), BOTH])
    def test_an_export_is_kept_up_to_date_without_being_asked_for(
        self, data_set: DataSet, exports: tuple[str, ...]
    ) -> None:
        rows = products(10)
        data_set.generate(rows, exports=exports)
        changed = change(rows)
        data_set.generate(changed)
        assert_shows(data_set, changed, exports)

    def test_a_damaged_record_of_an_export_is_made_anew(self, data_set: DataSet) -> None:
        rows = products(6)
        data_set.generate(rows, exports=("files",))
        data_set.output.write("_exports/files.json", b'{"parts": [')
        rows = change(rows)
        data_set.generate(rows)
        assert_shows(data_set, rows, ("files",))

    def test_nothing_is_exported_that_nobody_asked_for(self, data_set: DataSet) -> None:
        data_set.output.write("images/mine.png", b"mine")
        data_set.generate(products(3))
        assert paths(data_set.output, "images") == ["images/mine.png"]
        assert paths(data_set.output, "webdataset") == []

    def test_only_files_of_the_export_are_removed(self, data_set: DataSet) -> None:
        rows = products(10)
        for path in ("images/mine.png", "images/sku-000_00.txt", "webdataset/mine.tar"):
            data_set.output.write(path, b"mine")
        data_set.generate(rows, exports=BOTH)
        data_set.generate(change(rows))
        assert "images/sku-009_00.png" not in paths(data_set.output, "images")
        for path in ("images/mine.png", "images/sku-000_00.txt", "webdataset/mine.tar"):
            assert data_set.output.read(path) == b"mine"

    def test_an_export_that_its_owner_removed_stays_away_until_it_is_asked_for(
        self, data_set: DataSet
    ) -> None:
        rows = products(6)
        data_set.generate(rows, exports=BOTH)
        for folder in ("images", "webdataset"):
            for path in paths(data_set.output, folder):
                data_set.output.delete(path)
        changed = change(rows)
        data_set.generate(changed)
        assert_shows(data_set, changed, exports=())
        data_set.generate(changed, exports=BOTH)
        assert_shows(data_set, changed)

    def test_unchanged_images_are_not_written_again(self, data_set: DataSet) -> None:
        rows = products(12)
        data_set.generate(rows, exports=BOTH)
        data_set.output = storage = KilledStorage(data_set.output)
        plan = data_set.plan(change(rows))
        data_set.make(plan)
        data_set.publish(plan)
        images = {path for path in storage.written if path.startswith("images/")}
        assert "images/sku-000_00.png" in images
        # Nothing has changed in the part of these rows.
        assert not {f"images/sku-{number:03d}_00.png" for number in range(4, 8)} & images

    def test_export_again_mends_what_was_deleted(self, data_set: DataSet) -> None:
        rows = products(5)
        data_set.generate(rows, exports=BOTH)
        data_set.output.delete("images/sku-003_00.png")
        settle(data_set.output, ["files"], anew=True)
        assert_shows(data_set, rows)


class TestKills:
    """A run that is killed anywhere is finished by the next one."""

    def killed(
        self, data_set: DataSet, rows: Sequence[Row], change: int, moment: Moment, **options: Any
    ) -> bool:
        """Publish rows, and kill the process at a change; returns whether there was such a change."""
        storage = data_set.output
        assert isinstance(storage, KilledStorage)
        plan = data_set.plan(rows, **options)
        data_set.make(plan)
        storage.kill_at(change, moment)
        try:
            data_set.publish(plan, **options)
        except Killed:
            return True
        finally:
            storage.revive()
        return False

    @pytest.mark.parametrize(("moment", "is_undone"), [("before", True), ("within", False)])
    def test_at_every_step_of_a_publish(self, data_set: DataSet, moment: Moment, is_undone: bool) -> None:
        rows = change(products(5))
        then = products(5) if is_undone else rows
        data_set.generate(products(5), exports=BOTH)
        before = shutil.copytree(data_set.uri, data_set.folder / "before")
        data_set.output = KilledStorage(data_set.output)
        step = 0
        while self.killed(data_set, rows, step, moment, exports=BOTH):
            assert_card_works(data_set.output)
            assert data_set.verify().problems == ()
            data_set.generate(then, exports=BOTH)
            assert_shows(data_set, then)
            shutil.rmtree(data_set.uri)
            shutil.copytree(before, data_set.uri)
            step += 1
        assert step > 15

    @settings(max_examples=20)
    @given(data=st.data())
    def test_any_sequence_of_tables_and_kills_ends_in_the_last_table(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        data_set = DataSet(folder=tmp_path_factory.mktemp("any"))
        data_set.output = KilledStorage(data_set.output)
        prompt = st.sampled_from(["an owl", "a pear", "a cup"])
        brand = st.sampled_from(["x", "y"])
        versions = st.dictionaries(st.sampled_from("abcdefg"), st.tuples(prompt, brand), min_size=1)
        asked = st.sampled_from([(), ("files",), ("webdataset",), BOTH])
        exports: set[str] = set()
        unfinished: set[str] = set()
        rows: list[Row] = []
        for version in data.draw(st.lists(versions, min_size=2, max_size=4)):
            rows = [{"sku": key, "prompt": text, "brand": name} for key, (text, name) in version.items()]
            # What a killed run was asked for is exported only if it came so far.
            options = {"exports": sorted({*data.draw(asked), *unfinished}), "replace": True}
            moment = data.draw(st.sampled_from(["before", "within", "after"]))
            was_killed = self.killed(data_set, rows, data.draw(st.integers(0, 40)), moment, **options)
            assert_card_works(data_set.output)
            exports |= set(options["exports"])
            if was_killed and data.draw(st.booleans()):
                unfinished = set(options["exports"])  # the next table comes first
                continue
            unfinished = set()
            if was_killed:
                data_set.generate(rows, **options)
            assert_shows(data_set, rows, sorted(exports))
        data_set.generate(rows, exports=BOTH, replace=True)
        assert_shows(data_set, rows)

    def test_in_a_bucket(self, tmp_path: Path, s3: S3Server, bucket: str) -> None:
        storage = StorageOptions(s3_endpoint_url=s3.endpoint_url)
        data_set = DataSet(folder=tmp_path, uri=f"{bucket}/set", storage=storage)
        data_set.output = KilledStorage(data_set.output)
        data_set.generate(products(5), exports=BOTH)
        assert_shows(data_set, products(5))
        moments: dict[int, Moment] = {3: "before", 5: "within", 8: "within", 13: "before"}
        for step, moment in moments.items():
            rows = change(products(5)) if step in (3, 8) else products(5)
            assert self.killed(data_set, rows, step, moment, exports=BOTH)
            assert_card_works(data_set.output)
            data_set.generate(rows, exports=BOTH)
            assert_shows(data_set, rows)


class TestRaces:
    """Other runs settle the same folder."""

    def test_runs_that_publish_at_once_leave_the_newest(self, data_set: DataSet) -> None:
        rows = products(6)
        plans = [data_set.plan(rows, seed=seed) for seed in range(4)]
        for plan in plans:
            data_set.make(plan)

        def publish(seed: int) -> RunManifest:
            return data_set.publish(plans[seed], seed=seed, exports=BOTH)

        with ThreadPoolExecutor(4) as pool:
            manifests = list(pool.map(publish, range(4)))
        newest = read_manifest(data_set.output)
        assert newest in manifests
        assert_shows(data_set, rows)

    def test_a_part_that_moves_while_it_is_read_is_found(self, data_set: DataSet) -> None:
        rows = products(4)
        plan = data_set.plan(rows)
        [part] = data_set.make(plan)
        places = PartPlaces(data_set.output)
        data_set.publish(plan)
        assert places.read(part.path, ["key"]).num_rows == 4
        data_set.generate(rows, seed=1)
        assert places.read(part.path, ["key"]).num_rows == 4
        data_set.output.delete(f"_history/{part.path.split('/')[1]}")
        with pytest.raises(FileNotFoundError):
            places.read(part.path)
