"""Content addresses: what makes two images the same unit of work, and fast sets of such addresses."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from zimage_models.image_codec import Encoding
from zimage_models.requests import GENERATION_FIELDS, ImageRequest

UNIT_ID_DIGITS = 32
_MAX_DERIVED_SEED = 2**53 - 1  # exact in JSON readers that use doubles


def unit_id(
    request: ImageRequest, *, variant: int, weights_sha256: str, encoding: Encoding, salt: str = ""
) -> str:
    """Address one image by all that decides its pixels and its file.

    Args:
        request: the resolved request.
        variant: index among the images of one row.
        weights_sha256: identity of the weights.
        encoding: how the pixels are written.
        salt: told apart from an earlier unit of the same content.

    Returns:
        32 hexadecimal digits.
    """
    content = {name: getattr(request, name) for name in GENERATION_FIELDS}
    content |= {"variant": variant, "weights": weights_sha256, "encoding": asdict(encoding), "salt": salt}
    return digest(content)


def digest(content: Any) -> str:
    """Hash any JSON-like content (other values by their text) to 32 hexadecimal digits."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:UNIT_ID_DIGITS]


def derive_seed(job_seed: int, key: str, variant: int) -> int:
    """Derive a row's seed from its key, so that re-sharding or reordering a table changes no image.

    Returns:
        0 .. 2**53 - 1.
    """
    text = f"{job_seed}|{variant}|{key}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") & _MAX_DERIVED_SEED


class UnitIndex:
    """Positions of unit ids, 32 bytes each; a lookup is a vectorised binary search."""

    def __init__(self, columns: Iterable[pa.ChunkedArray | pa.Array]) -> None:
        arrays = [_as_fixed(column) for column in columns]
        ids = np.concatenate(arrays) if arrays else np.empty(0, dtype=f"S{UNIT_ID_DIGITS}")
        self._order = np.argsort(ids, kind="stable")
        self._sorted = ids[self._order]

    def __len__(self) -> int:
        return len(self._sorted)

    def positions(self, ids: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.int64]:
        """Return where each id stands in the order given at construction; -1 for an unknown one."""
        wanted = _as_fixed(ids)
        found = np.full(len(wanted), -1, dtype=np.int64)
        if len(self._sorted):
            places = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
            known = self._sorted[places] == wanted
            found[known] = self._order[places[known]]
        return found

    def contains(self, ids: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.bool_]:
        """Say which ids are known."""
        return self.positions(ids) >= 0


def _as_fixed(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.bytes_]:
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=f"S{UNIT_ID_DIGITS}")


class SeenHashes:
    """A growing set of 64-bit hashes at 8 bytes each, for millions of keys on a driver.

    Sorted runs are merged when they reach the size of their elder, as in a log-structured merge tree.
    """

    def __init__(self) -> None:
        self._runs: list[npt.NDArray[np.uint64]] = []
        self._fresh: set[int] = set()

    def add(self, text: str) -> bool:
        """Add a text; returns False when it was there already."""
        value = int.from_bytes(
            hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
        )
        if value in self._fresh or any(_in_sorted(run, value) for run in self._runs):
            return False
        self._fresh.add(value)
        if len(self._fresh) >= 65_536:
            self._compact()
        return True

    def _compact(self) -> None:
        run = np.fromiter(self._fresh, dtype=np.uint64, count=len(self._fresh))
        run.sort()
        self._fresh = set()
        while self._runs and len(self._runs[-1]) <= len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort()
        self._runs.append(run)


def _in_sorted(run: npt.NDArray[np.uint64], value: int) -> bool:
    needle = np.uint64(value)
    place = int(run.searchsorted(needle))
    return place < len(run) and bool(run[place] == needle)
