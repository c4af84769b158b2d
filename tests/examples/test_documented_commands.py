"""Commands of the documentation that generate images from the examples."""

import re
import shlex
from pathlib import Path

import pytest

from jobs import cli
from tests.pipelines.plan_fixtures import DataSet

ROOT = Path(__file__).parents[2]
TABLES = (ROOT / "docs" / "tables.md").read_text("utf-8")
COMMANDS = [
    shlex.split(command, comments=True)
    for text in ((ROOT / "README.md").read_text("utf-8"), TABLES)
    for command in re.findall(r"^zimage (generate examples/.*)", text.replace("\\\n", ""), re.MULTILINE)
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: Path(command[1]).name)
def test_every_row_of_an_example_can_be_made(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    verb, table, _, *options = command
    assert cli.run([verb, table, str(tmp_path), *options, "--dry-run"]) == 0


def test_the_catalogue_gives_the_documented_keys_prompts_and_files(tmp_path: Path) -> None:
    [(_, table, _, *words)] = [command for command in COMMANDS if "shopify" in command[1]]
    options = dict(zip(words[::2], words[1::2], strict=True))
    data_set = DataSet(folder=tmp_path)
    plan = data_set.plan(
        str(ROOT / table),
        fill_down=options["--fill-down"].split(","),
        where=options["--where"],
        key=options["--key"],
        template=options["--template"],
    )
    made = [(row["key"], row["prompt"], f"images/{row['file_name']}") for row in data_set.work(plan)]
    section = TABLES.partition("\n## Catalogues\n")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    assert made == [tuple(cell.strip().strip("`") for cell in line) for line in lines]
    assert len(made) == 8
