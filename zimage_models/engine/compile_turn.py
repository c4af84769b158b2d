"""Engines of one machine compile the same only once: one does, and the others load its results."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


@contextmanager
def compile_turn(forms: Path | None) -> Iterator[None]:
    """Wait while another engine of this machine compiles the same, then let the ``with`` body run.

    Args:
        forms: the file that marks them as kept on disk; None for an engine that compiles nothing.
    """
    if forms is None:
        yield
        return
    with FileLock(forms.with_suffix(".lock")):
        if not forms.exists():
            yield
            forms.touch()
            return
    # All engines may load at once.
    yield
