"""A storage whose process is killed at one of its changes: from then on it does nothing at all."""

import threading
from typing import Any, Literal

import pyarrow.fs

from pipelines.storage import Listing, Storage

Moment = Literal["before", "within", "after"]
"""When it is killed: before or after a change, or within it, which leaves a moved file in both places."""


class Killed(BaseException):
    """The process is gone."""


class KilledStorage(Storage):
    """A storage that counts changes, and is killed at one of them once it is armed."""

    def __init__(self, inner: Storage) -> None:
        self.uri = inner.uri
        self.num_changes = 0
        self.written: list[str] = []
        """Paths of the files written, in order."""
        self._inner = inner
        self._last: tuple[int, Moment] | None = None
        self._dead = False
        self._lock = threading.Lock()

    def kill_at(self, change: int, moment: Moment) -> None:
        """Kill the process at the change of this number, counted from now."""
        self.num_changes = 0
        self._last = (change, moment)

    def revive(self) -> None:
        """Start another process, which is not killed."""
        self._dead, self._last = False, None

    @property
    def was_killed(self) -> bool:
        return self._dead

    def read(self, path: str, num_bytes: int | None = None) -> bytes:
        return self._living().read(path, num_bytes)

    def exists(self, path: str) -> bool:
        return self._living().exists(path)

    def list(self, prefix: str = "") -> Listing:
        return self._living().list(prefix)

    def arrow(self) -> tuple[pyarrow.fs.FileSystem, str]:
        return self._living().arrow()

    def write(self, path: str, data: bytes | memoryview) -> None:
        self._change("write", path, data)
        self.written.append(path)

    def create(self, path: str, data: bytes) -> bool:
        return bool(self._change("create", path, data))

    def delete(self, path: str) -> None:
        self._change("delete", path)

    def move(self, source: str, target: str) -> None:
        self._change("move", source, target)

    def _living(self) -> Storage:
        if self._dead:
            raise Killed
        return self._inner

    def _change(self, name: str, *arguments: Any) -> Any:
        with self._lock:
            self._living()
            moment = self._last[1] if self._last and self._last[0] == self.num_changes else None
            self.num_changes += 1
            self._dead = moment is not None
            if moment == "before":
                raise Killed
            if moment == "within" and name == "move":
                source, target = arguments
                self._inner.write(target, self._inner.read(source))
                raise Killed
            done = getattr(self._inner, name)(*arguments)
            if moment:
                raise Killed
            return done
