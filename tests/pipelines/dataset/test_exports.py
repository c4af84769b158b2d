import io
import json
import tarfile
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
import webdataset

from pipelines.dataset.exports import NUM_WRITERS, export_files, export_webdataset
from pipelines.dataset.parts import PartFile, write_part
from pipelines.part_schema import part_schema
from pipelines.storage import Storage
from pipelines.storage_address import open_storage
from tests.pipelines.part_tables import make_image, make_table
from zimage_models.image_files.image_codec import IMAGE_FORMATS, decode_image


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "out"))


def published(storage: Storage, table: pa.Table) -> PartFile:
    return write_part(storage, "data", table)


def test_files_are_written_under_their_own_names(storage: Storage) -> None:
    num_rows = 10 * NUM_WRITERS
    table = make_table(num_rows)
    paths = export_files(storage, table)
    assert paths == [f"images/sku/{row}.a_00.png" for row in range(num_rows)]
    assert [storage.read(path) for path in paths] == [make_image(row) for row in range(num_rows)]
    assert {file.path for file in storage.list("images")} == set(paths)


def test_a_name_that_leaves_the_folder_is_refused(storage: Storage) -> None:
    image = {"bytes": make_image(0), "path": "../../evil.png"}
    table = pa.Table.from_pylist([{"unit_id": "0", "image": image}], schema=part_schema(pa.schema([])))
    with pytest.raises(ValueError, match="evil"):
        export_files(storage, table)


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_webdataset_reads_the_shards(storage: Storage, image_format: str) -> None:
    table = make_table(5, image_format=image_format, catalogue=True)
    part = published(storage, table)
    path = export_webdataset(storage, part, table)
    assert path == f"webdataset/part-{part.sha256}.tar"

    dataset = webdataset.WebDataset(f"{storage.uri}/{path}", shardshuffle=False).decode("rgb8")
    samples = list(dataset)
    rows = table.to_pylist()
    assert len(samples) == 5
    for sample, row in zip(samples, rows, strict=True):
        assert sample["__key__"] == row["unit_id"]
        assert np.array_equal(sample[image_format], decode_image(row["image"]["bytes"]))
        assert sample["txt"] == row["prompt"]
        assert sample["json"]["key"] == row["key"]
        assert sample["json"]["seed"] == row["seed"]


@pytest.mark.parametrize("image_format", IMAGE_FORMATS)
def test_shards_hold_the_image_files_unchanged(storage: Storage, image_format: str) -> None:
    table = make_table(2, image_format=image_format)
    path = export_webdataset(storage, published(storage, table), table)
    with tarfile.open(fileobj=io.BytesIO(storage.read(path))) as shard:
        names = shard.getnames()
        units = table["unit_id"].to_pylist()
        assert names == [f"{unit}.{suffix}" for unit in units for suffix in (image_format, "json", "txt")]
        file = shard.extractfile(names[0])
        assert file is not None
        assert PIL.Image.open(file).format == image_format.upper()


def test_shard_metadata_are_plain_json(storage: Storage) -> None:
    table = make_table(2, catalogue=True)
    table = table.set_column(
        table.schema.get_field_index("weight"), "weight", pa.array([float("nan"), None], pa.float32())
    )
    path = export_webdataset(storage, published(storage, table), table)
    with tarfile.open(fileobj=io.BytesIO(storage.read(path))) as shard:
        file = shard.extractfile(shard.getnames()[1])
        assert file is not None
        text = file.read().decode()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    written = json.loads(text, parse_constant=refuse)
    assert set(written) == set(table.column_names) - {"image"}
    catalogue = {name: written[name] for name in table.column_names[table.column_names.index("brand") :]}
    assert catalogue == {
        "brand": '苹果 "A" <b>',
        "price": "12.50",
        "weight": None,
        "stock": 60_000,
        "on_sale": True,
        "listed": "2026-02-28",
        "updated": "2026-01-02T03:04:05.000678+00:00",
        "opens": "09:30:00",
        "lead_time": 129_600.0,
        "barcode": "AP9hYg==",
        "category": "fruit",
        "tags": ["red", "round"],
        "box_cm": [1.0, 2.5, 3.0],
        "maker": {"name": "Orchard", "sites": [{"city": "Kent"}, {"city": None}]},
        "remark": None,
    }


def test_the_same_part_gives_the_same_shard(storage: Storage) -> None:
    table = make_table(3)
    part = published(storage, table)
    path = export_webdataset(storage, part, table)
    first = storage.read(path)
    in_pieces = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    assert export_webdataset(storage, part, in_pieces) == path
    assert storage.read(path) == first
    with tarfile.open(fileobj=io.BytesIO(first)) as shard:
        assert {entry.mtime for entry in shard} == {0}


@pytest.mark.parametrize("unit", ["a.b", "a/b"])
def test_unit_ids_that_would_split_a_sample_are_refused(storage: Storage, unit: str) -> None:
    image = {"bytes": make_image(0), "path": "a.png"}
    table = pa.Table.from_pylist([{"unit_id": unit, "image": image}], schema=part_schema(pa.schema([])))
    with pytest.raises(ValueError, match=f"unit_id '{unit}'"):
        export_webdataset(storage, published(storage, table), table)
