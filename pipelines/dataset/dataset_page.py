"""What people see of a published data set: its card, and a gallery of its first images."""

from collections.abc import Iterator
from itertools import islice

from pipelines.dataset.dataset_card import DatasetSummary, dataset_card
from pipelines.dataset.gallery import GalleryItem, gallery_html
from pipelines.dataset.manifest import RunManifest
from pipelines.dataset.parts import read_part
from pipelines.storage import Storage

_GALLERY_IMAGES = 256


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
