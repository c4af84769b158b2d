"""A job has no more engines than its work keeps busy, so that a small one gives all cores to a few."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.options import GenerateOptions
from pipelines.run.run_plan import fit_engines


@pytest.mark.parametrize(
    ("settings", "num_units", "expected"),
    [
        ({"engines_max": 8}, 6, 1),
        ({"engines_max": 8}, 2 * 16 + 1, 2),
        ({"engines_max": 8}, 10_000, 8),
        ({"engines_max": 8, "commit_rows": 1}, 6, 3),
        ({"engines_max": 8, "engines_min": 4}, 6, 4),
    ],
)
def test_engines_of_a_job(settings: dict[str, Any], num_units: int, expected: int, tmp_path: Path) -> None:
    options = GenerateOptions.model_validate({"input": ("a.csv",), "output": str(tmp_path)} | settings)
    assert fit_engines(options, num_units).engines_max == expected
