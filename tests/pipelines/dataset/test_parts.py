import hashlib
import io
import json
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.dataset.parts import (
    MAX_ROW_GROUP_IMAGE_BYTES,
    PartFile,
    list_parts,
    read_part,
    sha256_from_name,
    write_part,
)
from pipelines.part_schema import COLUMN_NAMES, ERROR_SCHEMA, part_schema
from pipelines.storage import Storage, StorageOptions, StoredFile
from pipelines.storage_address import open_storage
from tests.pipelines.part_tables import CATALOGUE, make_image, make_table
from tests.s3_server import S3Server
from zimage_models.errors import InvalidRequest

LOADABLE_TYPES = [
    *(pa.null(), pa.bool_(), pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32()),
    *(pa.int64(), pa.uint64(), pa.float16(), pa.float32(), pa.float64()),
    *(pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"), pa.date32(), pa.date64()),
    *(
        pa.timestamp("s"),
        pa.timestamp("ns"),
        pa.timestamp("us", "UTC"),
        pa.timestamp("ms", "America/New_York"),
    ),
    *(pa.duration("s"), pa.duration("ns"), pa.decimal128(10, 2), pa.decimal256(40, -3)),
    *(pa.string(), pa.large_string(), pa.string_view()),
    *(pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(4)),
    *(pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int8(), pa.int64())),
    *(pa.list_(pa.string()), pa.large_list(pa.date32()), pa.list_(pa.float32(), 3)),
    pa.struct([("a", pa.int8()), ("b", pa.list_(pa.struct([("c", pa.large_list(pa.bool_()))])))]),
    pa.list_(pa.list_(pa.dictionary(pa.int32(), pa.string()), 2)),
]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "out"))


def load(storage: Storage, part: PartFile, tmp_path: Path) -> datasets.Dataset:
    files = f"{storage.uri}/{part.path}"
    return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "hf"))


def test_a_part_loads_as_images_with_all_its_columns(storage: Storage, tmp_path: Path) -> None:
    table = make_table(3, catalogue=True)
    loaded = load(storage, write_part(storage, "data", table), tmp_path)

    assert loaded.column_names == table.column_names == [*COLUMN_NAMES, *CATALOGUE]
    assert isinstance(loaded.features["image"], datasets.Image)
    assert loaded.num_rows == 3
    for row, expected in zip(loaded, table.to_pylist(), strict=True):
        image = row.pop("image")
        assert isinstance(image, PIL.Image.Image)
        stored = PIL.Image.open(io.BytesIO(expected.pop("image")["bytes"]))
        assert np.array_equal(np.asarray(image), np.asarray(stored))
        assert row == expected


def test_a_loaded_part_keeps_image_bytes_and_file_names(storage: Storage, tmp_path: Path) -> None:
    loaded = load(storage, write_part(storage, "data", make_table(1)), tmp_path)
    raw = loaded.cast_column("image", datasets.Image(decode=False))[0]["image"]
    assert raw == {"bytes": make_image(0), "path": "sku/0.a_00.png"}


@pytest.mark.parametrize("dtype", LOADABLE_TYPES, ids=str)
def test_features_are_named_as_datasets_names_them(dtype: pa.DataType) -> None:
    schema = part_schema(pa.schema([("extra", dtype)]))
    written = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    expected = datasets.Features.from_arrow_schema(schema.remove_metadata()).to_dict()
    expected["image"] = {"_type": "Image"}
    assert written == expected
    assert list(datasets.Features.from_dict(written)) == schema.names


@pytest.mark.parametrize(
    ("dtype", "column", "told"),
    [
        (pa.map_(pa.string(), pa.int32()), "extra", "map<string, int32>"),
        (pa.list_(pa.map_(pa.string(), pa.int32())), "extra[]", "map<string, int32>"),
        (pa.struct([("a", pa.struct([("b", pa.uuid())]))]), "extra.a.b", "extension<arrow.uuid>"),
        (pa.list_view(pa.int8()), "extra", "list_view"),
        (pa.decimal32(5, 2), "extra", "decimal32"),
        (pa.month_day_nano_interval(), "extra", "interval"),
        (pa.struct([]), "extra", "struct<>"),
    ],
    ids=str,
)
def test_types_that_would_not_load_are_refused(dtype: pa.DataType, column: str, told: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        part_schema(pa.schema([("fine", pa.int8()), ("extra", dtype)]))
    assert str(raised.value).startswith(f"column {column}: ")
    assert told in str(raised.value)


def test_column_names_must_be_free() -> None:
    with pytest.raises(InvalidRequest, match="column image: the name is a column of every part"):
        part_schema(pa.schema([("image", pa.string())]))
    with pytest.raises(InvalidRequest, match="column sku: the name occurs twice"):
        part_schema(pa.schema([("sku", pa.string()), ("sku", pa.int8())]))


def test_a_part_is_named_by_its_hash(storage: Storage) -> None:
    part = write_part(storage, "data/run1", make_table(3))
    content = storage.read(part.path)
    assert hashlib.sha256(content).hexdigest() == part.sha256 == sha256_from_name(part.path)
    assert part.path == f"data/run1/part-{part.sha256}.parquet"
    assert (part.num_rows, part.num_bytes) == (3, len(content))


def test_the_same_rows_land_on_the_same_name(storage: Storage) -> None:
    # Enough bytes for several Parquet pages, whose ends would follow the table's chunks.
    rng = np.random.default_rng(0)
    rows = [{"unit_id": str(i), "image": {"bytes": rng.bytes(900)}} for i in range(3_000)]
    table = pa.Table.from_pylist(rows, schema=part_schema(pa.schema([])))
    in_pieces = pa.concat_tables([table.slice(0, 701), table.slice(701, 1_000), table.slice(1_701)])
    assert in_pieces["unit_id"].num_chunks == 3
    part = write_part(storage, "data", table)
    assert write_part(storage, "data", in_pieces) == part
    assert write_part(storage, "data", table.slice(1)).path != part.path
    assert len(list_parts(storage, "data")) == 2


def test_a_part_reads_back_whole_or_by_column(storage: Storage) -> None:
    table = make_table(3, catalogue=True)
    path = write_part(storage, "data", table).path
    back = read_part(storage, path)
    assert back.equals(table)
    assert back.schema.metadata == table.schema.metadata
    assert read_part(storage, path, ["unit_id", "tags"]).equals(table.select(["unit_id", "tags"]))
    paths = read_part(storage, path, ["image.path"])["image"].to_pylist()
    assert paths == [{"path": f"sku/{row}.a_00.png"} for row in range(3)]


def test_reading_what_is_not_there_is_an_error(storage: Storage) -> None:
    path = write_part(storage, "data", make_table(1)).path
    with pytest.raises(ValueError, match=r"no column 'skv'; it has unit_id, key"):
        read_part(storage, path, ["unit_id", "skv"])
    with pytest.raises(FileNotFoundError):
        read_part(storage, "data/part-0.parquet")
    storage.write("data/part-1.parquet", b"PAR1 is not enough")
    with pytest.raises(ValueError, match=r"data/part-1\.parquet: not a readable Parquet file"):
        read_part(storage, "data/part-1.parquet")


def test_only_part_files_are_listed(storage: Storage) -> None:
    part = write_part(storage, "data", make_table(1))
    nested = write_part(storage, "data/more", make_table(2))
    write_part(storage, "errors", pa.Table.from_pylist([{"row": 7, "message": "no"}], schema=ERROR_SCHEMA))
    for path in ("data/README.md", "data/part-1.parquet", f"{part.path}.tmp", f"data/old-{part.path[5:]}"):
        storage.write(path, b"")
    listed = list_parts(storage, "data")
    assert set(listed) == {StoredFile(path=p.path, num_bytes=p.num_bytes) for p in (part, nested)}
    assert list_parts(storage, "nothing") == []


@pytest.mark.parametrize(
    "path", ["data/part-1.parquet", "README.md", f"part-{'a' * 64}.parquet.tmp", "A" * 64]
)
def test_other_names_hold_no_hash(path: str) -> None:
    with pytest.raises(ValueError, match="is not that of a part"):
        sha256_from_name(path)


def test_image_bytes_are_stored_as_they_are(storage: Storage) -> None:
    path = write_part(storage, "data", make_table(3, catalogue=True)).path
    group = pq.read_metadata(io.BytesIO(storage.read(path))).row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    image = columns.pop("image.bytes")
    assert image.compression == "UNCOMPRESSED"
    assert not image.has_dictionary_page
    assert image.statistics is None
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert columns["model"].has_dictionary_page


def test_row_groups_hold_at_most_64_mib_of_images(storage: Storage) -> None:
    images = [bytes(2**20 * size) for size in (30, 30, 30, 70, 1, 1)]
    rows = [{"unit_id": str(i), "image": {"bytes": data}} for i, data in enumerate(images)]
    rows.insert(5, {"unit_id": "no image", "image": None})
    table = pa.Table.from_pylist(rows, schema=part_schema(pa.schema([])))
    path = write_part(storage, "data", table).path
    with pq.ParquetFile(f"{storage.uri}/{path}") as part:
        sizes = [part.metadata.row_group(i).num_rows for i in range(part.num_row_groups)]
    assert sizes == [2, 1, 1, 3]  # the third would pass the limit, and the fourth is past it alone
    assert MAX_ROW_GROUP_IMAGE_BYTES == 64 * 2**20


def test_a_part_over_2_gib_is_refused(storage: Storage) -> None:
    schema = part_schema(pa.schema([]))
    one = pa.Table.from_pylist([{"image": {"bytes": bytes(2**27)}}], schema=schema)
    with pytest.raises(ValueError, match="2147483648 image bytes in one part; the limit is 2147483647"):
        write_part(storage, "data", pa.concat_tables([one] * 16))
    assert storage.list() == []


def test_tables_that_make_no_part_are_refused(storage: Storage) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        write_part(storage, "data", make_table(0))
    with pytest.raises(ValueError, match=r"needs the metadata of part_schema\(\)"):
        write_part(storage, "data", make_table(1).replace_schema_metadata(None))
    assert storage.list() == []


def test_parts_live_in_s3_too(s3: S3Server, bucket: str) -> None:
    storage = open_storage(f"{bucket}/out", StorageOptions(s3_endpoint_url=s3.endpoint_url))
    table = make_table(3, catalogue=True)
    part = write_part(storage, "data", table)
    assert list_parts(storage, "data") == [StoredFile(path=part.path, num_bytes=part.num_bytes)]
    assert hashlib.sha256(storage.read(part.path)).hexdigest() == part.sha256
    assert read_part(storage, part.path, ["unit_id"]).equals(table.select(["unit_id"]))
    assert read_part(storage, part.path).equals(table)
    with pytest.raises(FileNotFoundError):
        read_part(storage, f"data/part-{'0' * 64}.parquet")
