"""What `schemathesis run` needs to know of our API beyond its description."""

import contextlib
import io
from typing import Any

import schemathesis
from hypothesis import strategies as st
from PIL import Image


def _png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "png")
    return file.getvalue()


# Random bytes are no picture: with them no edit would ever be made.
schemathesis.openapi.format("binary", st.just(_png()))


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Leave time enough: past a deadline a 503 or 504 is the right answer."""
    with contextlib.suppress(KeyError, ValueError):
        if 0 < float(case.headers["x-request-timeout"]) < 60:
            case.headers["x-request-timeout"] = "60"
