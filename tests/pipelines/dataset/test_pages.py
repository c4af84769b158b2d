"""The pages that a data set has beside its parts: its card and its gallery."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pytest
import yaml

from pipelines.dataset.pages import (
    DatasetSummary,
    GalleryItem,
    dataset_card,
    gallery_html,
    write_first_card,
)
from pipelines.dataset.parts import write_part
from pipelines.storage_address import open_storage
from tests.pipelines.part_tables import CATALOGUE, make_table
from zimage_models.image_files.image_codec import Encoding, encode_image, is_marked_generated

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


def test_the_card_tells_a_precision_that_was_asked_for() -> None:
    assert "| Precision | `fp8` |\n\n## Loading" in dataset_card(replace(SUMMARY, precision="fp8"))
    assert "Precision" not in dataset_card(SUMMARY)


def test_a_set_without_images_loads_no_other_files(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "out"))
    write_part(storage, "_errors", make_table(1))
    for write in (
        lambda: write_first_card(storage),
        lambda: storage.write("README.md", dataset_card(replace(SUMMARY, data_files=())).encode()),
    ):
        write()
        with pytest.raises(datasets.exceptions.DataFilesNotFoundError):
            datasets.load_dataset(storage.uri, cache_dir=str(tmp_path / "hf"))


def test_the_first_card_leaves_a_readme_alone(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "out"))
    storage.write("README.md", b"mine")
    write_first_card(storage)
    assert storage.read("README.md") == b"mine"


def test_the_card_says_how_columns_were_read_in_plain_text() -> None:
    notes = ("colour: 7 is text, as <b>red</b> is.", "# `a_b`\n| *c* [d](e)")
    card = dataset_card(replace(SUMMARY, notes=notes))
    assert "\n## Columns\n\n- colour: 7 is text, as &lt;b&gt;red&lt;/b&gt; is.\n" in card
    assert "- \\# \\`a\\_b\\` \\| \\*c\\* \\[d\\](e)\n" in card
    assert "## Columns" not in dataset_card(SUMMARY)


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


HOSTILE = '"><script>alert(1)</script> 苹果 & %FIGURES% {x}'


class Page(HTMLParser):
    """The tags of a page with their attributes, and the texts inside each kind of tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.tags[-1][0], data))

    def images(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


def item(width: int = 32, height: int = 32, caption: str = "a red apple", key: str = "sku-1") -> GalleryItem:
    pixels = np.full((height, width, 3), (200, 30, 40), dtype=np.uint8)
    data = encode_image(pixels, Encoding(), parameters={"prompt": "a secret prompt"})
    return GalleryItem(image_bytes=data, caption=caption, key=key)


def thumbnail(attributes: dict[str, str | None]) -> bytes:
    kind, _, text = (attributes["src"] or "").partition(",")
    assert kind == "data:image/webp;base64"
    return base64.b64decode(text, validate=True)


@pytest.mark.parametrize(
    ("size", "shown"), [((32, 32), (32, 32)), ((1024, 512), (256, 128)), ((300, 600), (128, 256))]
)
def test_thumbnails_are_small_marked_copies(size: tuple[int, int], shown: tuple[int, int]) -> None:
    (attributes,) = Page(gallery_html("t", [item(*size)])).images()
    data = thumbnail(attributes)
    image = PIL.Image.open(io.BytesIO(data))
    assert (image.format, image.size) == ("WEBP", shown)
    assert np.allclose(np.asarray(image.convert("RGB")).mean((0, 1)), (200, 30, 40), atol=6)
    assert is_marked_generated(data)
    assert b"secret" not in data


def test_captions_and_keys_are_shown_as_text() -> None:
    page = Page(gallery_html(HOSTILE, [item(caption=HOSTILE, key="<i>k</i>"), item()]))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "i" not in [tag for tag, _ in page.tags]
    assert page.images()[0]["alt"] == HOSTILE
    assert ("span", HOSTILE) in page.texts
    assert ("b", "<i>k</i>") in page.texts
    assert ("title", HOSTILE) in page.texts
    assert ("h1", HOSTILE) in page.texts


def test_the_page_needs_no_other_file() -> None:
    html = gallery_html("t", (item(key=str(number)) for number in range(3)))
    page = Page(html)
    assert len(page.images()) == 3
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object")]
    assert not re.findall(r"https?://|@import|url\(", html)
    for _, attributes in page.tags:
        assert (attributes.get("src") or "data:").startswith("data:")


def test_an_image_that_does_not_decode_is_named() -> None:
    broken = GalleryItem(image_bytes=b"no image", caption="", key="sku-9")
    with pytest.raises(ValueError, match="sku-9: image: 8 bytes"):
        gallery_html("t", [item(), broken])
