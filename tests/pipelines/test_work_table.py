import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.work_table import WORK_FIELDS, WorkRows, read_work, request_columns, to_request
from tests.pipelines.plan_fixtures import DataSet, products
from zimage_models.request_fields import GENERATION_FIELDS
from zimage_models.requests import ImageRequest, Priority


def test_a_work_row_reads_back_as_its_request() -> None:
    request = ImageRequest(
        prompt="a pear",
        negative_prompt="blurry",
        height=64,
        width=96,
        num_inference_steps=12,
        guidance_scale=1.5,
        seed=2**63 - 1,
        cfg_normalization=1.0,
        cfg_truncation=0.5,
        quality_mode="fast",
        step_schedule=(0, 3, 6, 11),
        truncate_prompt=True,
        priority=Priority.BATCH,
    )
    row = {name: column[0] for name, column in request_columns([request]).items()}
    table = pa.Table.from_pylist([{**row, "unit_id": "a", "brand": "acme"}], schema=pa.schema(WORK_FIELDS))
    [read_back] = table.to_pylist()
    assert to_request(read_back) == request


def test_the_work_table_holds_every_generation_field() -> None:
    assert set(GENERATION_FIELDS) <= {field.name for field in WORK_FIELDS}


def test_rows_are_found_by_their_place(tmp_path: Path) -> None:
    data_set = DataSet(folder=tmp_path)
    # More files than are kept in memory.
    plans = [data_set.plan(products(3 + number)) for number in range(10)]
    files = [path for plan in plans for path in plan.work_files]
    whole = read_work(data_set.output, files, ["key", "row", "brand"])
    rows = WorkRows(data_set.output, files, ["key", "row", "brand"])
    places = list(range(whole.num_rows))
    random.Random(0).shuffle(places)
    for some in (places, places[:1], [0], [whole.num_rows - 1, 0, 0]):
        assert rows.take(np.array(some)).to_pylist() == whole.take(some).to_pylist()


def test_a_work_table_may_be_empty(tmp_path: Path) -> None:
    data_set = DataSet(folder=tmp_path)
    table = read_work(data_set.output, (), ["unit_id", "row"])
    assert (table.num_rows, table.column_names) == (0, ["unit_id", "row"])


def test_a_missing_work_file_is_an_error(tmp_path: Path) -> None:
    output = DataSet(folder=tmp_path).output
    with pytest.raises(FileNotFoundError):
        read_work(output, ["_runs/run-1/work/00000.parquet"], ["unit_id"])
