"""Content addresses: what makes two images the same unit of work, and fast sets of such addresses."""

import hashlib
import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from zimage_models.image_files.image_codec import Encoding
from zimage_models.request_fields import GENERATION_FIELDS, REQUEST_FIELDS
from zimage_models.requests import ImageRequest

UNIT_ID_DIGITS = 32
_FIRST_FIELDS = (
    "prompt",
    "negative_prompt",
    "height",
    "width",
    "num_inference_steps",
    "guidance_scale",
    "seed",
    "cfg_normalization",
    "cfg_truncation",
    "truncate_prompt",
)
"""The fields of release 0.1, in an order that must never change: every address begins with their values."""
_LATER_FIELDS = tuple(name for name in GENERATION_FIELDS if name not in _FIRST_FIELDS)
"""Fields that came later; at its default a field leaves the addresses as they were before it."""
_MAX_DERIVED_SEED = 2**53 - 1  # exact in JSON readers that use doubles
_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)


def unit_id(
    request: ImageRequest,
    *,
    variant: int,
    weights_sha256: str,
    shift: float,
    encoding: Encoding,
    files: Sequence[str | None] = (),
    control: str | None = None,
    salt: str = "",
) -> str:
    """Address one image by all that decides its pixels and its file.

    Args:
        request: the resolved request.
        variant: index among the images of one row.
        weights_sha256: identity of the weights.
        shift: the checkpoint's time shift, which stands in its scheduler's configuration.
        encoding: how the pixels are written.
        files: sha256 of the files of its pictures: of its mask, or None, and of its reference images.
        control: sha256 of the file of its control image, if it has one.
        salt: told apart from an earlier unit of the same content.

    Returns:
        32 hexadecimal digits.
    """
    # As text: JSON takes half a microsecond for each float.
    settings = [str(getattr(request, name)) for name in _FIRST_FIELDS]
    content: list[Any] = [settings, variant, weights_sha256, str(shift), _fields(encoding), salt]
    if files:
        content.append([*files, str(request.strength)])
    # Only of a unit that has one: those that have none keep the address of earlier releases.
    if control is not None:
        content.append(["control_image", control, str(request.controlnet_conditioning_scale)])
    for name in _LATER_FIELDS:
        if (value := getattr(request, name)) != REQUEST_FIELDS[name].default:
            content.append([name, str(value)])
    return digest(content)


@lru_cache
def _fields(encoding: Encoding) -> list[str]:
    return [str(value) for value in astuple(encoding)]


def digest(content: Any) -> str:
    """Hash any JSON-like content (other values by their text) to 32 hexadecimal digits."""
    text = _JSON.encode(content).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()[:UNIT_ID_DIGITS]


def derive_seed(job_seed: int, key: str, variant: int) -> int:
    """Derive a row's seed from its key, so that re-sharding or reordering a table changes no image.

    Returns:
        0 .. 2**53 - 1.
    """
    text = f"{job_seed}|{variant}|{key}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") & _MAX_DERIVED_SEED


class UnitIndex:
    """Positions of unit ids, 32 bytes each; a lookup is a vectorised binary search."""

    def __init__(self, columns: "Iterable[pa.ChunkedArray[pa.StringScalar] | pa.StringArray]") -> None:
        ids = np.concatenate([np.empty(0, dtype=f"S{UNIT_ID_DIGITS}"), *map(as_fixed, columns)])
        self._order = np.argsort(ids, kind="stable")
        self._sorted = ids[self._order]

    def __len__(self) -> int:
        return len(self._sorted)

    def positions(self, ids: "pa.ChunkedArray[pa.StringScalar] | pa.StringArray") -> npt.NDArray[np.int64]:
        """Return where each id stands in the order given at construction; -1 for an unknown one."""
        wanted = as_fixed(ids)
        found = np.full(len(wanted), -1, dtype=np.int64)
        if len(self._sorted):
            places = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
            known = self._sorted[places] == wanted
            found[known] = self._order[places[known]]
        return found

    def contains(self, ids: "pa.ChunkedArray[pa.StringScalar] | pa.StringArray") -> npt.NDArray[np.bool_]:
        """Say which ids are known."""
        return self.positions(ids) >= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedUnits:
    """Units that need no engine any more."""

    made: UnitIndex
    failed: UnitIndex


def as_fixed(column: "pa.ChunkedArray[pa.StringScalar] | pa.StringArray") -> npt.NDArray[np.bytes_]:
    """Turn a column of ids, or other digests, into an array of 32 bytes each.

    What is no id at all, as in a damaged file, becomes blanks, which no unit has.
    """
    is_id = pc.equal(pc.binary_length(column), pa.scalar(UNIT_ID_DIGITS, pa.int32()))
    ids = pc.if_else(is_id.fill_null(False), column, " " * UNIT_ID_DIGITS).cast(pa.binary(UNIT_ID_DIGITS))
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    values = np.frombuffer(ids.buffers()[1] or b"", dtype=f"S{UNIT_ID_DIGITS}")
    return values[ids.offset : ids.offset + len(ids)]


class SeenHashes:
    """A growing set of texts, kept as 64-bit hashes at 12 to 24 bytes each: millions of keys fit on a driver.

    An open-addressing table; an array takes a tenth of what a Python set of integers does.
    """

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * 1024))
        self._num_taken = 0

    def add(self, text: str) -> bool:
        """Add a text; returns False when it was there already."""
        # 0 marks a free slot.
        if not _insert(self._slots, hash(text) & 0xFFFF_FFFF_FFFF_FFFF or 1):
            return False
        self._num_taken += 1
        if 3 * self._num_taken > 2 * len(self._slots):
            grown = array("Q", bytes(8 * 2 * len(self._slots)))
            for value in self._slots:
                if value:
                    _insert(grown, value)
            self._slots = grown
        return True


def _insert(slots: "array[int]", value: int) -> bool:
    last = len(slots) - 1
    place = value & last
    while held := slots[place]:
        if held == value:
            return False
        place = (place + 1) & last
    slots[place] = value
    return True
