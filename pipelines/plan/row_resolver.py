"""Resolution of one input row to its units of work. It knows nothing about files or other rows' content."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pipelines.options import GenerateOptions
from pipelines.plan.columns.column_map import ColumnMap
from pipelines.plan.columns.column_values import given_value
from pipelines.plan.file_names import DEFAULT_NAME, OWN_COLUMNS, NameTemplate
from pipelines.plan.kept_rows import KeptImages
from pipelines.plan.keys import key_text
from pipelines.plan.picture_plan import PlannedPictures
from pipelines.plan.templates import KeyTemplate, PromptTemplate, RowFilter
from pipelines.unit_ids import SeenHashes, derive_seed, digest, unit_id
from zimage_models.errors import InvalidRequest
from zimage_models.field_spec import FieldKind, Way
from zimage_models.field_values import read_whole, shown
from zimage_models.model_spec import ModelSpec
from zimage_models.pictures import Picture, stand_in
from zimage_models.request_fields import MAX_SEED, REQUEST_FIELDS, fields_of
from zimage_models.requests import ImageRequest, build_request

_MAX_VARIANTS = 1000
_SHOWN_SIZES = 3
_SIZE_FIELDS = ("size", "height", "width")
_PICTURE_SETTINGS = {
    field.name: REQUEST_FIELDS[field.needs] for field in fields_of(Way.OPTION) if field.needs
}
"""Fields of the job that apply only to rows with pictures, and the picture field each needs."""
_TEXT_FIELDS = frozenset(field.name for field in REQUEST_FIELDS.values() if field.kind is FieldKind.TEXT)
_NO_PICTURES = PlannedPictures()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedUnit:
    """One image that a row asks for."""

    unit_id: str
    variant: int
    request: ImageRequest
    file_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedRow:
    """A usable row: its key and its images; no units if it repeats an earlier row exactly."""

    key: str
    units: tuple[ResolvedUnit, ...]


class RowResolver:
    """Applies column mapping, template, defaults and limits, and keeps keys, names and units unique.

    Raises:
        InvalidRequest: the template, filter, name or a job's field can't be used with this table and model.
    """

    def __init__(
        self,
        options: GenerateOptions,
        *,
        columns: ColumnMap,
        column_names: list[str],
        spec: ModelSpec,
        weights_sha256: str,
        engine: Sequence[tuple[str, str]] = (),
        tokens_read: Callable[[ImageRequest], Mapping[str, int]] = lambda request: {},
        kept: KeptImages | None = None,
    ) -> None:
        self._options = options
        self._columns = columns
        self._spec = spec
        self._weights_sha256 = weights_sha256
        self._engine = engine
        self._tokens_read = tokens_read
        self._kept = kept
        self._column_names = set(column_names)
        self._template = PromptTemplate(options.template, columns=column_names) if options.template else None
        template = columns.key_template
        self._key_template = KeyTemplate(template, columns=column_names) if template else None
        self._filter = RowFilter(options.where, columns=column_names) if options.where else None
        self._name = NameTemplate(
            options.name or DEFAULT_NAME,
            columns=[*OWN_COLUMNS, *column_names],
            image_format=options.encoding.format,
        )
        self._keys, self._rows, self._names, self._units = (SeenHashes() for _ in range(4))
        self._repetitions: dict[str, int] = {}
        self._num_of_size: Counter[tuple[int, int]] = Counter()
        # Check the job's fields here, so that a bad one is not reported once per row.
        for pictures in self._kinds_of_pictures() or [{}]:
            build_request(spec, {"prompt": "any", "seed": 0, **self._with_job_values(pictures)})

    def _kinds_of_pictures(self) -> list[dict[str, Any]]:
        """Return the kinds of pictures that rows may be made from, as fields of a request."""
        height, width = self._spec.default_height, self._spec.default_width
        picture = stand_in(height, width, sha256="any", is_mask=False)
        kinds: list[dict[str, Any]] = []
        if "image" in self._columns.pictures:
            kinds.append({"reference_images": [picture]})
        if "control_image" in self._columns.pictures and self._spec.controlnet:
            kinds.append({"control_image": picture})
        return kinds

    @property
    def columns_used(self) -> frozenset[str] | None:
        """The columns that rows are resolved from; None if a template may read any."""
        columns = self._columns
        used = {*columns.fields.values(), *columns.pictures.values()}
        used |= {name for name in (columns.prompt, columns.key, columns.model, columns.variants) if name}
        for template in (self._template, self._filter, self._name, self._key_template):
            if template is None:
                continue
            if template.columns_used is None:
                return None
            used |= template.columns_used
        return frozenset(used & self._column_names)

    @property
    def hints(self) -> tuple[str, ...]:
        """Sentences about the rows so far: sizes that the model was not trained on."""
        warnings = {
            size: f"{warning} ({number} images)"
            for size, number in self._num_of_size.most_common()
            if (warning := self._spec.trained_sizes.warning(*size)) is not None
        }
        more = len(warnings) - _SHOWN_SIZES
        rest = [f"size: so are {more} other sizes"] if more > 0 else []
        return (*list(warnings.values())[:_SHOWN_SIZES], *rest)

    def keeps(self, row: Mapping[str, Any]) -> bool:
        """Return whether the row passes ``where``.

        Raises:
            InvalidRequest: the expression fails on this row.
        """
        return self._filter is None or self._filter.keep(row)

    def key(self, row: Mapping[str, Any]) -> str | None:
        """Return the row's key as given, for messages, or None if it has none."""
        try:
            return self._given_key(row)
        except InvalidRequest:
            value = row.get(self._columns.key) if self._columns.key else None
            return None if value is None else str(value)

    def resolve(
        self, row: Mapping[str, Any], pictures: PlannedPictures = _NO_PICTURES, copied: bytes = b""
    ) -> ResolvedRow:
        """Resolve one row.

        Args:
            row: its cells by column, those of :attr:`columns_used` at least.
            pictures: the pictures that its cells name.
            copied: digest of its cells that are copied to the output.

        Raises:
            InvalidRequest: a missing or bad value, or a key or file name that an earlier row has.
        """
        self._check_model(row)
        own = self._own_values(row, pictures)
        num_variants = self._num_variants(row)
        key = self._given_key(row)
        if key is None:
            key = self._key_of_content(own)
        else:
            is_new_row = self._rows.add(repr((key, _by_content(own), num_variants, copied)))
            if not self._keys.add(key):
                if is_new_row:
                    field = "key" if self._key_template else self._columns.key
                    message = f"{field}: an earlier row has the key {key!r} too; give other keys (--key)"
                    raise InvalidRequest(message, field="key")
                return ResolvedRow(key=key, units=())
        return ResolvedRow(key=key, units=tuple(self._units_of(row, key, own, num_variants)))

    def _own_values(self, row: Mapping[str, Any], pictures: PlannedPictures) -> dict[str, Any]:
        """Collect the generation fields that the row itself sets, including its prompt."""
        own = {}
        for name, column in self._columns.fields.items():
            value = row[column] if name in _TEXT_FIELDS else given_value(row[column])
            if value is not None:
                own[name] = value
        if self._columns.has_recorded_seeds and isinstance(own.get("seed"), int):
            own["seed"] &= MAX_SEED
        if self._template is not None:
            own["prompt"] = self._template.render(row)
        elif self._columns.prompt is not None:
            own["prompt"] = row[self._columns.prompt]
        return own | pictures.outlines()

    def _with_job_values(self, own: dict[str, Any]) -> dict[str, Any]:
        """Add the job's values of the fields that the row does not set; size fields count as one."""
        job = self._options.fields
        if not own.keys().isdisjoint(_SIZE_FIELDS):
            job = {name: value for name, value in job.items() if name not in _SIZE_FIELDS}
        # In a table with pictures, some rows may have none.
        idle = {
            name
            for name, pictures in _PICTURE_SETTINGS.items()
            if pictures.outer_name in self._columns.pictures and pictures.name not in own
        }
        return {**{name: value for name, value in job.items() if name not in idle}, **own}

    def _check_model(self, row: Mapping[str, Any]) -> None:
        asked = given_value(row.get(self._columns.model)) if self._columns.model else None
        accepted = (self._spec.model_id, self._spec.model_id.rsplit("/", 1)[-1], self._spec.variant.name)
        if asked is not None and asked not in accepted:
            raise InvalidRequest(
                f"model: {shown(asked)} is not this run's model, {accepted[0]!r}", field="model"
            )

    def _num_variants(self, row: Mapping[str, Any]) -> int:
        value = given_value(row.get(self._columns.variants)) if self._columns.variants else None
        if value is None:
            return self._options.variants
        number = read_whole({"variants": value}, "variants", None)
        if not 1 <= number <= _MAX_VARIANTS:
            raise InvalidRequest(f"variants: {shown(value)} is outside 1..{_MAX_VARIANTS}", field="variants")
        return number

    def _given_key(self, row: Mapping[str, Any]) -> str | None:
        if self._key_template is not None:
            return self._key_template.render(row)
        return key_text(row[self._columns.key], self._columns.key) if self._columns.key else None

    def _key_of_content(self, own: dict[str, Any]) -> str:
        """Make a key that does not change with the job's settings."""
        key = f"row-{digest(_by_content(own))[:16]}"
        if self._keys.add(key):
            return key
        # Number identical rows, so that each gets its own seed and image.
        self._repetitions[key] = self._repetitions.get(key, 1) + 1
        return f"{key}-{self._repetitions[key]}"

    def _units_of(
        self, row: Mapping[str, Any], key: str, own: dict[str, Any], num_variants: int
    ) -> Iterator[ResolvedUnit]:
        values = self._with_job_values(own)
        given_seed = values.get("seed")
        derived = derive_seed(self._options.seed, key, 0) if given_seed is None else None
        request = build_request(self._spec, {**values, "seed": derived.seed if derived else given_seed})
        last_seed = request.seed + num_variants - 1
        if given_seed is not None and last_seed > MAX_SEED:
            raise InvalidRequest(
                f"seed: {given_seed} with {num_variants} variants ends at {last_seed}; "
                f"the limit is {MAX_SEED}",
                field="seed",
            )
        first_seed = request.seed
        # Hashes of the files: the pictures in a request depend on its size.
        content = _by_content(own)
        files = [content.get("mask"), *content["reference_images"]] if request.reference_images else []
        # The images of a row differ in their seeds alone, so what takes long is found once.
        make_id = partial(
            unit_id,
            weights_sha256=self._weights_sha256,
            shift=self._spec.shift,
            encoding=self._options.encoding,
            engine=self._engine,
            tokens_read=self._tokens_read(request),
            files=files,
            control=content.get("control_image"),
        )
        for variant in range(num_variants):
            if variant:
                derived = derive_seed(self._options.seed, key, variant) if given_seed is None else None
                request = replace(request, seed=derived.seed if derived else first_seed + variant)
            names = {**row, "key": key, "variant": variant, "seed": request.seed}
            names |= {"width": request.width, "height": request.height}
            file_name = self._name.render(names)
            if not self._names.add(file_name):
                message = (
                    f"name: another image has the file name {file_name!r} too; give other names (--name)"
                )
                raise InvalidRequest(message, field="name")
            self._num_of_size[request.width, request.height] += 1
            identity = derived.identity if derived else None
            yield ResolvedUnit(
                unit_id=self._own_id(partial(make_id, request, variant=variant, seed_identity=identity), key),
                variant=variant,
                request=request,
                file_name=file_name,
            )

    def _own_id(self, make_id: Callable[..., str], key: str) -> str:
        """Make the ID of an image that no other image of this run or of the data set has."""
        image_id = make_id()
        is_of_another = self._kept is not None and self._kept.is_of_another(image_id, key)
        if is_of_another or not self._units.add(image_id):
            # Another key asks for the same image: generate it once for each key.
            image_id = make_id(salt=key)
            self._units.add(image_id)
        return image_id


def _by_content(own: dict[str, Any]) -> dict[str, Any]:
    """Replace pictures with their hashes."""
    own = dict(own)
    if "reference_images" in own:
        own["reference_images"] = [picture.sha256 for picture in own["reference_images"]]
    return {name: value.sha256 if isinstance(value, Picture) else value for name, value in own.items()}
