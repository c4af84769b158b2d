"""Memory of this process. It does not import torch, because the fake engine uses it too."""

import resource
import sys


def process_peak_bytes() -> int:
    """Return the peak memory of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
