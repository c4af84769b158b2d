"""Compare the tensors that a component's configuration asks for with those that its files hold."""

from collections.abc import Mapping
from pathlib import Path

from zimage_models.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]


def compare_tensors(wanted: Shapes, found: Shapes, folder: Path, *, has_all: bool = True) -> None:
    """Check the tensors of a component.

    Args:
        wanted: what its configuration asks for.
        found: what its files hold.
        folder: the component's, for the message.
        has_all: whether ``wanted`` is all that there may be.

    Raises:
        CheckpointError: some are missing, unexpected or misshapen.
    """
    problems = {
        "missing": wanted.keys() - found.keys(),
        "unexpected": found.keys() - wanted.keys() if has_all else set(),
        "misshapen": {name for name in wanted.keys() & found.keys() if wanted[name] != found[name]},
    }
    counts = [f"{len(names)} {kind} (such as {min(names)})" for kind, names in problems.items() if names]
    if counts:
        raise CheckpointError(f"{folder}: the tensors do not match its config.json: {', '.join(counts)}")
