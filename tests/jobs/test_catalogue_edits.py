"""A catalogue's photos, each with several instructions, from S3 to S3: every row is made exactly once."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.storage import StorageOptions, open_storage
from tests.jobs.conftest import Zimage
from tests.s3_server import S3Server
from zimage_models.image_codec import read_ingredients

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "grocery_iconic"
EDIT_MODEL = "tiny-zimage-base"
INSTRUCTIONS = ("on a blue background", "on a pink background", "red apple")

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not PHOTOS.exists(), reason="needs ../shared/data/grocery_iconic"),
]


def test_every_photo_and_instruction_is_published_once(s3: S3Server, bucket: str, zimage: Zimage) -> None:
    storage = open_storage(bucket, StorageOptions(s3_endpoint_url=s3.endpoint_url))
    photos = sorted(PHOTOS.rglob("*_Iconic.jpg"))
    assert len(photos) == 81
    for photo in photos:
        storage.write(f"catalogue/photos/{photo.name}", photo.read_bytes())
    # Half of the rows name a photo by its place beside the table, half by its full address.
    rows = [
        {
            "sku": f"{photo.stem}-{number}",
            "instruction": instruction,
            "image": f"photos/{photo.name}" if number % 2 else f"{bucket}/catalogue/photos/{photo.name}",
        }
        for photo in photos
        for number, instruction in enumerate(INSTRUCTIONS)
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    storage.write("catalogue/table.parquet", memoryview(sink.getvalue()))
    command = (
        *("generate", f"{bucket}/catalogue/table.parquet", f"{bucket}/out", "--s3-endpoint", s3.endpoint_url),
        *("--model", EDIT_MODEL, "--size", "32x32", "--steps", "2", "--guidance", "0"),
        *("--progress", "json"),
    )
    done = zimage(*command)
    assert done.code == 0, done.err
    assert done.event("published")["counts"]["published"] == 243
    tables = [pq.read_table(pa.BufferReader(storage.read(file.path))) for file in storage.list("out/data")]
    made = pa.concat_tables(tables).to_pylist()
    assert sorted(row["key"] for row in made) == sorted(row["sku"] for row in rows)
    assert len({tuple(row["reference_sha256"]) for row in made}) == 81
    for row in made[::27]:
        [ingredient] = read_ingredients(row["image"]["bytes"])
        assert [ingredient.sha256] == row["reference_sha256"]
    assert zimage("verify", f"{bucket}/out", "--s3-endpoint", s3.endpoint_url).code == 0
    assert zimage(*command).event("planned")["new"] == 0
