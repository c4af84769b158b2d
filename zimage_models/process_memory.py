"""Memory of this process. It imports no torch: the fake engine reports it too."""

import resource
import sys


def process_peak_bytes() -> int:
    """Return the most memory this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
