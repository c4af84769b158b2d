"""Pages of a published data set: its card, which the Hub reads too, and a gallery of its images."""

import base64
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import islice
from typing import Any

import numpy as np
import yaml
from PIL import Image

from pipelines.dataset.layout import DATA_FOLDER, PartPlaces, published_path
from pipelines.dataset.manifest import RunManifest
from pipelines.storage import Storage
from zimage_models.image_files.image_codec import Encoding, decode_image, encode_image, read_ingredients

CARD = "README.md"
THUMBNAIL_SIDE_PX = 256
_THUMBNAIL = Encoding(format="webp", quality=80, embed_prompt=False)
_GALLERY_IMAGES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSummary:
    """The facts about a data set that its card lists."""

    title: str
    model: str
    weights_sha256: str
    precision: str = "auto"
    """The engine's, as its options had it."""
    num_images: int
    num_errors: int = 0
    """Planned images that are not in the data set."""
    num_bytes: int
    """Size of all parts."""
    data_files: tuple[str, ...]
    """The current parts of the data set, relative to the card."""
    prompts_in_images: bool = True
    notes: tuple[str, ...] = ()
    """How the prompt table's columns were read, a sentence each."""
    license: str = "other"
    """License identifier used by the Hub."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryItem:
    """One image of a gallery, as a complete image file."""

    image_bytes: bytes
    caption: str
    key: str


def write_card(output: Storage, manifest: RunManifest, *, title: str | None = None) -> None:
    """Write README.md for a manifest, by default under the folder's name."""
    summary = DatasetSummary(
        title=title or _title(output),
        model=manifest.model,
        weights_sha256=manifest.weights_sha256,
        # Releases up to 0.2 had no such option.
        precision=manifest.options["engine"].get("precision", "auto"),
        num_images=manifest.counts["published"],
        num_errors=manifest.counts["failed"],
        num_bytes=sum(part.num_bytes for part in manifest.parts),
        data_files=tuple(published_path(part.path) for part in manifest.parts),
        prompts_in_images=manifest.options["encoding"]["embed_prompt"],
        notes=manifest.notes,
    )
    output.write(CARD, dataset_card(summary).encode())


def write_first_card(output: Storage) -> None:
    """Write a README.md where nothing is published yet, unless there is one.

    Without a card, `datasets` would load whatever Parquet files a run has written so far.
    """
    if output.exists(CARD):
        return
    text = f"---\n{_front_matter({}, ())}---\n\n# {_title(output)}\n\nNothing is published here yet.\n"
    output.write(CARD, text.encode())


def write_gallery(output: Storage, manifest: RunManifest, places: PartPlaces) -> None:
    """Write gallery.html for a manifest."""
    items = islice(_gallery_items(places, manifest), _GALLERY_IMAGES)
    output.write("gallery.html", gallery_html(_title(output), items).encode())


def _title(output: Storage) -> str:
    return " ".join(output.uri.rstrip("/").rsplit("/", 1)[-1].split())


def _gallery_items(places: PartPlaces, manifest: RunManifest) -> Iterator[GalleryItem]:
    for part in manifest.parts:
        table = places.read(part.path, ["image.bytes", "prompt", "key"])
        for image, prompt, key in zip(table["image"], table["prompt"], table["key"], strict=True):
            yield GalleryItem(image_bytes=image["bytes"].as_py(), caption=prompt.as_py(), key=key.as_py())


def dataset_card(summary: DatasetSummary) -> str:
    """Build the card: YAML front matter that the Hub and `datasets` read, then text for people."""
    facts = {
        "license": summary.license,
        "task_categories": ["text-to-image"],
        "tags": ["synthetic", "ai-generated", "z-image"],
        "size_categories": [_size_category(summary.num_images)],
    }
    precision = "" if summary.precision == "auto" else f"| Precision | `{summary.precision}` |\n"
    written = "the generation parameters, prompt included," if summary.prompts_in_images else "its settings"
    return f"""---
{_front_matter(facts, summary.data_files)}---

# {" ".join(summary.title.split())}

Images generated from a table of prompts with [Z-Image](https://github.com/Tongyi-MAI/Z-Image) by zimage-ray.

| | |
|---|---|
| Images | {summary.num_images:,} |
| Failed rows, not included | {summary.num_errors:,} |
| Size | {_size_text(summary.num_bytes)} in {len(summary.data_files):,} Parquet files |
| Model | `{summary.model}` |
| Weights (SHA-256) | `{summary.weights_sha256}` |
{precision}
## Loading

```python
from datasets import load_dataset

images = load_dataset("path/to/this/folder", split="train")
images[0]["image"].show()
```

Each row is one image: `image`, its `prompt`, `key` and `variant`, all its settings, and the columns of the
prompt table. `unit_id` is the image's ID, a hash of everything that affects it: the same prompt, settings,
seed and weights have the same `unit_id`. `image_sha256` is the hash of the image file.
{_columns_section(summary.notes)}
## Marking

All images are synthetic. Each file states this in its XMP metadata, with IPTC `DigitalSourceType`
`trainedAlgorithmicMedia` (`compositeWithTrainedAlgorithmicMedia` for an image made from pictures), and holds
{written} in the same place. Keep this metadata when you share images.
"""


def _front_matter(facts: dict[str, Any], data_files: Sequence[str]) -> str:
    # A list, so that nothing else in the folder counts. Without parts a pattern that nothing matches: without
    # any, `datasets` would load the error rows.
    train = {"split": "train", "path": list(data_files) or f"{DATA_FOLDER}/part-*.parquet"}
    config = {"config_name": "default", "data_files": [train]}
    return yaml.safe_dump(facts | {"configs": [config]}, sort_keys=False, allow_unicode=True)


def _columns_section(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    # Column names and values are the table's own text: none of it is markup.
    texts = (escape(" ".join(note.split()), quote=False) for note in notes)
    lines = (re.sub(r"([\\`*_\[\]#|~$]|^[-+])", r"\\\1", text) for text in texts)
    return "\n## Columns\n\n" + "".join(f"- {line}\n" for line in lines)


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
