"""The stage that writes parts."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from pipelines.run import write_stages
from pipelines.run.write_stages import StageSettings, write_stage
from pipelines.storage_address import open_storage
from tests.pipelines.part_tables import make_table
from zimage_models.image_files.image_codec import Encoding


def test_a_block_ends_only_when_it_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[Any] = []
    monkeypatch.setattr(write_stages.ray, "get", counted.append)
    settings = StageSettings(
        output=open_storage(str(tmp_path)),
        encoding=Encoding(),
        model="m",
        weights_sha256="w",
        passthrough=pa.schema([]),
        monitor=SimpleNamespace(add=SimpleNamespace(remote=lambda written: written)),  # type: ignore[arg-type]
    )
    block = make_table(2).drop_columns(["model", "weights_sha256"])
    for name, dtype in {"error_class": pa.string(), "message": pa.string(), "row": pa.int64()}.items():
        block = block.append_column(name, pa.nulls(2, dtype))
    block = block.append_column("attempts", pa.nulls(2, pa.int32()))
    assert write_stage(block, settings)["num_rows"].to_pylist() == [2]
    assert counted == [2]
