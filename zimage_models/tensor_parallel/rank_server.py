"""A process that imports everything once and forks ranks on request, in 0.1 s instead of 6 s.

:class:`.local_ranks.LocalRankLauncher` starts it with one end of a socket pair. It ends with its ranks when
the other end closes, however the engine's process ended.

``multiprocessing``'s fork server would import the caller's main module again in every child: Ray's worker
program, or a user's script without a guard.
"""

import ctypes
import gc
import logging
import os
import signal
import sys
from multiprocessing.connection import Connection, wait
from typing import Any

from zimage_models.config import EngineConfig
from zimage_models.tensor_parallel.rank_follower import run_rank
from zimage_models.tensor_parallel.rank_launcher import Rendezvous

_POLL_S = 0.1
_PR_SET_PDEATHSIG = 1
logger = logging.getLogger(__name__)


def main() -> None:
    """Serve one launcher; the argument is the socket's descriptor."""
    engine_pid = os.getppid()
    # Ctrl-C reaches the whole terminal group; the engine decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(format="%(asctime)s %(levelname)s rank: %(message)s")
    gc.collect()
    gc.freeze()
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    ranks: dict[int, int] = {}
    try:
        # Check the parent too, because a process forked from it may hold the socket's other end open.
        while os.getppid() == engine_pid:
            if wait([connection], _POLL_S):
                _handle(connection.recv(), connection, ranks)
            _report_ended(connection, ranks)
    except (EOFError, ConnectionError):
        pass
    finally:
        for pid in ranks.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _handle(message: tuple[Any, ...], connection: "Connection[Any, Any]", ranks: dict[int, int]) -> None:
    match message:
        case ("start", number, rank, rendezvous, config):
            sys.stdout.flush()
            sys.stderr.flush()
            server_pid = os.getpid()
            pid = os.fork()
            if pid == 0:
                _run_child(server_pid, connection, rank, rendezvous, config)
            ranks[number] = pid
        case ("kill", number) if number in ranks:
            os.kill(ranks[number], signal.SIGKILL)


def _report_ended(connection: "Connection[Any, Any]", ranks: dict[int, int]) -> None:
    for number, pid in list(ranks.items()):
        if os.waitpid(pid, os.WNOHANG)[0]:
            del ranks[number]
            connection.send(("ended", number))


def _run_child(
    server_pid: int,
    connection: "Connection[Any, Any]",
    rank: int,
    rendezvous: Rendezvous,
    config: EngineConfig,
) -> None:
    """Run a rank in a forked child; never return."""
    status = 1
    try:
        connection.close()
        if sys.platform == "linux":
            # The server kills its ranks when the engine ends; this covers the end of the server itself.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == server_pid:
            run_rank(rank, rendezvous, config)
            status = 0
    except BaseException:
        logger.exception("rank %d ended", rank)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
