"""The schedule whose worst errors are smallest: a lexicographic minimax path. Plain Python.

Method: LeMiCa (H. Gao et al., "LeMiCa: Lexicographic Minimax Path Caching for Efficient Diffusion-Based Video
Generation", arXiv 2511.00090). Nodes are steps; an edge from i to j computes step i, reuses it for the steps
between, and computes j. A path from the first step to the last is a schedule.
"""

from collections.abc import Mapping
from dataclasses import dataclass

Edge = tuple[int, int]
"""Two computed steps, between which the first one is reused."""


@dataclass(frozen=True, slots=True, order=True)
class Path:
    """A path, ordered by its errors: the largest first, then the next ones; then by its steps."""

    errors: tuple[float, ...]
    """Of its edges, the largest first."""
    steps: tuple[int, ...]

    def extended(self, step: int, error: float) -> "Path":
        """Return the path with one more edge."""
        return Path(tuple(sorted((*self.errors, error), reverse=True)), (*self.steps, step))


def best_path(num_steps: int, num_computed: int, errors: Mapping[Edge, float]) -> Path:
    """Return the smallest path from step 0 to the last with so many steps on it.

    It is found step by step: paths that end at one step with one number of steps keep their order when the
    same edge is added to them, so only the smallest of them can be the beginning of the answer.

    Args:
        num_steps: steps of the run.
        num_computed: steps of the path.
        errors: error of each edge that skips steps; others are not taken. An edge that skips none has no
            error.

    Raises:
        ValueError: there is no such path.
    """
    into: dict[int, list[tuple[int, float]]] = {step: [(step - 1, 0.0)] for step in range(1, num_steps)}
    for (start, end), error in errors.items():
        into[end].append((start, error))
    best = {0: Path((), (0,))}
    for _ in range(num_computed - 1):
        best = {
            end: min(best[start].extended(end, error) for start, error in edges if start in best)
            for end, edges in into.items()
            if any(start in best for start, _ in edges)
        }
    if num_steps - 1 not in best:
        raise ValueError(f"no path over {num_steps} steps computes {num_computed}")
    return best[num_steps - 1]
