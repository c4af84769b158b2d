"""A page to look at images: one HTML file that needs no other. It reads no storage."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

from zimage_models.image_files.image_codec import Encoding, decode_image, encode_image, read_ingredients

THUMBNAIL_SIDE_PX = 256
_THUMBNAIL = Encoding(format="webp", quality=80, embed_prompt=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryItem:
    """One image of a gallery, as a whole image file."""

    image_bytes: bytes
    caption: str
    key: str


def gallery_html(title: str, items: Iterable[GalleryItem]) -> str:
    """Build a self-contained page of thumbnails, at most 256 pixels a side, with captions and a filter box.

    A thumbnail takes 5 to 20 KB of the page; choose how many images go in.

    Raises:
        ValueError: an image that cannot be decoded; names its key.
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
    # Through the one encoder, so that a thumbnail is marked as generated too.
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
