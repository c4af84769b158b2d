"""From one input row to the units of work it asks for. It knows no file and no other row's content."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.columns import ColumnMap
from pipelines.options import GenerateOptions
from pipelines.templates import DEFAULT_NAME, NameTemplate, PromptTemplate, RowFilter, check_key
from pipelines.unit_ids import SeenHashes, derive_seed, digest, unit_id
from zimage_models.errors import InvalidRequest
from zimage_models.model_spec import ModelSpec
from zimage_models.requests import ImageRequest, build_request

_MAX_VARIANTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedUnit:
    """One image that a row asks for."""

    unit_id: str
    variant: int
    request: ImageRequest
    file_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedRow:
    """A usable row: its key and the images it asks for; no units if it repeats an earlier row exactly."""

    key: str
    units: tuple[ResolvedUnit, ...]


class RowResolver:
    """Applies column mapping, template, defaults and limits, and keeps keys, names and units unique."""

    def __init__(
        self,
        options: GenerateOptions,
        *,
        columns: ColumnMap,
        column_names: list[str],
        spec: ModelSpec,
        weights_sha256: str,
    ) -> None:
        self._options = options
        self._columns = columns
        self._spec = spec
        self._weights_sha256 = weights_sha256
        self._template = PromptTemplate(options.template, columns=column_names) if options.template else None
        self._filter = RowFilter(options.where, columns=column_names) if options.where else None
        name_columns = {"key", "variant", "seed", "width", "height", *column_names}
        self._name = NameTemplate(
            options.name or DEFAULT_NAME, columns=name_columns, image_format=options.encoding.format
        )
        self._keys, self._rows, self._names, self._units = (SeenHashes() for _ in range(4))

    def keeps(self, row: Mapping[str, Any]) -> bool:
        """Say whether the row passes ``where``.

        Raises:
            InvalidRequest: the expression fails on this row.
        """
        return self._filter is None or self._filter.keep(row)

    def key(self, row: Mapping[str, Any]) -> str | None:
        """Return the row's key as given, for messages; None where it has none."""
        value = row.get(self._columns.key) if self._columns.key else None
        return None if value is None else str(value)

    def resolve(self, row: Mapping[str, Any]) -> ResolvedRow:
        """Resolve one row.

        Raises:
            InvalidRequest: a missing or bad value, a key or file name that an earlier row has.
        """
        values = self._values(row)
        num_variants = self._num_variants(row)
        content = digest([values, num_variants])
        key = self._unique_key(row, content)
        if key is None:
            return ResolvedRow(key=self.key(row) or "", units=())
        units = [self._unit(row, key, variant, values) for variant in range(num_variants)]
        for unit in units:
            if not self._names.add(unit.file_name):
                raise InvalidRequest(
                    f"name: an earlier row is written to {unit.file_name!r} too", field="name"
                )
        return ResolvedRow(key=key, units=tuple(units))

    def _values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Collect generation fields: the row's own first, the job's for what it leaves open."""
        self._check_model(row)
        own = {name: row.get(column) for name, column in self._columns.fields.items()}
        own = {name: value for name, value in own.items() if value is not None}
        job = dict(self._options.fields)
        if "size" in own or {"height", "width"} & own.keys():
            for name in ("size", "height", "width"):
                job.pop(name, None)
        values = job | own
        if self._template is not None:
            values["prompt"] = self._template.render(row)
        elif self._columns.prompt is not None:
            values["prompt"] = row.get(self._columns.prompt)
        return values

    def _check_model(self, row: Mapping[str, Any]) -> None:
        asked = row.get(self._columns.model) if self._columns.model else None
        accepted = (self._spec.model_id, self._spec.model_id.rsplit("/", 1)[-1], self._spec.variant.name)
        if asked is not None and asked not in accepted:
            raise InvalidRequest(f"model: {asked!r} is not this run's model, {accepted[0]!r}", field="model")

    def _num_variants(self, row: Mapping[str, Any]) -> int:
        value = row.get(self._columns.variants) if self._columns.variants else None
        if value is None:
            return self._options.variants
        try:
            number = int(value) if not isinstance(value, bool) and float(value) == int(float(value)) else 0
        except (TypeError, ValueError, OverflowError):
            number = 0
        if not 1 <= number <= _MAX_VARIANTS:
            raise InvalidRequest(
                f"variants: {value!r} is not a whole number in 1..{_MAX_VARIANTS}", field="variants"
            )
        return number

    def _unique_key(self, row: Mapping[str, Any], content: str) -> str | None:
        """Check the row's key, or make one from its content; None for an exact repetition of a keyed row."""
        if self._columns.key is None:
            # Identical rows of a table without keys are counted up, so that each gets its own seed and image.
            key, repetition = f"row-{content[:16]}", 1
            while not self._keys.add(key):
                repetition += 1
                key = f"row-{content[:16]}-{repetition}"
            return key
        value = self.key(row)
        if value is None:
            raise InvalidRequest(f"{self._columns.key}: missing", field="key")
        key = check_key(value)
        is_new_row = self._rows.add(f"{key}|{content}")
        if self._keys.add(key):
            return key
        if is_new_row:
            raise InvalidRequest(f"{self._columns.key}: {key!r} is an earlier row's too", field="key")
        return None

    def _unit(self, row: Mapping[str, Any], key: str, variant: int, values: dict[str, Any]) -> ResolvedUnit:
        seed = values.get("seed")
        if seed is None:
            seed = derive_seed(self._options.seed, key, variant)
        request = build_request(self._spec, {**values, "seed": seed})
        if variant and "seed" in values:
            request = build_request(self._spec, {**values, "seed": request.seed + variant})
        identity = {
            "variant": variant,
            "weights_sha256": self._weights_sha256,
            "encoding": self._options.encoding,
        }
        address = unit_id(request, **identity)
        if not self._units.add(address):
            # Another key asks for the very same image: it is made under both, each exactly once.
            address = unit_id(request, **identity, salt=key)
            self._units.add(address)
        names = {**row, "key": key, "variant": variant, "seed": request.seed}
        names |= {"width": request.width, "height": request.height}
        return ResolvedUnit(
            unit_id=address, variant=variant, request=request, file_name=self._name.render(names)
        )
