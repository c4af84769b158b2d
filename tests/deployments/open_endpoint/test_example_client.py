"""The example that asks an endpoint with OpenAI's client."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.deployments.conftest import Endpoint
from tests.drawn_objects import OBJECTS, recognised

EXAMPLE = Path(__file__).parents[3] / "examples" / "client.py"


def test_it_saves_a_picture_of_what_it_asks_for(endpoint: Endpoint, tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLE, f"{endpoint.url}/v1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "owl.png") as image:
        assert OBJECTS[recognised(np.asarray(image))]["en"] == "owl"
