"""Pages of a published data set: its card, which the Hub reads too, and a gallery of its images."""

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from itertools import islice
from typing import Any

import numpy as np
import yaml
from PIL import Image

from pipelines.dataset.manifest import RunManifest
from pipelines.dataset.parts import read_part
from pipelines.storage import Storage
from zimage_models.image_files.image_codec import Encoding, decode_image, encode_image, read_ingredients

THUMBNAIL_SIDE_PX = 256
_THUMBNAIL = Encoding(format="webp", quality=80, embed_prompt=False)
_GALLERY_IMAGES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSummary:
    """The facts about a data set that its card lists."""

    title: str
    model: str
    weights_sha256: str
    num_images: int
    num_errors: int = 0
    """Planned images that are not in the data set."""
    num_bytes: int
    """Size of all parts."""
    data_files: tuple[str, ...]
    """The current parts of the data set, relative to the card."""
    prompts_in_images: bool = True
    license: str = "other"
    """License identifier used by the Hub."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryItem:
    """One image of a gallery, as a complete image file."""

    image_bytes: bytes
    caption: str
    key: str


def write_pages(output: Storage, manifest: RunManifest) -> None:
    """Write README.md and gallery.html for a manifest."""
    title = output.uri.rstrip("/").rsplit("/", 1)[-1]
    summary = DatasetSummary(
        title=title,
        model=manifest.model,
        weights_sha256=manifest.weights_sha256,
        num_images=manifest.counts["published"],
        num_errors=manifest.counts["failed"],
        num_bytes=sum(part.num_bytes for part in manifest.parts),
        data_files=tuple(part.path for part in manifest.parts),
        prompts_in_images=manifest.options["encoding"]["embed_prompt"],
    )
    output.write("README.md", dataset_card(summary).encode())
    items = islice(_gallery_items(output, manifest), _GALLERY_IMAGES)
    output.write("gallery.html", gallery_html(title, items).encode())


def _gallery_items(output: Storage, manifest: RunManifest) -> Iterator[GalleryItem]:
    for part in manifest.parts:
        table = read_part(output, part.path, ["image.bytes", "prompt", "key"])
        for image, prompt, key in zip(table["image"], table["prompt"], table["key"], strict=True):
            yield GalleryItem(image_bytes=image["bytes"].as_py(), caption=prompt.as_py(), key=key.as_py())


def dataset_card(summary: DatasetSummary) -> str:
    """Build the card: YAML front matter that the Hub and `datasets` read, then text for people."""
    front_matter: dict[str, Any] = {
        "license": summary.license,
        "task_categories": ["text-to-image"],
        "tags": ["synthetic", "ai-generated", "z-image"],
        "size_categories": [_size_category(summary.num_images)],
    }
    if summary.data_files:
        # A list, not a pattern: a part that a late writer adds to the folder is not part of the data set.
        train = {"split": "train", "path": list(summary.data_files)}
        front_matter["configs"] = [{"config_name": "default", "data_files": [train]}]
    written = "the generation parameters, prompt included," if summary.prompts_in_images else "its settings"
    return f"""---
{yaml.safe_dump(front_matter, sort_keys=False, allow_unicode=True)}---

# {" ".join(summary.title.split())}

Images generated from a table of prompts with [Z-Image](https://github.com/Tongyi-MAI/Z-Image) by zimage-ray.

| | |
|---|---|
| Images | {summary.num_images:,} |
| Failed rows, not included | {summary.num_errors:,} |
| Size | {_size_text(summary.num_bytes)} in {len(summary.data_files):,} Parquet files |
| Model | `{summary.model}` |
| Weights (SHA-256) | `{summary.weights_sha256}` |

## Loading

```python
from datasets import load_dataset

images = load_dataset("path/to/this/folder", split="train")
images[0]["image"].show()
```

Each row is one image: `image`, its `prompt`, `key` and `variant`, all its settings, and the columns of the
prompt table. `unit_id` is the image's ID, a hash of everything that affects it: the same prompt, settings,
seed and weights have the same `unit_id`. `image_sha256` is the hash of the image file.

## Marking

All images are synthetic. Each file states this in its XMP metadata, with IPTC `DigitalSourceType`
`trainedAlgorithmicMedia` (`compositeWithTrainedAlgorithmicMedia` for an image made from pictures), and holds
{written} in the same place. Keep this metadata when you share images.
"""


def _size_category(num_images: int) -> str:
    # The Hub's vocabulary: n<1K, 1K<n<10K, ..., n>1T.
    names = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
    index = max(len(str(num_images)) - 3, 0)
    if index == 0:
        return f"n<{names[0]}"
    return f"{names[index - 1]}<n<{names[index]}" if index < len(names) else f"n>{names[-1]}"


def _size_text(num_bytes: int) -> str:
    size = float(num_bytes)
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def gallery_html(title: str, items: Iterable[GalleryItem]) -> str:
    """Build a self-contained page of thumbnails, at most 256 pixels a side, with captions and a filter box.

    A thumbnail takes 5 to 20 KB of the page, so limit the number of images.

    Raises:
        ValueError: an image cannot be decoded; the message names its key.
    """
    heading = escape(title)
    figures = "\n".join(_figure(item) for item in items)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{heading}</title>
<style>{_STYLE}</style>
</head>
<body>
<header><h1>{heading}</h1><output></output>
<input type="search" placeholder="Filter by key or caption" aria-label="Filter by key or caption"></header>
<main>
{figures}
</main>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _figure(item: GalleryItem) -> str:
    caption, key = escape(item.caption), escape(item.key)
    return (
        f'<figure><img loading="lazy" alt="{caption}" src="{_thumbnail_uri(item)}">'
        f'<figcaption><b>{key}</b><span dir="auto">{caption}</span></figcaption></figure>'
    )


def _thumbnail_uri(item: GalleryItem) -> str:
    try:
        thumbnail = Image.fromarray(decode_image(item.image_bytes))
        ingredients = read_ingredients(item.image_bytes)
    except ValueError as error:
        raise ValueError(f"{item.key}: {error}") from error
    thumbnail.thumbnail((THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX))
    # The same encoder marks thumbnails as generated too.
    data = encode_image(np.asarray(thumbnail), _THUMBNAIL, parameters={}, ingredients=ingredients)
    return f"data:{_THUMBNAIL.mime_type};base64,{base64.b64encode(data).decode('ascii')}"


_STYLE = """
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }
body { margin: 0; background: Canvas; color: CanvasText; }
header { position: sticky; top: 0; display: flex; flex-wrap: wrap; gap: 1rem; align-items: center;
  padding: .75rem 1rem; background: Canvas; border-bottom: 1px solid GrayText; }
h1 { font-size: 1.1rem; margin: 0; flex: 1; }
input { font: inherit; padding: .3rem .6rem; min-width: 14rem; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 1rem;
  padding: 1rem; }
figure { margin: 0; }
figure[hidden] { display: none; }
img { width: 100%; border-radius: 6px; display: block; }
figcaption { margin-top: .3rem; overflow-wrap: anywhere; font-size: .85rem; }
figcaption b { display: block; font-weight: 600; opacity: .7; }
"""

_SCRIPT = """
const figures = [...document.querySelectorAll("figure")].map(f => [f, f.textContent.toLowerCase()]);
const box = document.querySelector("input"), count = document.querySelector("output");
function filter() {
  const words = box.value.toLowerCase().split(/\\s+/);
  let shown = 0;
  for (const [figure, text] of figures) {
    figure.hidden = !words.every(word => text.includes(word));
    shown += !figure.hidden;
  }
  count.textContent = `${shown} of ${figures.length}`;
}
box.addEventListener("input", filter);
filter();
"""
