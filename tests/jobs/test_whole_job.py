"""Whole jobs with the real engine: real prompt tables, S3, and equality with diffusers."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import ZImagePipeline
from PIL import Image

from tests.jobs.conftest import Zimage, published
from zimage_models.model_spec import KNOWN_MODELS

PARTI_PROMPTS = Path(__file__).parents[3] / "shared" / "data" / "prompts" / "PartiPrompts.tsv"
NUM_PARTI_PROMPTS = 1632

pytestmark = pytest.mark.timeout(900)
needs_parti = pytest.mark.skipif(
    not PARTI_PROMPTS.exists(), reason="needs ../shared/data/prompts/PartiPrompts.tsv"
)


def parti_table() -> pa.Table:
    with PARTI_PROMPTS.open(newline="", encoding="utf-8") as file:
        return pa.Table.from_pylist(list(csv.DictReader(file, delimiter="\t")))


@needs_parti
@pytest.mark.parametrize("steps", [1, pytest.param(8, marks=pytest.mark.soak)])
def test_parti_prompts_are_published_each_exactly_once(zimage: Zimage, tmp_path: Path, steps: int) -> None:
    pq.write_table(parti_table(), tmp_path / "parti.parquet")
    done = zimage(
        *("generate", tmp_path / "parti.parquet", tmp_path / "out", "--engines", "2:2"),
        *("--steps", steps, "--progress", "json"),
    )
    assert done.code == 0, done.err
    rows = published(tmp_path / "out").rows
    assert len(rows) == NUM_PARTI_PROMPTS
    assert sorted(row["prompt"] for row in rows) == sorted(parti_table()["Prompt"].to_pylist())
    assert zimage("verify", tmp_path / "out").code == 0


LONG = "a picture of a red apple beside a green pear and a yellow banana on the table, " * 4
MIXED_ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "red apple", "size": "64x64", "seed": 1},
    {"id": "b", "prompt": "红苹果", "size": "96x64", "seed": 2},
    {"id": "c", "prompt": LONG, "size": "64x64", "seed": 3, "steps": 5},
    {"id": "d", "prompt": "penguin", "size": "64x96", "seed": 4, "steps": 3},
    {"id": "e", "prompt": "pizza " * 20, "size": "96x64", "seed": 5},
    {"id": "f", "prompt": "一张西瓜的图片", "size": "64x64", "seed": 6},
]


@pytest.mark.parametrize("model", ["tiny-zimage-turbo", "tiny-zimage-base"])
def test_each_row_equals_diffusers(zimage: Zimage, tmp_path: Path, model: str) -> None:
    rows = MIXED_ROWS
    if model.endswith("base"):
        negatives = ["", "blue", "", LONG, "a dog", ""]
        rows = [
            {**row, "steps": row.get("steps", 6), "guidance": guidance, "negative_prompt": negative}
            for row, guidance, negative in zip(rows, [1.0, 2.0, 0.0, 3.0, 1.5, 4.0], negatives, strict=True)
        ]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema_of(rows)), tmp_path / "rows.parquet")
    done = zimage(
        *("generate", tmp_path / "rows.parquet", tmp_path / "out", "--model", model, "--engines", "2:2"),
        *("--commit-rows", 3, "--progress", "quiet"),
    )
    assert done.code == 0, done.err
    pipeline = ZImagePipeline.from_pretrained(KNOWN_MODELS[model].directory, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    made = published(tmp_path / "out").by_key
    for row in rows:
        ours = np.asarray(Image.open(io.BytesIO(made[row["id"]]["image"]["bytes"])), dtype=np.int16)
        difference = np.abs(ours - reference(pipeline, row)).max()
        assert difference <= 2, f"row {row['id']} differs by {difference}/255"


def schema_of(rows: list[dict[str, Any]]) -> pa.Schema:
    return pa.unify_schemas([pa.Table.from_pylist([row]).schema for row in rows])


def reference(pipeline: ZImagePipeline, row: dict[str, Any]) -> npt.NDArray[np.int16]:
    width, height = map(int, row["size"].split("x"))
    image = pipeline(
        prompt=[row["prompt"]],
        negative_prompt=[row["negative_prompt"]] if row.get("guidance") else None,
        width=width,
        height=height,
        num_inference_steps=row.get("steps", 8),
        guidance_scale=row.get("guidance", 0.0),
        generator=torch.Generator("cpu").manual_seed(row["seed"]),
    ).images[0]
    return np.asarray(image, dtype=np.int16)
