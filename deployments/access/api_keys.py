"""API keys: identifies a caller by its key's digest. Keys themselves are never logged or kept."""

import hmac
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from zimage_models.errors import InvalidRequest

logger = logging.getLogger(__name__)

_FIELD = "api_keys"
_CHECK_INTERVAL_S = 1.0
_SHA256 = re.compile("[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One caller and its limits; None means no limit."""

    name: str
    digest: bytes = field(repr=False)
    requests_per_minute: int | None = None
    max_concurrent: int | None = None


class ApiKeys:
    """The keys of a file, reread when it changes, and of an environment variable, read once.

    Args:
        path: YAML or JSON: a list of ``{name, key | key_sha256, requests_per_minute?, max_concurrent?}``.
        environment_variable: its name; it holds ``name=key`` pairs or plain keys, separated by commas.
        clock: monotonic, in seconds.

    Raises:
        InvalidRequest: the file is missing, broken or empty, or a name or key is given twice.
    """

    def __init__(
        self,
        *,
        path: Path | None,
        environment_variable: str | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._clock = clock
        self._environment_keys = _environment_keys(environment_variable)
        self._checked_at = clock()
        self._version = self._file_version()
        self._keys = self._load()

    @property
    def enabled(self) -> bool:
        """Whether any key is configured. Emptying the file does not turn this off; it counts as broken."""
        return bool(self._keys)

    def identify(self, presented: str) -> ApiKey | None:
        """Return the key's owner, or None; the time taken does not reveal how much of a key was right."""
        self._reload_if_changed()
        digest = _digest(presented)
        matches = [key for key in self._keys if hmac.compare_digest(key.digest, digest)]
        return matches[0] if matches else None

    def _reload_if_changed(self) -> None:
        now = self._clock()
        if self._path is None or now - self._checked_at < _CHECK_INTERVAL_S:
            return
        self._checked_at = now
        version = self._file_version()
        if version == self._version:
            return
        # Set before reading, so that a file that changes meanwhile is read again.
        self._version = version
        try:
            self._keys = self._load()
        except InvalidRequest as error:
            logger.error("%s; the %d keys read before remain valid", error, len(self._keys))

    def _file_version(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _load(self) -> tuple[ApiKey, ...]:
        from_file = () if self._path is None else _file_keys(self._path)
        keys = (*from_file, *self._environment_keys)
        for what, values in (("name", [key.name for key in keys]), ("key", [key.digest for key in keys])):
            if len(set(values)) < len(values):
                raise InvalidRequest(f"{_FIELD}: a {what} is given twice", field=_FIELD)
        return keys


def _sha256(text: str) -> str:
    if not _SHA256.fullmatch(text):
        raise ValueError("not a sha256 of 64 hexadecimal digits")
    return text


class _FileEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1)
    key: SecretStr | None = Field(default=None, min_length=1)
    key_sha256: Annotated[str, AfterValidator(_sha256)] | None = None
    requests_per_minute: int | None = Field(default=None, ge=1)
    max_concurrent: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_key(self) -> "_FileEntry":
        if (self.key is None) == (self.key_sha256 is None):
            raise ValueError("exactly one of key and key_sha256 is needed")
        return self

    def api_key(self) -> ApiKey:
        digest = _digest(self.key.get_secret_value()) if self.key else bytes.fromhex(self.key_sha256 or "")
        limits = self.model_dump(include={"requests_per_minute", "max_concurrent"})
        return ApiKey(name=self.name, digest=digest, **limits)


_FILE_ENTRIES = TypeAdapter(Annotated[list[_FileEntry], Field(min_length=1)])


def _file_keys(path: Path) -> tuple[ApiKey, ...]:
    # YAML and pydantic quote the file and its keys in their errors; ours neither repeat nor chain them.
    try:
        entries = _FILE_ENTRIES.validate_python(yaml.safe_load(path.read_text("utf-8")))
    except OSError as error:
        raise InvalidRequest(f"{_FIELD}: cannot read {path}: {error.strerror}", field=_FIELD) from error
    except ValidationError as error:
        raise InvalidRequest(f"{_FIELD}: {path}: {_first_problem(error)}", field=_FIELD) from None
    # ValueError: bytes that are not UTF-8, or an invalid date.
    except (yaml.YAMLError, ValueError):
        raise InvalidRequest(f"{_FIELD}: {path} is not YAML or JSON in UTF-8", field=_FIELD) from None
    return tuple(entry.api_key() for entry in entries)


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_input=False, include_context=False, include_url=False)[0]
    # An unknown field name may be a misplaced key.
    place = [str(part) for part in problem["loc"] if isinstance(part, int) or part in _FileEntry.model_fields]
    return ": ".join([*place, problem["msg"].removeprefix("Value error, ")])


def _environment_keys(variable: str | None) -> tuple[ApiKey, ...]:
    text = os.environ.get(variable, "") if variable else ""
    if not text.strip():
        return ()
    return tuple(
        _environment_key(entry.strip(), f"{variable}: entry {i}") for i, entry in enumerate(text.split(","))
    )


def _environment_key(entry: str, place: str) -> ApiKey:
    name, _, key = (part.strip() for part in entry.partition("="))
    # An entry with nothing but "=" after its first "=" is a plain key with base64 padding.
    if not key.strip("="):
        name, key = "", entry
    if not key:
        raise InvalidRequest(f"{_FIELD}: {place} is empty", field=_FIELD)
    digest = _digest(key)
    return ApiKey(name=name or f"key-{digest.hex()[:8]}", digest=digest)


def _digest(key: str) -> bytes:
    # Headers may contain lone surrogates, which match no key but must not raise.
    return sha256(key.encode("utf-8", "surrogatepass")).digest()
