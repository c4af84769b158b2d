"""Tables with pictures through whole jobs: the web, bad pictures beside good ones, resume, marks."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.jobs.conftest import Zimage, published
from tests.picture_files import file_of, plain, png_of
from zimage_models.image_files.image_codec import read_ingredients, read_parameters

EDIT_MODEL = "tiny-zimage-base"
FAKE = ("--fake", "--model", EDIT_MODEL, "--progress", "json")
TAKEN = ("row", "todo", "pixels", "message", "attempts", "ingredients", "reference_pixels", "mask_sha256")
"""Names of columns that a run has itself."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """Serve the folder ``web`` on a real port; gives its address as HOST:PORT."""
    (tmp_path / "web").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_bad_pictures_are_errors_and_resume_makes_nothing_twice(
    zimage: Zimage, tmp_path: Path, web: str
) -> None:
    red = file_of(plain(colour="red", size=(96, 64)), "png")
    (tmp_path / "web" / "red.png").write_bytes(red)
    (tmp_path / "blue.webp").write_bytes(file_of(plain(colour="blue"), "webp"))
    # Its head is fine: only the decoding finds it out.
    (tmp_path / "damaged.png").write_bytes(png_of((64, 64), (b"IDAT", b"not zlib")))
    (tmp_path / "page.png").write_bytes(b"<svg/>")
    cells = {
        "web": f"http://{web}/red.png",
        "web again": f"http://{web}/red.png",
        "disk": "blue.webp",
        "no picture": None,
        "gone": f"http://{web}/none.png",
        "private": "http://127.0.0.2/red.png",
        "damaged": "damaged.png",
        "page": "page.png",
        "outside": "../../etc/passwd",
    }
    table = pa.table(
        {
            "id": list(cells),
            "instruction": [f"tile {key}" for key in cells],
            "images": list(cells.values()),
            **{name: list(cells) for name in TAKEN},
        }
    )
    pq.write_table(table, tmp_path / "table.parquet")
    options = (*FAKE, "--trust-host", web, "--map", "image=images")
    command = ("generate", tmp_path / "table.parquet", tmp_path / "out", *options)
    done = zimage(*command)
    assert done.code == 3, done.err
    out = published(tmp_path / "out")
    assert out.by_key.keys() == {"web", "web again", "disk", "no picture"}
    assert {row["key"]: row["error_class"] for row in out.errors} == {
        "gone": "fetch_failed",
        "private": "bad_input",
        "damaged": "bad_input",
        "page": "bad_input",
        "outside": "bad_input",
    }
    row = out.by_key["web"]
    assert {row[f"{name}_1"] for name in TAKEN} == {"web"}
    assert (row["width"], row["height"], row["strength"]) == (96, 64, 0.6)
    [ingredient] = read_ingredients(row["image"]["bytes"])
    assert [ingredient.sha256] == row["reference_sha256"]
    assert read_parameters(row["image"]["bytes"])["strength"] == 0.6
    assert read_ingredients(out.by_key["no picture"]["image"]["bytes"]) == ()
    assert zimage("verify", tmp_path / "out").code == 0
    assert not list((tmp_path / "out" / "_runs").glob("*/pictures/*"))
    # Nothing is made again, wherever the same bytes lie; what changed or was mended is.
    again = zimage(*command)
    assert (again.event("planned")["new"], again.event("planned")["unchanged"]) == (0, 4)
    assert published(tmp_path / "out").manifest == out.manifest
    (tmp_path / "web" / "none.png").write_bytes(red)
    (tmp_path / "blue.webp").write_bytes(file_of(plain(colour="green"), "webp"))
    assert zimage(*command, "--dry-run").event("planned")["new"] == 2


def test_bad_pictures_of_a_table_that_has_no_others_are_told(zimage: Zimage, tmp_path: Path) -> None:
    table = pa.table({"id": ["a"], "prompt": ["tile"], "image": [b"junk"]})
    pq.write_table(table, tmp_path / "table.parquet")
    done = zimage("generate", tmp_path / "table.parquet", tmp_path / "out", *FAKE)
    assert done.code == 3, done.err
    told = zimage("status", tmp_path / "out")
    assert "bad_input: 1, such as row 0: image: not a readable PNG, JPEG or WebP image" in told.out


def test_dry_run_and_plan_read_the_pictures(zimage: Zimage, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(file_of(plain(size=(128, 64)), "png"))
    table = tmp_path / "in" / "table.csv"
    table.parent.mkdir()
    table.write_text("id,prompt,image\na,tile,a.png\nb,tile,b.png\n")
    root = ("--image-root", tmp_path / "photos", "--model", EDIT_MODEL, "--map", "image=image")
    done = zimage("generate", table, tmp_path / "out", "--fake", *root, "--dry-run")
    assert (done.code, "1 images to make" in done.out) == (3, True), done.err
    assert "image: 'b.png' cannot be read" in done.err
    planned = zimage("estimate", table, *root, "--json")
    assert planned.code == 0, planned.err
    assert '"width": 128' in planned.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--strength", "0.5", "--map", "image="), "strength: 0.5 has no effect without image"),
        (("--strength", "7"), "strength: 7"),
        (("--trust-host", "http://host/"), "HOST or HOST:PORT"),
        (("--image-root", "gs://bucket"), "gs"),
    ],
)
def test_bad_usage_is_told(zimage: Zimage, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    (tmp_path / "table.csv").write_text("id,prompt,images\na,tile,a.png\n")
    done = zimage("generate", tmp_path / "table.csv", tmp_path / "out", *FAKE, *options)
    assert (done.code, said in done.err) == (2, True), done.err
