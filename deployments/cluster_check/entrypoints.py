"""The ``zimage`` command lines inside manifests."""

import shlex
from collections.abc import Callable, Iterator

from deployments.cluster_check.demand import Demand
from deployments.cluster_check.documents import Document, Place, Problem
from deployments.cluster_check.fleet import Fleet
from zimage_models.errors import InvalidRequest

CommandReader = Callable[[list[str]], Demand | None]
"""Reads the arguments of ``zimage`` as the command line does; returns its engines, or InvalidRequest."""

_PLACEHOLDER = "s3://my-bucket/"


def entrypoint_problems(
    document: Document, place: Place, words: str | list[str], read_command: CommandReader, fleet: Fleet | None
) -> Iterator[Problem]:
    """Check a command line against the real one, and its engines against the nodes."""
    try:
        words = shlex.split(words) if isinstance(words, str) else words
    except ValueError as error:
        yield document.problem(place, f"is no command line: {error}")
        return
    if not words or words[0] != "zimage":
        yield document.problem(place, f"runs {words[0] if words else 'nothing'}, not zimage")
        return
    try:
        demand = read_command(words[1:])
    except InvalidRequest as error:
        yield document.problem(place, f"zimage does not take it: {error}")
        return
    if any(word.startswith(_PLACEHOLDER) for word in words):
        yield document.problem(place, f"{_PLACEHOLDER} is a placeholder for your bucket", to_fill_in=True)
    if demand is None or fleet is None:
        return
    misfit = fleet.misfit(demand)
    if misfit:
        yield document.problem(place, misfit)
        return
    short = fleet.left_over([demand]).total()
    if short:
        message = f"asks for up to {demand.count} engines; {fleet.name} has room for {demand.count - short}"
        yield document.problem(place, message)
