"""The pictures show what their prompts say: every known object is recognised, in English and Chinese."""

import io
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.jobs.conftest import Zimage, published

DATA = Path(__file__).parents[1] / "data"


def renders(objects: list[dict[str, str]]) -> npt.NDArray[np.float32]:
    """Read the stored prints of the real objects, 16 a row, each 32 x 32 pixels."""
    sheet = np.asarray(Image.open(DATA / "object_prints.png").convert("RGB"), dtype=np.float32)
    tiles = sheet.reshape(16, 32, 16, 32, 3).transpose(0, 2, 1, 3, 4).reshape(256, -1)
    return tiles[: len(objects)]


def shrunk(data: bytes) -> npt.NDArray[np.float32]:
    image = Image.open(io.BytesIO(data)).resize((32, 32), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float32).reshape(-1)


@pytest.mark.timeout(600)
def test_every_known_name_is_drawn_as_its_object(zimage: Zimage, tmp_path: Path) -> None:
    objects = json.loads((DATA / "objects.json").read_text(encoding="utf-8"))
    assert len(objects) == 256
    rows = [
        {"id": f"{index:03d}-{language}", "prompt": item[language]}
        for index, item in enumerate(objects)
        for language in ("en", "zh")
    ]
    table = tmp_path / "names.jsonl"
    table.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    done = zimage("generate", table, tmp_path / "out", "--engines", "2:2", "--progress", "json")
    assert done.code == 0, done.err
    prints = renders(objects)
    right = {"en": 0, "zh": 0}
    for row in published(tmp_path / "out").rows:
        index, language = row["key"].split("-")
        distances = np.square(prints - shrunk(row["image"]["bytes"])).sum(axis=1)
        right[language] += int(distances.argmin()) == int(index)
    assert right["en"] >= 0.99 * 256
    assert right["zh"] >= 0.99 * 256
