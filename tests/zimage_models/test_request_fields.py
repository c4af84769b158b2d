"""The table of request fields: what it says of today's fields, and how far one entry reaches."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from zimage_models.field_spec import Way
from zimage_models.request_fields import EDIT_FIELDS, GENERATION_FIELDS, REQUEST_FIELDS, fields_of
from zimage_models.requests import ImageRequest

ROOT = Path(__file__).parents[2]
PACKAGES = ("jobs", "pipelines", "deployments", "zimage_models")

NEW_ENTRIES = """
        RequestField(
            name="sharpness",
            kind=FieldKind.NUMBER,
            ways=_VALUE | Way.IMAGE_FILE,
            arrow_type="float64",
            low=0,
            high=1,
            default=0.5,
            aliases=("sharp",),
        ),
        RequestField(
            name="finish",
            kind=FieldKind.CHOICE,
            ways=_VALUE,
            arrow_type="string",
            choices=("matt", "gloss"),
            default="matt",
        ),
        RequestField(
            name="blur",
            kind=FieldKind.NUMBER,
            ways=_IN | Way.HTTP_EDIT | Way.OPTION,
            arrow_type="float64",
            low=0,
            high=1,
            default=0.0,
            needs="reference_images",
        ),
"""
NEW_ATTRIBUTES = '    sharpness: float = 0.5\n    finish: str = "matt"\n    blur: float | None = None\n'

# Prints what became of the new fields, in a process that imports the changed copy of the packages.
REACH = """
import json
import numpy as np
from deployments.http.openai_types import EditBody, GenerateBody
from jobs.image_options import FieldOptions
from pipelines.part_schema import COLUMN_NAMES
from pipelines.plan.columns.choose_columns import ALIASES
from pipelines.unit_ids import unit_id
from pipelines.work_table import MADE_FROM_FIELDS, WORK_FIELDS
from pydantic import ValidationError
from zimage_models import InvalidRequest, EngineConfig, Picture, build_request
from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.image_files.image_codec import EMBEDDED_FIELDS, Encoding

spec = resolve_model(EngineConfig())
picture = Picture(pixels=np.zeros((64, 64, 3), np.uint8))

def id_of(**values):
    request = build_request(spec, {"prompt": "a red apple", "seed": 7, "width": 96, **values})
    files = [None, "cd" * 32] if request.reference_images else []
    return unit_id(request, variant=0, weights_sha256="ab" * 32, shift=3.0, encoding=Encoding(), files=files)

def refusal(make, **values):
    try:
        make(**values)
    except (InvalidRequest, ValidationError) as error:
        return str(error)

edit = {"reference_images": [picture], "strength": 0.6}
print(json.dumps({
    "columns": {name: ALIASES[name] for name in ("sharpness", "finish", "blur")},
    "work": [field.name for field in WORK_FIELDS],
    "parts": COLUMN_NAMES,
    "made_from": [field.name for field in MADE_FROM_FIELDS],
    "file": EMBEDDED_FIELDS,
    "options": [parameter.name for parameter in FieldOptions.parameters()],
    "generate": list(GenerateBody.model_fields),
    "edit": list(EditBody.model_fields),
    "http_refusal": refusal(GenerateBody, prompt="x", finish="satin"),
    "ids": {
        "plain": [id_of(), id_of(sharpness=0.5, finish="matt"), id_of(sharpness=0.6), id_of(finish="gloss")],
        "edit": [id_of(**edit), id_of(**edit, blur=0.0), id_of(**edit, blur=0.7)],
    },
    "refusals": [
        refusal(id_of, sharpness=2),
        refusal(id_of, finish="satin"),
        refusal(id_of, blur=0.5),
        refusal(id_of, **edit, blur=99),
    ],
}))
"""


def test_the_fields_are_those_of_a_request() -> None:
    # The model's schedule for quality_mode is no field of its own.
    hosting = {"priority", "deadline_s", "preview_every", "step_schedule"}
    attributes = {field.name for field in dataclasses.fields(ImageRequest)} - hosting
    assert {*GENERATION_FIELDS, *EDIT_FIELDS} == attributes
    assert REQUEST_FIELDS.keys() - attributes == {"size"}


def test_names_and_aliases_are_distinct() -> None:
    names = [name for field in fields_of(Way.COLUMN) for name in {field.outer_name, *field.aliases}]
    assert len(names) == len(set(names))


@pytest.fixture(scope="module")
def reach(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Add three fields to a copy of the packages, an entry and an attribute each; return where they show."""
    folder = tmp_path_factory.mktemp("packages")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, mark, added in (
        ("request_fields.py", '        RequestField(\n            name="strength",', NEW_ENTRIES),
        ("requests.py", "    truncate_prompt: bool = False\n", NEW_ATTRIBUTES),
    ):
        path = folder / "zimage_models" / name
        text = path.read_text("utf-8")
        assert text.count(mark) == 1
        path.write_text(text.replace(mark, added.strip("\n") + "\n" + mark), "utf-8")
    done = subprocess.run(
        [sys.executable, "-c", REACH],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_one_entry_is_a_column_an_option_and_a_field_of_the_api(reach: dict[str, Any]) -> None:
    assert reach["columns"] == {"sharpness": ["sharp"], "finish": [], "blur": []}
    assert {"sharpness", "finish", "blur"} <= {*reach["options"]}
    assert {"sharpness", "finish"} <= {*reach["generate"]} & {*reach["edit"]}
    assert "blur" in reach["edit"]
    assert "blur" not in reach["generate"]
    assert "'matt' or 'gloss'" in reach["http_refusal"]


def test_one_entry_is_in_work_table_parts_and_image_file(reach: dict[str, Any]) -> None:
    for place in ("work", "parts"):
        assert {"sharpness", "finish"} <= {*reach[place]}
    assert "blur" in reach["made_from"]
    assert "sharpness" in reach["file"]
    assert "finish" not in reach["file"]


def test_a_new_field_changes_an_id_only_where_it_is_used(reach: dict[str, Any]) -> None:
    plain, same, sharper, glossy = reach["ids"]["plain"]
    # As release 0.1 computed it, before there were such fields.
    assert plain == same == "bbcae945cac1e5748ff9ae1a9431575f"
    assert len({plain, sharper, glossy}) == 3
    edit, sharp, blurred = reach["ids"]["edit"]
    assert edit == sharp != blurred


def test_a_new_field_is_checked_by_its_entry(reach: dict[str, Any]) -> None:
    assert reach["refusals"] == [
        "sharpness: 2 is outside 0..1",
        "finish: 'satin' is not one of matt, gloss",
        "blur: 0.5 has no effect without reference_images",
        "blur: 99 is outside 0..1",
    ]
