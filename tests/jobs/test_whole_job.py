"""Whole jobs with the real engine: real prompt tables, and equality with diffusers."""

import csv
import io
import uuid
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import ZImagePipeline
from PIL import Image

from pipelines.storage import StorageOptions
from pipelines.storage_address import open_storage
from tests.drawn_objects import OBJECTS, recognised
from tests.jobs.conftest import Zimage, published
from tests.s3_server import S3Server
from zimage_models.image_files.image_codec import is_marked_generated, read_parameters
from zimage_models.model_spec import KNOWN_MODELS

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "objects.csv"
PARTI_PROMPTS = ROOT.parent / "shared" / "data" / "prompts" / "PartiPrompts.tsv"
NUM_PARTI_PROMPTS = 1632


@pytest.fixture(scope="module")
def example(zimage: Zimage, s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the example table's images with two engines, their checkpoint on S3, and return their folder."""
    bucket = f"s3://models-{uuid.uuid4().hex[:12]}"
    s3.make_bucket(bucket.removeprefix("s3://"))
    storage = open_storage(bucket, StorageOptions(s3_endpoint_url=s3.endpoint_url))
    checkpoint = KNOWN_MODELS["tiny-zimage-turbo"].directory
    assert checkpoint is not None
    for file in checkpoint.rglob("*"):
        if file.is_file():
            storage.write(f"turbo/{file.relative_to(checkpoint).as_posix()}", file.read_bytes())
    folder = tmp_path_factory.mktemp("example")
    done = zimage(
        *("generate", EXAMPLE, folder / "out", "--engines", "2:2", "--commit-rows", 8),
        *("--model", f"{bucket}/turbo", "--variant", "turbo", "--s3-endpoint", s3.endpoint_url),
        *("--cache-dir", folder / "cache", "--progress", "quiet"),
    )
    assert done.code == 0, done.err
    return folder / "out"


def test_prompts_of_a_table_are_published_each_exactly_once(example: Path, zimage: Zimage) -> None:
    with EXAMPLE.open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    rows = published(example).rows
    assert len(rows) == len(table) == 48
    assert sorted(row["prompt"] for row in rows) == sorted(row["prompt"] for row in table)
    assert zimage("verify", example).code == 0


def test_example_table_becomes_a_data_set_of_pictures(example: Path) -> None:
    loaded = datasets.load_dataset(str(example), split="train")
    assert len(loaded) == 48
    assert {row["language"] for row in loaded} == {"en", "zh"}
    assert all(isinstance(row["image"], Image.Image) and row["image"].size == (64, 64) for row in loaded)
    row = published(example).rows[0]
    assert is_marked_generated(row["image"]["bytes"])
    told = read_parameters(row["image"]["bytes"])
    assert (told["prompt"], told["precision"]) == (row["prompt"], "float32")


def test_pictures_show_what_their_prompts_say(example: Path) -> None:
    known = {item[language]: index for index, item in enumerate(OBJECTS) for language in ("en", "zh")}
    shown = {
        row["prompt"]: recognised(np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))))
        for row in published(example).rows
        if row["prompt"] in known
    }
    assert len(shown) == 28
    assert shown == {prompt: known[prompt] for prompt in shown}


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.skipif(not PARTI_PROMPTS.exists(), reason="needs ../shared/data/prompts/PartiPrompts.tsv")
def test_parti_prompts_are_published_each_exactly_once(zimage: Zimage, tmp_path: Path) -> None:
    with PARTI_PROMPTS.open(newline="", encoding="utf-8") as file:
        table = pa.Table.from_pylist(list(csv.DictReader(file, delimiter="\t")))
    pq.write_table(table, tmp_path / "parti.parquet")
    done = zimage(
        *("generate", tmp_path / "parti.parquet", tmp_path / "out", "--engines", "2:2", "--progress", "json"),
    )
    assert done.code == 0, done.err
    rows = published(tmp_path / "out").rows
    assert len(rows) == NUM_PARTI_PROMPTS
    assert sorted(row["prompt"] for row in rows) == sorted(table["Prompt"].to_pylist())
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


@pytest.mark.parametrize(
    "model", [pytest.param("tiny-zimage-turbo", marks=pytest.mark.soak), "tiny-zimage-base"]
)
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
