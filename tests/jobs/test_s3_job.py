"""A long job with everything on S3: in smaller jobs tables and data sets are, or the checkpoint is."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.storage import StorageOptions
from pipelines.storage_address import open_storage
from tests.jobs.conftest import Zimage
from tests.s3_server import S3Server
from zimage_models.model_spec import KNOWN_MODELS

NAMES = ("red apple", "红苹果", "penguin", "企鹅", "a picture of pizza", "owl", "郁金香", "watermelon")


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_input_output_and_checkpoint_on_s3(s3: S3Server, bucket: str, zimage: Zimage, tmp_path: Path) -> None:
    storage = open_storage(bucket, StorageOptions(s3_endpoint_url=s3.endpoint_url))
    checkpoint = KNOWN_MODELS["tiny-zimage-turbo"].directory
    assert checkpoint is not None
    for file in checkpoint.rglob("*"):
        if file.is_file():
            storage.write(f"models/turbo/{file.relative_to(checkpoint).as_posix()}", file.read_bytes())
    sink = pa.BufferOutputStream()
    rows = {"id": [f"row-{i}" for i in range(200)], "prompt": [NAMES[i % len(NAMES)] for i in range(200)]}
    pq.write_table(pa.table(rows), sink)
    storage.write("in/table.parquet", memoryview(sink.getvalue()))
    endpoint = ("--s3-endpoint", s3.endpoint_url)
    done = zimage(
        *("generate", f"{bucket}/in/table.parquet", f"{bucket}/out", *endpoint, "--progress", "json"),
        *("--model", f"{bucket}/models/turbo", "--variant", "turbo", "--cache-dir", tmp_path / "cache"),
        *("--engines", "2:2"),
    )
    assert done.code == 0, done.err
    assert done.event("published")["counts"]["published"] == 200
    checked = zimage("verify", f"{bucket}/out", *endpoint)
    assert checked.code == 0, checked.out
    assert "200 images" in checked.out
