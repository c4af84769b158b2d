"""Exit codes of the command line."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of a command."""

    OK = 0
    NO_RAY = 1
    """Ray could not be started."""
    BAD_USAGE = 2
    SOME_ROWS_FAILED = 3
    STOPPED = 4
    """Stopped by a cap or a time limit; the same command resumes the run."""
    INTERRUPTED = 130
    """Interrupted; the same command resumes the run."""
