from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import PIL.Image
import pytest
import yaml

from pipelines.dataset.pages import DatasetSummary, dataset_card
from pipelines.dataset.parts import write_part
from pipelines.storage_address import open_storage
from tests.pipelines.part_tables import CATALOGUE, make_table

SUMMARY = DatasetSummary(
    title="Fruit: a catalogue\n苹果",
    model="tiny-zimage-turbo",
    weights_sha256="ab" * 32,
    num_images=1_632,
    num_errors=3,
    num_bytes=12_345_678,
    data_files=("data/part-1.parquet", "data/part-2.parquet"),
)


def front_matter(summary: DatasetSummary) -> dict[str, Any]:
    _, matter, _ = dataset_card(summary).split("---\n", 2)
    content = yaml.safe_load(matter)
    assert isinstance(content, dict)
    return content


def test_the_card_makes_its_folder_a_data_set_of_exactly_its_parts(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "out"))
    table = make_table(5, catalogue=True)
    parts = [write_part(storage, "data", table.slice(start, 2)) for start in (0, 2)]
    write_part(storage, "data", table.slice(4))  # a late writer's
    summary = replace(SUMMARY, num_images=4, data_files=tuple(part.path for part in parts))
    storage.write("README.md", dataset_card(summary).encode())

    loaded = datasets.load_dataset(storage.uri, split="train", cache_dir=str(tmp_path / "hf"))

    assert sorted(loaded["key"]) == ["sku/0.a", "sku/1.a", "sku/2.a", "sku/3.a"]
    assert all(isinstance(image, PIL.Image.Image) for image in loaded["image"])
    assert set(loaded.column_names) >= set(CATALOGUE)


def test_front_matter_tells_the_hub_what_it_is() -> None:
    assert front_matter(SUMMARY) == {
        "license": "other",
        "task_categories": ["text-to-image"],
        "tags": ["synthetic", "ai-generated", "z-image"],
        "size_categories": ["1K<n<10K"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": ["data/part-1.parquet", "data/part-2.parquet"]}],
            }
        ],
    }
    assert front_matter(replace(SUMMARY, license="cc-by-4.0"))["license"] == "cc-by-4.0"
    assert "configs" not in front_matter(replace(SUMMARY, num_images=0, data_files=()))


@pytest.mark.parametrize(
    ("num_images", "category"),
    [
        (0, "n<1K"),
        (999, "n<1K"),
        (1_000, "1K<n<10K"),
        (9_999, "1K<n<10K"),
        (10_000, "10K<n<100K"),
        (999_999, "100K<n<1M"),
        (10**6, "1M<n<10M"),
        (10**12 - 1, "100B<n<1T"),
        (10**12, "n>1T"),
    ],
)
def test_size_category(num_images: int, category: str) -> None:
    assert front_matter(replace(SUMMARY, num_images=num_images))["size_categories"] == [category]


def test_the_text_tells_model_counts_and_marking() -> None:
    card = dataset_card(SUMMARY)
    assert "# Fruit: a catalogue 苹果\n" in card
    for fact in ("1,632", "| 3 |", "12.3 MB in 2 Parquet files", "`tiny-zimage-turbo`", f"`{'ab' * 32}`"):
        assert fact in card
    assert "trainedAlgorithmicMedia" in card
    assert "prompt included" in card
    assert "prompt included" not in dataset_card(replace(SUMMARY, prompts_in_images=False))
