"""What ``import zimage_models`` offers, and when it imports what."""

import subprocess
import sys

import zimage_models

NAMES_ONLY = """
import sys
from zimage_models import DEFAULT_MODEL, EngineConfig, InvalidRequest
assert "numpy" not in sys.modules
from zimage_models import build_engine
assert "torch" not in sys.modules
"""


def test_every_name_is_there() -> None:
    for name in zimage_models.__all__:
        assert getattr(zimage_models, name) is not None
    assert not hasattr(zimage_models, "buildengine")


def test_constants_come_without_numpy_and_the_engine_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", NAMES_ONLY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
