"""The stage that writes parts."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from pipelines.run import write_stages
from pipelines.run.write_stages import StageSettings, encode_stage, write_stage
from pipelines.storage_address import open_storage
from tests.pipelines.part_tables import make_table
from zimage_models.image_files.image_codec import Encoding, read_parameters


@pytest.fixture
def settings(tmp_path: Path) -> StageSettings:
    return StageSettings(
        output=open_storage(str(tmp_path)),
        encoding=Encoding(),
        model="m",
        weights_sha256="w",
        passthrough=pa.schema([]),
        monitor=SimpleNamespace(add=SimpleNamespace(remote=lambda written: written)),  # type: ignore[arg-type]
    )


def test_each_image_tells_what_it_was_computed_in(settings: StageSettings) -> None:
    block = make_table(2).drop_columns(["model", "weights_sha256", "image", "image_sha256"])
    added: dict[str, list[Any]] = {
        "file_name": ["a.png", "b.png"],
        "pixels": [bytes(24 * 16 * 3)] * 2,
        "engine_precision": ["fp8", ""],
    }
    for name, values in added.items():
        block = block.append_column(name, pa.array(values))
    for name in ("error_class", "message"):
        block = block.append_column(name, pa.nulls(2, pa.string()))
    images = encode_stage(block, settings)["image"].to_pylist()
    assert [read_parameters(image["bytes"]).get("precision") for image in images] == ["fp8", None]


def test_a_block_ends_only_when_it_is_counted(
    settings: StageSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[Any] = []
    monkeypatch.setattr(write_stages.ray, "get", counted.append)
    block = make_table(2).drop_columns(["model", "weights_sha256"])
    for name, dtype in {"error_class": pa.string(), "message": pa.string(), "row": pa.int64()}.items():
        block = block.append_column(name, pa.nulls(2, dtype))
    block = block.append_column("attempts", pa.nulls(2, pa.int32()))
    assert write_stage(block, settings)["num_rows"].to_pylist() == [2]
    assert counted == [2]
