"""The example of the README: one image from an engine in the process."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.drawn_objects import OBJECTS, recognised

EXAMPLE = Path(__file__).parents[2] / "examples" / "generate.py"


def test_it_saves_a_picture_of_what_it_asks_for(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # A newcomer's first screen holds no warnings.
    assert (done.stdout, done.stderr) == ("", "")
    with Image.open(tmp_path / "owl.png") as image:
        assert OBJECTS[recognised(np.asarray(image))]["en"] == "owl"
