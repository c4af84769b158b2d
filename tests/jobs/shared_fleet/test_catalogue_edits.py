"""A catalogue's photos, each with several instructions: every edit is made exactly once, and as online."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.storage import StorageOptions
from pipelines.storage_address import open_storage
from tests.jobs.conftest import Zimage
from tests.jobs.shared_fleet.conftest import APP, EDIT_MODEL
from tests.s3_server import S3Server
from zimage_models.image_files.image_codec import decode_image, read_ingredients

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples" / "pictures"
PHOTOS = ROOT.parent / "shared" / "data" / "grocery_iconic"
INSTRUCTIONS = ("change the background to red", "把背景换成蓝色", "flip it")
NUM_STEPS = 2


def test_every_picture_and_instruction_is_published_once(
    s3: S3Server, bucket: str, zimage: Zimage, online: openai.OpenAI
) -> None:
    pictures = sorted(EXAMPLES.glob("*.png"))[:3]
    assert len(pictures) == 3
    served = ("--engine", "serve", "--serve-app", APP)
    assert_published_once(pictures, s3, bucket, f"{bucket}/out", zimage, online, served)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.skipif(not PHOTOS.exists(), reason="needs ../shared/data/grocery_iconic")
@pytest.mark.parametrize("output", ["s3", "disk"])
def test_every_photo_and_instruction_is_published_once(
    s3: S3Server, bucket: str, tmp_path: Path, zimage: Zimage, online: openai.OpenAI, output: str
) -> None:
    photos = sorted(PHOTOS.rglob("*_Iconic.jpg"))
    assert len(photos) == 81
    where = f"{bucket}/out" if output == "s3" else str(tmp_path / "out")
    assert_published_once(photos, s3, bucket, where, zimage, online)


def assert_published_once(
    paths: list[Path],
    s3: S3Server,
    bucket: str,
    output: str,
    zimage: Zimage,
    online: openai.OpenAI,
    engine: tuple[str, ...] = (),
) -> None:
    storage = open_storage(bucket, StorageOptions(s3_endpoint_url=s3.endpoint_url))
    photos = {path.name: path.read_bytes() for path in paths}
    for name, file in photos.items():
        storage.write(f"catalogue/photos/{name}", file)
    # Half of the rows name a photo by its place beside the table, half by its full address.
    rows = [
        {
            "sku": f"{name}-{number}",
            "photo": name,
            "instruction": instruction,
            "image": f"photos/{name}" if number % 2 else f"{bucket}/catalogue/photos/{name}",
        }
        for name in photos
        for number, instruction in enumerate(INSTRUCTIONS)
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    storage.write("catalogue/table.parquet", memoryview(sink.getvalue()))
    endpoint = ("--s3-endpoint", s3.endpoint_url)
    command = (
        *("generate", f"{bucket}/catalogue/table.parquet", output, *endpoint, "--progress", "json"),
        *("--model", EDIT_MODEL, *engine, "--size", "64x64", "--steps", NUM_STEPS, "--commit-rows", 4),
    )
    done = zimage(*command)
    assert done.code == 0, done.err
    assert done.event("published")["counts"]["published"] == len(rows)
    assert zimage("verify", output, *endpoint).code == 0
    assert zimage(*command).event("planned")["new"] == 0
    folder = open_storage(output, StorageOptions(s3_endpoint_url=s3.endpoint_url))
    tables = [pq.read_table(pa.BufferReader(folder.read(part.path))) for part in folder.list("data")]
    made = pa.concat_tables(tables).to_pylist()
    assert sorted(row["key"] for row in made) == sorted(row["sku"] for row in rows)
    assert len({tuple(row["reference_sha256"]) for row in made}) == len(photos)
    for row in made[:: max(1, len(made) // 9)]:
        [ingredient] = read_ingredients(row["image"]["bytes"])
        assert [ingredient.sha256] == row["reference_sha256"]
        answer = online.images.edit(
            model="z-image-edit",
            image=photos[row["photo"]],
            prompt=row["prompt"],
            size="64x64",  # type: ignore[arg-type]
            extra_body={"seed": row["seed"], "num_inference_steps": NUM_STEPS},
        )
        assert answer.data
        assert_same(row["image"]["bytes"], base64.b64decode(answer.data[0].b64_json or ""))


def assert_same(one: bytes, other: bytes) -> None:
    difference: Any = decode_image(one).astype(int) - decode_image(other)
    assert np.abs(difference).max() <= 1
