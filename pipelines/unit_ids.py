"""Image IDs, which hash everything that affects an image, and fast sets of IDs."""

import hashlib
import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from zimage_models.config import EngineConfig
from zimage_models.image_files.image_codec import Encoding
from zimage_models.model_spec import ModelSpec
from zimage_models.request_fields import EDIT_SETTINGS, GENERATION_FIELDS, MAX_SEED, REQUEST_FIELDS
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
"""Fields of release 0.1, in an order that must never change: the hashed content starts with their values."""
_FIRST_EDIT_SETTINGS = ("strength", "controlnet_conditioning_scale")
_LATER_FIELDS = sorted({*GENERATION_FIELDS, *EDIT_SETTINGS} - {*_FIRST_FIELDS, *_FIRST_EDIT_SETTINGS})
"""Fields added later. At its default a field leaves IDs as they were before it, so the default is fixed."""
assert all(REQUEST_FIELDS[name].default is not None for name in _LATER_FIELDS), _LATER_FIELDS
_SEED_PLACE = _FIRST_FIELDS.index("seed")
_MAX_IDENTITY = 2**53 - 1
_NOTHING: Mapping[str, int] = MappingProxyType({})
_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)


PIXELS_VERSION = 1
"""Raised by a release that makes other pixels of the same settings, past the tolerance of rounding (another
denoising step, noise drawn otherwise): every image is then made again. Part of IDs from 2 on."""


def engine_settings(
    config: EngineConfig, spec: ModelSpec, *, tokenizer_rules: str
) -> tuple[tuple[str, str], ...]:
    """Return what of an engine decides pixels and is not as by default, for :func:`unit_id`.

    Args:
        config: the engine's; a dtype given explicitly counts even if ``auto`` would have chosen it, and the
            precision ``bf16`` is the dtype bfloat16.
        spec: its model.
        tokenizer_rules: :attr:`.PromptTokenizer.rules`.
    """
    settings = {
        "dtype": "" if config.computing_dtype == "auto" else config.computing_dtype,
        "precision": config.precision if config.precision == "fp8" else "",
        # Releases before 0.3 stored "float32", which was their default, and `zimage retry` reads it.
        "vae_dtype": "" if config.vae_dtype in ("auto", "float32") else config.vae_dtype,
        "scheduler": spec.scheduler,
        "model": spec.pixel_settings,
        "tokenizer": tokenizer_rules,
        "pixels_version": "" if PIXELS_VERSION == 1 else str(PIXELS_VERSION),
    }
    return tuple((name, value) for name, value in settings.items() if value)


def unit_id(
    request: ImageRequest,
    *,
    variant: int,
    weights_sha256: str,
    shift: float,
    encoding: Encoding,
    engine: Sequence[tuple[str, str]] = (),
    seed_identity: int | None = None,
    tokens_read: Mapping[str, int] = _NOTHING,
    files: Sequence[str | None] = (),
    control: str | None = None,
    salt: str = "",
) -> str:
    """Return an image's ID: a hash of everything that affects its pixels and its file.

    Args:
        request: the resolved request.
        variant: index among the images of one row.
        weights_sha256: hash that identifies the weights.
        shift: the checkpoint's time shift, from its scheduler's configuration.
        encoding: how the pixels are written.
        engine: what else of the engine decides pixels (:func:`engine_settings`).
        seed_identity: number hashed in place of the request's seed, if it was derived (:func:`derive_seed`).
        tokens_read: tokens read of the prompt and the negative prompt, by field, where they may be truncated
            and the model's default limit would give another number (:meth:`.PromptTokenizer.read_otherwise`).
        files: sha256 of the mask's file, or None, then of each reference image's file.
        control: sha256 of the control image's file, if there is one.
        salt: distinguishes the image from an earlier one with the same content.

    Returns:
        32 hexadecimal digits.
    """
    # As text: encoding a float as JSON takes half a microsecond.
    settings = [str(getattr(request, name)) for name in _FIRST_FIELDS]
    if seed_identity is not None:
        settings[_SEED_PLACE] = str(seed_identity)
    content: list[Any] = [settings, variant, weights_sha256, str(shift), _fields(encoding), salt]
    if files:
        content.append([*files, str(request.strength)])
    # Only if there is one: other images keep their IDs from earlier releases.
    if control is not None:
        content.append(["control_image", control, str(request.controlnet_conditioning_scale)])
    for name in _LATER_FIELDS:
        if (value := getattr(request, name)) not in (None, REQUEST_FIELDS[name].default):
            content.append([name, str(value)])
    if request.step_schedule is not None:
        content.append(["step_schedule", *request.step_schedule])
    content += [["engine", name, value] for name, value in engine]
    content += [["tokens_read", name, number] for name, number in sorted(tokens_read.items())]
    return digest(content)


@lru_cache
def _fields(encoding: Encoding) -> list[str]:
    return [str(value) for value in astuple(encoding)]


def digest(content: Any) -> str:
    """Hash any JSON-like content (other values as text) to 32 hexadecimal digits."""
    text = _JSON.encode(content).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()[:UNIT_ID_DIGITS]


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedSeed:
    """The seed of an image whose row gives none."""

    identity: int
    """A number in 0 .. 2**53 - 1, which releases before 0.3 also took for the seed: the ID hashes it."""

    @property
    def seed(self) -> int:
        """The bits of it that torch's CPU generator reads, so images made with all of them stay valid."""
        return self.identity & MAX_SEED


def derive_seed(job_seed: int, key: str, variant: int) -> DerivedSeed:
    """Derive a row's seed from its key, so that re-sharding or reordering a table changes no image."""
    text = f"{job_seed}|{variant}|{key}"
    digest = hashlib.sha256(text.encode()).digest()
    return DerivedSeed(identity=int.from_bytes(digest[:8], "big") & _MAX_IDENTITY)


class UnitIndex:
    """Index from image IDs, 32 bytes each, to positions; a lookup is a vectorised binary search."""

    def __init__(self, columns: "Iterable[pa.ChunkedArray[pa.StringScalar] | pa.StringArray]") -> None:
        ids = np.concatenate([np.empty(0, dtype=f"S{UNIT_ID_DIGITS}"), *map(as_fixed, columns)])
        self._order = np.argsort(ids, kind="stable")
        self._sorted = ids[self._order]

    def __len__(self) -> int:
        return len(self._sorted)

    def positions(self, ids: "pa.ChunkedArray[pa.StringScalar] | pa.StringArray") -> npt.NDArray[np.int64]:
        """Return each ID's position in the order given at construction, or -1 if it is unknown."""
        wanted = as_fixed(ids)
        found = np.full(len(wanted), -1, dtype=np.int64)
        if len(self._sorted):
            places = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
            known = self._sorted[places] == wanted
            found[known] = self._order[places[known]]
        return found

    def contains(self, ids: "pa.ChunkedArray[pa.StringScalar] | pa.StringArray") -> npt.NDArray[np.bool_]:
        """Return which IDs are known."""
        return self.positions(ids) >= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedUnits:
    """Units that no longer need an engine."""

    made: UnitIndex
    failed: UnitIndex


def as_fixed(column: "pa.ChunkedArray[pa.StringScalar] | pa.StringArray") -> npt.NDArray[np.bytes_]:
    """Convert a column of IDs or other digests to an array of 32 bytes each.

    An invalid value, as in a damaged file, becomes blanks, which match no unit.
    """
    is_id = pc.equal(pc.binary_length(column), pa.scalar(UNIT_ID_DIGITS, pa.int32()))
    ids = pc.if_else(is_id.fill_null(False), column, " " * UNIT_ID_DIGITS).cast(pa.binary(UNIT_ID_DIGITS))
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    values = np.frombuffer(ids.buffers()[1] or b"", dtype=f"S{UNIT_ID_DIGITS}")
    return values[ids.offset : ids.offset + len(ids)]


class SeenHashes:
    """A growing set of strings, stored as 64-bit hashes at 12 to 24 bytes each: millions fit on a driver.

    An open-addressing table in an array, which takes a tenth of the memory of a Python set of integers.
    """

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * 1024))
        self._num_taken = 0

    def __contains__(self, text: str) -> bool:
        return bool(self._slots[_place_of(self._slots, _slot_value(text))])

    def add(self, text: str) -> bool:
        """Add a string; return False if it was already there."""
        if not _insert(self._slots, _slot_value(text)):
            return False
        self._num_taken += 1
        if 3 * self._num_taken > 2 * len(self._slots):
            grown = array("Q", bytes(8 * 2 * len(self._slots)))
            for value in self._slots:
                if value:
                    _insert(grown, value)
            self._slots = grown
        return True


def _slot_value(text: str) -> int:
    return hash(text) & 0xFFFF_FFFF_FFFF_FFFF or 1  # 0 marks a free slot


def _insert(slots: "array[int]", value: int) -> bool:
    place = _place_of(slots, value)
    if slots[place]:
        return False
    slots[place] = value
    return True


def _place_of(slots: "array[int]", value: int) -> int:
    """Return the slot that holds a value, or the free one that it would take."""
    last = len(slots) - 1
    place = value & last
    while slots[place] not in (0, value):
        place = (place + 1) & last
    return place
