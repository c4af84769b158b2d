"""Start ranks as local processes. They end when this process ends, for any reason."""

import os
import socket
import subprocess
import sys
import threading
from itertools import count
from multiprocessing.connection import Connection
from typing import Any

from zimage_models.config import EngineConfig
from zimage_models.tensor_parallel.rank_launcher import Rendezvous

_KILL_TIMEOUT_S = 10.0
_SERVER_MODULE = "zimage_models.tensor_parallel.rank_server"


class LocalRankLauncher:
    """Starts ranks through a :mod:`.rank_server`, which imports torch and diffusers once."""

    host = "127.0.0.1"

    def __init__(self) -> None:
        self._numbers = count()
        self._ranks: dict[int, LocalRank] = {}
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        with theirs:
            # -P: do not import from the working directory first; it may hold another version.
            command = [sys.executable, "-P", "-m", _SERVER_MODULE, str(theirs.fileno())]
            self._server = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=_environment()
            )
        self._connection: Connection[Any, Any] = Connection(os.dup(self._socket.fileno()))
        self._listener = threading.Thread(target=self._listen, name="zimage-rank-server", daemon=True)
        self._listener.start()

    def launch(self, rank: int, rendezvous: Rendezvous, config: EngineConfig) -> "LocalRank":
        """Start one rank and return without waiting for it."""
        started = LocalRank(next(self._numbers), self)
        self._ranks[started.number] = started
        self.send(("start", started.number, rank, rendezvous, config))
        return started

    def close(self) -> None:
        """End the server, and with it all ranks."""
        with self._socket:
            # Closing alone would not wake the reading thread.
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            self._server.wait(_KILL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._listener.join()
        self._connection.close()

    def send(self, message: tuple[Any, ...]) -> None:
        """Send the server a message; if it is gone, so are its ranks."""
        with self._lock:
            try:
                self._connection.send(message)
            except (OSError, ValueError):
                self._all_ended()

    def _listen(self) -> None:
        try:
            while True:
                _, number = self._connection.recv()
                self._ranks.pop(number).ended.set()
        except (EOFError, OSError):
            self._all_ended()

    def _all_ended(self) -> None:
        for rank in list(self._ranks.values()):
            rank.ended.set()


class LocalRank:
    """A rank that runs on this machine."""

    def __init__(self, number: int, launcher: LocalRankLauncher) -> None:
        self.number = number
        self.ended = threading.Event()
        self._launcher = launcher

    @property
    def alive(self) -> bool:
        """Whether it may still be running."""
        return not self.ended.is_set()

    def kill(self) -> None:
        """Kill it, and return when it is gone."""
        if self.alive:
            self._launcher.send(("kill", self.number))
            self.ended.wait(_KILL_TIMEOUT_S)


def _environment() -> dict[str, str]:
    """Return the server's environment, with this process's import path: a Ray worker's is nowhere else."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    # A fork keeps one thread, so the server must have only one; OpenBLAS would start more with numpy.
    # PASSIVE: the ranks share the cores, so OpenMP threads must not spin while they wait.
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}
