"""Commands about models: what calibrating one prints and writes, and what it refuses before any work."""

import json
from pathlib import Path

import pytest

from jobs import cli
from zimage_models.checkpoints.tiny import build_tiny_checkpoint
from zimage_models.step_schedules import SCHEDULE_FILE


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_checkpoint(
        tmp_path_factory.mktemp("checkpoints") / "tiny", dim=16, num_layers=1, num_refiner_layers=1
    )


def test_calibrate_says_what_it_found_and_where_it_is(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("owl\n\n猫\n", "utf-8")
    options = ["--variant", "turbo", "--steps", "4", "--size", "32x32", "--prompts", tmp_path / "prompts.txt"]
    assert cli.run(["calibrate", *map(str, [checkpoint, *options])]) == 0
    high, fast, written = capsys.readouterr().out.splitlines()
    assert high.startswith("high: computes 3 of 4 steps (0 ")
    assert fast.startswith("fast: computes 2 of 4 steps (0 3); the largest error of a skip is ")
    assert written == f"written: {checkpoint / SCHEDULE_FILE}"
    assert json.loads((checkpoint / SCHEDULE_FILE).read_text())["schedules"]["4"]["num_prompts"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Tongyi-MAI/Z-Image"], "output: Tongyi-MAI/Z-Image is fetched"),
        (["s3://bucket/model"], "output: s3://bucket/model is fetched"),
        (["tiny-zimage-turbo", "--prompts", "nowhere.txt"], "prompts: nowhere.txt cannot be read"),
        (["tiny-zimage-turbo", "--image", "examples/pictures/owl.png"], "image: turbo reads no images"),
        (
            ["tiny-zimage-turbo", "--output", "nowhere/file.json"],
            "output: nowhere/file.json cannot be written",
        ),
        (
            ["tiny-zimage-turbo", "--steps", "2", "--output", "file.json"],
            "steps: 2 steps leave none to reuse",
        ),
    ],
)
def test_calibrate_refuses_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["calibrate", *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"zimage: error: {message}")
