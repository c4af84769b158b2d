import csv
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.plan.file_names import DEFAULT_NAME, NameTemplate
from pipelines.plan.templates import KeyTemplate, PromptTemplate, RowFilter

ROOT = Path(__file__).parents[2]
SECTION = (
    (ROOT / "docs" / "batch.md").read_text("utf-8").partition("\n## Catalogues\n")[2].partition("\n## ")[0]
)


def documented_options() -> dict[str, str]:
    """Read the command of the documentation."""
    [command] = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)
    _, _, table, _, *words = shlex.split(command.replace("\\\n", ""))
    return {"table": table, **dict(zip(words[::2], words[1::2], strict=True))}


def documented_rows() -> list[tuple[str, ...]]:
    """Read the key, prompt and file of each row of the documentation's table."""
    lines = [line.strip("|").split("|") for line in SECTION.splitlines() if line.startswith("| `")]
    return [tuple(cell.strip().strip("`") for cell in line) for line in lines]


def filled_rows(table: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a CSV file, with empty cells of these columns filled from above."""
    above: dict[str, str] = {}
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            above |= {name: row[name] for name in columns if row[name]}
            yield {name: value or None for name, value in {**row, **above}.items()}


def test_the_documented_command_gives_the_documented_rows() -> None:
    options = documented_options()
    rows = list(filled_rows(ROOT / options["table"], options["--fill-down"].split(",")))
    keep = RowFilter(options["--where"], columns=rows[0])
    key = KeyTemplate(options["--key"], columns=rows[0])
    prompt = PromptTemplate(options["--template"], columns=rows[0])
    name = NameTemplate(DEFAULT_NAME, columns=["key", "variant"], image_format="png")
    made = [
        (
            key.render(row),
            prompt.render(row),
            f"images/{name.render({'key': key.render(row), 'variant': 0})}",
        )
        for row in rows
        if keep.keep(row)
    ]
    assert len(made) == 8
    assert made == documented_rows()
