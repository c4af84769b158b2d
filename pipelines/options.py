"""Options of one bulk generation, stored with its results so that the run can be repeated."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipelines.picture_reader import PictureAccess, parse_host
from pipelines.storage import StorageOptions
from pipelines.storage_address import absolute_address, open_storage
from zimage_models.config import EngineConfig
from zimage_models.image_files.image_codec import Encoding

_DEFAULT_ENGINE = EngineConfig()
_OWN_ENGINE_OPTIONS = ("device", "dtype", "vae_dtype", "memory", "compile", "max_step_tokens")
"""What is not asked of the engines of an endpoint; their precision is (:func:`.find_served_model`)."""
ExportName = Literal["files", "webdataset"]


class GenerateOptions(BaseModel):
    """Options of ``zimage generate``; unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: tuple[str, ...] = Field(min_length=1)
    """Files, folders or patterns; absolute, or ``-``."""
    output: str
    """Folder of the data set; absolute."""
    append: bool = False
    """Keep the published images whose keys the table does not name."""
    replace: bool = False
    """Allow a run to drop more than half of the published keys."""
    input_format: str | None = None
    delimiter: str | None = None
    """Delimiter of CSV cells; None: found from the first lines."""
    text_encoding: str | None = None
    """Character encoding of text files; None: UTF-8, or what a byte order mark says."""
    fill_down: tuple[str, ...] = ()
    """Columns whose empty cells take the value above."""
    key: str | None = None
    """Template of the rows' keys."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Generation field -> input column."""
    drop: tuple[str, ...] = ()
    template: str | None = None
    where: str | None = None
    limit: int | None = Field(default=None, ge=1)
    variants: int = Field(default=1, ge=1, le=1000)
    seed: int = Field(default=0, ge=0, lt=2**63)
    fields: dict[str, Any] = Field(default_factory=dict)
    """Default generation fields, for rows that do not set them."""
    image_root: str | None = None
    """Folder that picture paths are relative to and may not leave; None: the table's folder."""
    allow_urls: bool = False
    """Whether pictures may be fetched from public web addresses."""
    trusted_hosts: tuple[str, ...] = ()
    """``HOST`` or ``HOST:PORT`` to fetch pictures from, even if their addresses are not public."""
    name: str | None = None
    encoding: Encoding = Encoding()
    exports: tuple[ExportName, ...] = ()
    engine: EngineConfig = EngineConfig()
    serve_app: str | None = None
    """Running Serve application whose engines do the work; None: the job starts its own engines."""
    engines_min: int = Field(default=1, ge=1)
    engines_max: int = Field(default=1, ge=1)
    engine_cpus: float | None = Field(default=None, gt=0)
    engine_gpus: float | None = Field(default=None, ge=0)
    accelerator_type: str | None = None
    """Ray accelerator type, such as ``L40S``, of the nodes that engines run on."""
    node_labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes that engines run on."""
    commit_rows: int | None = Field(default=None, ge=1)
    """Rows written together; None: chosen by table size."""
    max_errors: int | None = Field(default=None, ge=0)
    time_limit_s: float | None = Field(default=None, gt=0)
    storage: StorageOptions = StorageOptions()

    @field_validator("input", mode="before")
    @classmethod
    def _are_inputs(cls, value: Any) -> Any:
        # Releases before 0.3 stored one.
        return (value,) if isinstance(value, str) else value

    @field_validator("input")
    @classmethod
    def _are_absolute(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(one if one == "-" else absolute_address(one) for one in value)

    @field_validator("output", "image_root")
    @classmethod
    def _is_folder(cls, value: str | None) -> str | None:
        # Absolute, since workers and later commands run in other folders.
        return value and open_storage(value).uri

    @field_validator("template", "key", "where", "name", "delimiter", "text_encoding", "input_format")
    @classmethod
    def _says_something(cls, value: str | None) -> str | None:
        if value == "":  # a variable of the shell that is not set
            raise ValueError("is empty; leave the option out for its default")
        return value

    @field_validator("trusted_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            parse_host(host)
        return value

    @model_validator(mode="after")
    def _own_engine_options_have_effect(self) -> "GenerateOptions":
        if self.serve_app is None:
            return self
        own = {name: getattr(self, name) for name in ("engine_cpus", "engine_gpus", "accelerator_type")}
        own["node_labels"] = self.node_labels or None
        own |= {name: getattr(self.engine, name) for name in _OWN_ENGINE_OPTIONS}
        for name, value in own.items():
            if value != getattr(_DEFAULT_ENGINE, name, None):
                raise ValueError(f"{name}: {value} has no effect on the engines of a running endpoint")
        return self

    @property
    def input_text(self) -> str:
        """The inputs as text for messages."""
        return ", ".join(self.input)

    def picture_access(self, table_folder: str) -> PictureAccess:
        """Return the rules for reading a table's pictures."""
        return PictureAccess(
            root=self.image_root or table_folder,
            storage=self.storage,
            allow_urls=self.allow_urls,
            trusted_hosts=frozenset[tuple[str, int]]().union(*map(parse_host, self.trusted_hosts)),
        )

    @field_validator("engines_max")
    @classmethod
    def _ordered(cls, value: int, info: Any) -> int:
        if value < info.data.get("engines_min", 1):
            raise ValueError(f"{value} is below the minimum {info.data['engines_min']}")
        return value
