"""Data sets that release 0.1 published go on under this one."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest

from jobs import cli

RELEASE_0_1 = Path(__file__).parents[1] / "data" / "release_0_1"
COMMANDS = {"plain": ["--variants", "2"], "pictures": ["--strength", "0.6"]}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_data_set_of_release_0_1_has_nothing_to_make(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(RELEASE_0_1, tmp_path / "release")
    model = ["--fake", "--model", "tiny-zimage-base", "--image-format", "webp"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        arguments = [folder / f"{name}.csv", folder / name, *model, *COMMANDS[name], "--progress", "json"]
        # No Ray is started: there is nothing to do for it.
        assert cli.run(["generate", *map(str, arguments)]) == 0
    planned, published = map(json.loads, out.getvalue().splitlines())
    assert (planned["new"], planned["rejected"], planned["failed_before"]) == (0, 0, 0)
    assert planned["unchanged"] == planned["units"] > 0
    # The same data set: not one part was written anew.
    assert published["manifest"] == "_manifests/000001.json"
