"""Names of columns that have none, or share one. It knows nothing about the columns' meaning."""

from collections.abc import Collection, Iterator, Sequence


def repeated_names(names: Sequence[str], uri: str) -> dict[str, str]:
    """Return the names that several columns have, and why such columns cannot be read.

    Nameless columns (``""``) do not count.
    """
    positions: dict[str, list[str]] = {}
    for position, name in enumerate(names, start=1):
        positions.setdefault(name, []).append(str(position))
    return {
        name: f"input: {uri}: columns {', '.join(found)} are all called {name!r}; rename or drop them"
        for name, found in positions.items()
        if name and len(found) > 1
    }


def made_up_name(position: int, taken: Collection[str]) -> str:
    """Return a free name for the nameless column at a position, from 1: ``column_1``, else ``column_1_2``."""
    return next(name for name in _candidates(f"column_{position}") if name not in taken)


def _candidates(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1
