import base64
from typing import Any

import pytest

from pipelines.plan.picture_cells import read_cell
from zimage_models.errors import InvalidRequest

FILE = b"\x89PNG and so on"
DATA_URL = f"data:image/png;base64,{base64.b64encode(FILE).decode()}"


@pytest.mark.parametrize(
    ("cell", "pictures"),
    [
        (None, []),
        ("", []),
        (" ", []),
        ([], []),
        (FILE, [FILE]),
        ("a/b.png", ["a/b.png"]),
        (DATA_URL, [FILE]),
        ("s3://bucket/a.png", ["s3://bucket/a.png"]),
        ({"bytes": FILE, "path": "a.png"}, [FILE]),
        ({"bytes": None, "path": "a.png"}, ["a.png"]),
        ({"bytes": FILE, "path": None}, [FILE]),
        ([FILE, "a.png", {"bytes": FILE, "path": None}], [FILE, "a.png", FILE]),
        ('["a.png", "b.png"]', ["a.png", "b.png"]),
        (f'[{{"path": "a.png"}}, "{DATA_URL}"]', ["a.png", FILE]),
        ("[not a list].png", ["[not a list].png"]),
        ("https://a/1.jpg, https://a/2.jpg", ["https://a/1.jpg", "https://a/2.jpg"]),
        (
            "http://a/1.jpg,HTTPS://b/2.jpg , https://c/3.jpg",
            ["http://a/1.jpg", "HTTPS://b/2.jpg", "https://c/3.jpg"],
        ),
        ("https://a/w_64,h_64/1.jpg", ["https://a/w_64,h_64/1.jpg"]),
        (
            "https://a/w_64,h_64/1.jpg, https://a/x, y.jpg",
            ["https://a/w_64,h_64/1.jpg", "https://a/x, y.jpg"],
        ),
        ("red, https://a/2.jpg", ["red, https://a/2.jpg"]),
    ],
)
def test_pictures_of_a_cell(cell: Any, pictures: list[Any]) -> None:
    assert read_cell(cell, field="image", max_bytes=100) == pictures


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ([""], "is not a picture"),
        (b"", "is not a picture"),
        (7, "7 \\(int\\) is not a picture"),
        (True, "is not a picture"),
        ({}, "is not a picture"),
        ({"bytes": None, "path": None}, "is not a picture"),
        ({"url": "a.png"}, "is not a picture"),
        (["a.png", None], "None \\(NoneType\\) is not a picture"),
        ([["a.png"]], "is not a picture"),
        ("[7]", "is not a picture"),
        ("data:text/html;base64,AAAA", "not a data URL"),
        (DATA_URL + "A" * 400, "the limit is 100"),
    ],
)
def test_other_cells_are_refused(cell: Any, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=f"image: .*{reason}") as refusal:
        read_cell(cell, field="image", max_bytes=100)
    assert refusal.value.field == "image"
