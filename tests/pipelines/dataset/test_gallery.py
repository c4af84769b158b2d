import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import PIL.Image
import pytest

from pipelines.dataset.pages import GalleryItem, gallery_html
from zimage_models.image_files.image_codec import Encoding, encode_image, is_marked_generated

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
