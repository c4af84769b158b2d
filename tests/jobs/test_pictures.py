"""The pictures show what their prompts say: every known object is recognised, in English and Chinese."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.drawn_objects import OBJECTS, recognised
from tests.jobs.conftest import Zimage, published

LANGUAGES = ("en", "zh")


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_every_known_object_is_recognised(zimage: Zimage, tmp_path: Path) -> None:
    assert len(OBJECTS) == 256
    rows = [
        {"id": f"{index:03d}-{language}", "prompt": item[language]}
        for index, item in enumerate(OBJECTS)
        for language in LANGUAGES
    ]
    table = tmp_path / "names.jsonl"
    table.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    done = zimage("generate", table, tmp_path / "out", "--engines", "2:2", "--progress", "json")
    assert done.code == 0, done.err
    right = dict.fromkeys(LANGUAGES, 0)
    for row in published(tmp_path / "out").rows:
        index, language = row["key"].split("-")
        pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
        right[language] += recognised(pixels) == int(index)
    assert min(right.values()) >= 0.99 * len(rows) / 2
