from pathlib import Path

import pytest

from pipelines.dataset.copies import copies_folder, copy_generation
from pipelines.dataset.manifest import RunManifest
from pipelines.storage import StorageOptions
from pipelines.storage_address import open_storage
from tests.pipelines.plan_fixtures import DataSet, products
from tests.s3_server import S3Server
from zimage_models.errors import InvalidRequest


@pytest.fixture
def data_set(tmp_path: Path) -> DataSet:
    return DataSet(folder=tmp_path)


def generations(data_set: DataSet) -> list[RunManifest]:
    """Publish two generations that have no image in common."""
    return [data_set.generate(products(6), seed=seed) for seed in range(2)]


def copied(data_set: DataSet, manifest: RunManifest, forms: list[str], folder: str) -> list[str]:
    target = open_storage(folder, data_set.storage)
    copy_generation(data_set.output, manifest, forms, target=target)
    return [file.path for file in target.list()]


def test_a_folder_holds_the_generation_that_was_copied_last(data_set: DataSet, tmp_path: Path) -> None:
    manifests = generations(data_set)
    for manifest in (*manifests, manifests[0]):
        assert copied(data_set, manifest, ["parquet"], str(tmp_path / "copy")) == [
            "README.md",
            *sorted(part.path for part in manifest.parts),
        ]
        card = (tmp_path / "copy" / "README.md").read_text()
        assert f"# out, generation {manifest.number}\n" in card


def test_only_the_forms_that_are_asked_for_change(data_set: DataSet, tmp_path: Path) -> None:
    first, second = generations(data_set)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "mine.txt").write_text("mine")
    copied(data_set, first, ["webdataset"], str(tmp_path / "copy"))
    paths = copied(data_set, second, ["files"], str(tmp_path / "copy"))
    shards = [path for path in paths if path.startswith("webdataset/")]
    assert shards == sorted(
        part.path.replace("data", "webdataset").replace("parquet", "tar") for part in first.parts
    )
    assert "mine.txt" in paths


def test_parts_that_are_gone_are_told(data_set: DataSet, tmp_path: Path) -> None:
    first, _ = generations(data_set)
    data_set.output.delete(first.parts[0].path.replace("data/", "_history/"))
    with pytest.raises(InvalidRequest, match="generation: 1 cannot be exported: 1 of its 2 parts"):
        copied(data_set, first, ["files"], str(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()


def test_the_folder_of_a_data_set_is_refused(data_set: DataSet, tmp_path: Path) -> None:
    first, _ = generations(data_set)
    other = DataSet(folder=tmp_path / "other")
    other.folder.mkdir()
    other.generate(products(2))
    for folder in (data_set.uri, f"{data_set.uri}/images/x", other.uri):
        with pytest.raises(InvalidRequest, match=r"into: .* belongs to a data set of zimage generate"):
            copied(data_set, first, ["parquet"], folder)
    assert other.verify().problems == ()


def test_in_a_bucket(tmp_path: Path, s3: S3Server, bucket: str) -> None:
    storage = StorageOptions(s3_endpoint_url=s3.endpoint_url)
    data_set = DataSet(folder=tmp_path, uri=f"{bucket}/set", storage=storage)
    first, _ = generations(data_set)
    for folder in (f"{data_set.uri}/{copies_folder(first)}", f"{bucket}/else"):
        paths = copied(data_set, first, ["parquet", "files"], folder)
        assert [path for path in paths if path.startswith("data/")] == sorted(
            part.path for part in first.parts
        )
        assert [path for path in paths if path.startswith("images/")] == [
            f"images/sku-{number:03d}_00.png" for number in range(6)
        ]
    assert data_set.verify().problems == ()
