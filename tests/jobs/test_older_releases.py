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


# A row of plain.csv gives a seed of more than 32 bits: it is refused now, and its two images leave.
OUTCOMES = {"plain": (3, 1, 6, "_manifests/000002.json"), "pictures": (0, 0, 4, "_manifests/000001.json")}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_data_set_of_release_0_1_has_nothing_to_make(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(RELEASE_0_1, tmp_path / "release")
    model = ["--fake", "--model", "tiny-zimage-base", "--image-format", "webp"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        arguments = [folder / f"{name}.csv", folder / name, *model, *COMMANDS[name], "--progress", "json"]
        # No Ray is started: there is nothing to do for it.
        code = cli.run(["generate", *map(str, arguments)])
    planned, published = map(json.loads, out.getvalue().splitlines())
    assert (planned["new"], planned["failed_before"]) == (0, 0)
    # If nothing is refused, it is the same data set: not one part was written anew.
    assert (code, planned["rejected"], planned["unchanged"], published["manifest"]) == OUTCOMES[name]
    assert planned["units"] == planned["unchanged"]
