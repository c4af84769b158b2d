"""Names of columns that have none, or share one. It knows nothing about the columns' meaning."""

from collections.abc import Collection, Iterator, Sequence

from zimage_models.errors import InvalidRequest


def check_unique(names: Sequence[str], uri: str) -> None:
    """Check that no two columns have the same name; nameless ones (``""``) do not count.

    Raises:
        InvalidRequest: some do; it names all of them with their positions.
    """
    positions: dict[str, list[str]] = {}
    for position, name in enumerate(names, start=1):
        positions.setdefault(name, []).append(str(position))
    twice = [
        f"{name!r} (columns {', '.join(found)})"
        for name, found in positions.items()
        if name and len(found) > 1
    ]
    if twice:
        raise InvalidRequest(
            f"input: {uri}: several columns have the same name: {', '.join(twice)}; rename them",
            field="input",
        )


def made_up_name(position: int, taken: Collection[str]) -> str:
    """Return a free name for the nameless column at a position, from 1: ``column_1``, else ``column_1_2``."""
    return next(name for name in _candidates(f"column_{position}") if name not in taken)


def _candidates(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1
