"""Waiting for what a test has set going."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def eventually(get: Callable[[], Value], what: str, *, timeout_s: float = 200) -> Value:
    """Wait until something holds (or is there), and return it."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := get()):
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)
    return value
