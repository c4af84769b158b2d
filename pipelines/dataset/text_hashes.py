"""Sets of texts as sorted 64-bit hashes: 8 bytes each, so those of millions of rows fit on a driver."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Hashes = npt.NDArray[np.int64]


def hash_texts(texts: "pa.ChunkedArray[pa.StringScalar]") -> Hashes:
    """Return a hash of each text; hashes are comparable only within a process."""
    return np.fromiter(map(hash, texts.to_pylist()), np.int64, len(texts))


def hash_set(hashes: Iterable[Hashes]) -> Hashes:
    """Return all hashes once each, in ascending order."""
    joined = np.concatenate([np.empty(0, np.int64), *hashes])
    joined.sort()
    is_first: npt.NDArray[np.bool_] = np.diff(joined, prepend=~joined[:1]) != 0
    distinct: Hashes = joined[is_first]
    return distinct


def are_in(hashes: Hashes, known: Hashes) -> npt.NDArray[np.bool_]:
    """Return which hashes a set has."""
    if not len(known):
        return np.zeros(len(hashes), dtype=np.bool_)
    places = np.searchsorted(known, hashes)
    found: npt.NDArray[np.bool_] = np.take(known, places, mode="clip") == hashes
    return found
