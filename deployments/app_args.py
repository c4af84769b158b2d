"""The online endpoint's settings: the ``args`` of ``serve.yaml`` or of ``zimage serve``."""

import re
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from deployments.engine_resources import EngineResources
from zimage_models.checkpoints.resolve_model import check_model
from zimage_models.config import EngineConfig
from zimage_models.model_spec import DEFAULT_MODEL


def _text(pattern: str, wanted: str) -> AfterValidator:
    """Check a text by a regular expression, and say in words what is wanted."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"not {wanted}")
        return text

    return AfterValidator(check)


_MODEL_ID = _text(
    "[A-Za-z0-9][A-Za-z0-9._-]{0,62}",
    "up to 63 letters, digits, '.', '_' and '-' that begin with a letter or a digit",
)
# Hub IDs, too: clients of other servers send them.
_ALIAS = _text(
    "[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}",
    "up to 128 letters, digits, '.', '_', ':', '/' and '-' that begin with a letter or a digit",
)
_ORIGIN = _text(
    r"[*]|null|[a-z][a-z0-9+.-]*://[^/?#\sA-Z*]+",
    "an origin as browsers send it: 'https://shop.example', in lower case and without a path; 'null' (pages"
    " of no site); or '*' for all",
)
_ROOT_PATH = _text(
    "(?!/v1(/|$))(/[A-Za-z0-9._~-]+)*",
    "a path such as /images: with a '/' at its beginning and none at its end, and not in /v1, where the"
    " endpoint's own routes are",
)
_S3_ADDRESS = _text("s3://[^/]+(/.*)?", "an address such as s3://bucket/prefix")
_PUBLIC_URL = _text(r"https?://[^/?#\s]+(/[^?#\s]*)?", "an address such as https://images.example/x")


class _Args(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScalingArgs(_Args):
    """How many replicas a model has, and when that number changes."""

    min_replicas: int = Field(default=1, ge=0)
    """With 0, the last replica is removed when idle, and the next request waits for a cold start."""
    max_replicas: int = Field(default=1, ge=1)
    target_queue_s: float = Field(default=5.0, gt=0)
    """Seconds of queued online work per replica above which replicas are added."""
    upscale_delay_s: float = Field(default=5.0, ge=0)
    downscale_delay_s: float = Field(default=300.0, ge=0)
    look_back_s: float = Field(default=30.0, gt=0)
    """Seconds over which the queue is averaged for a decision."""

    @model_validator(mode="after")
    def _ordered(self) -> "ScalingArgs":
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas: {self.max_replicas} is below min_replicas, {self.min_replicas}")
        return self


def _known_engine_options(values: dict[str, Any]) -> dict[str, Any]:
    known = {field.name for field in fields(EngineConfig)} - {"model"}
    unknown = sorted(values.keys() - known)
    if unknown:
        raise ValueError(f"{unknown[0]}: unknown option; known options are {', '.join(sorted(known))}")
    TypeAdapter(EngineConfig).validate_python(values)
    return values


class ModelArgs(_Args):
    """One model that clients can request by ``id``."""

    id: Annotated[str, _MODEL_ID]
    model: str = DEFAULT_MODEL
    """An embedded model's name, a folder in diffusers layout, a hub id, or ``s3://bucket/prefix``."""
    engine: Annotated[dict[str, Any], AfterValidator(_known_engine_options)] = Field(default_factory=dict)
    """Options of :class:`zimage_models.config.EngineConfig` other than ``model``."""
    num_gpus: float = Field(default=0, ge=0)
    """Per rank, like ``num_cpus``; most engines have one rank."""
    num_cpus: float = Field(default=1, ge=0)
    tensor_parallel_size: int = 1
    """Ranks that one engine is split across; each has its own GPU."""
    tensor_parallel_placement: Literal["one_node", "any_nodes"] = "one_node"
    """``any_nodes``: a placement group with one bundle per rank, on as few nodes as possible."""
    max_queue_s: float = Field(default=60.0, gt=0)
    """Seconds of queued online work above which a replica refuses online requests (503)."""
    accelerator_type: str | None = None
    """A Ray accelerator type such as ``H100``; replicas run only on nodes of this type."""
    node_labels: dict[str, str] = Field(default_factory=dict)
    """Labels that the nodes of replicas must have, as in Ray's label selectors."""
    scaling: ScalingArgs = ScalingArgs()

    @model_validator(mode="after")
    def _divisible(self) -> "ModelArgs":
        if self.engine_config().parallel.tensor_parallel_size != self.tensor_parallel_size:
            raise ValueError("engine.parallel: set the model's tensor_parallel_size instead")
        if self.tensor_parallel_placement == "any_nodes" and self.tensor_parallel_size == 1:
            raise ValueError("tensor_parallel_placement: any_nodes needs a tensor_parallel_size above 1")
        return self

    def engine_config(self) -> EngineConfig:
        """Return the engine's complete configuration."""
        parallel = {"tensor_parallel_size": self.tensor_parallel_size, **self.engine.get("parallel", {})}
        values = {**self.engine, "model": self.model, "parallel": parallel}
        return TypeAdapter(EngineConfig).validate_python(values)

    def resources(self) -> EngineResources:
        """Return what one replica reserves."""
        return EngineResources(
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus,
            num_ranks=self.tensor_parallel_size,
            accelerator_type=self.accelerator_type,
            node_labels=self.node_labels,
        )


class LimitArgs(_Args):
    """What one request may ask for and how long it may take."""

    max_body_bytes: int = Field(default=64 * 2**20, ge=1024)
    max_images: int = Field(default=10, ge=1, le=10)
    """The largest ``n``."""
    max_image_bytes: int = Field(default=50 * 2**20, ge=1)
    """The largest uploaded picture."""
    max_image_pixels: int = Field(default=25 * 10**6, ge=1)
    timeout_s: float = Field(default=300.0, gt=0)
    """Deadline of a request without ``X-Request-Timeout``, and the longest that a request may set."""
    max_waiting: int = Field(default=1024, ge=1)
    """Requests per HTTP replica that may wait for a model's replicas; further ones get 503."""


class AuthArgs(_Args):
    """Where API keys come from; without keys, anyone may send requests."""

    keys_file: str | None = None
    """YAML list of ``{name, key or key_sha256, requests_per_minute, max_concurrent}``; reread on a change."""
    keys_variable: str | None = "ZIMAGE_API_KEYS"
    """Environment variable of ``name=key`` pairs, comma-separated."""


class ObjectStoreArgs(_Args):
    """Where images are stored for ``response_format="url"``."""

    address: Annotated[str, _S3_ADDRESS]
    endpoint_url: str | None = None
    region: str | None = None
    url_valid_s: int = Field(default=3600, ge=1, le=7 * 24 * 3600)


class LocalUrlArgs(_Args):
    """How many images are kept in memory, by the front desk, for ``response_format="url"``, and how long."""

    max_bytes: int = Field(default=512 * 2**20, ge=64 * 2**20)
    """When there is no more room, the oldest images leave."""
    valid_s: int = Field(default=3600, ge=1, le=7 * 24 * 3600)


class IdempotencyArgs(_Args):
    """How many answers are kept for repeated ``Idempotency-Key`` values, and how long."""

    max_answers: int = Field(default=10_000, ge=1)
    max_bytes: int = Field(default=512 * 2**20, ge=1)
    keep_s: float = Field(default=3600.0, gt=0)


class IngressArgs(_Args):
    """The HTTP replicas, which need only CPUs."""

    num_replicas: int = Field(default=1, ge=1)
    num_cpus: float = Field(default=1, ge=0)
    node_labels: dict[str, str] = Field(default_factory=dict)
    """Node labels for the HTTP replicas and the front desk, which would keep a GPU node from idling."""
    max_ongoing_requests: int = Field(default=2048, ge=1)


class AppArgs(_Args):
    """The whole endpoint."""

    models: tuple[ModelArgs, ...] = Field(default=(ModelArgs(id="z-image-turbo"),), min_length=1)
    """The first model answers requests that name none."""
    aliases: dict[Annotated[str, _ALIAS], str] = Field(default_factory=dict)
    """Further names of models, such as ``gpt-image-1``, and the ID of the model that answers to each."""
    ingress: IngressArgs = IngressArgs()
    limits: LimitArgs = LimitArgs()
    auth: AuthArgs = AuthArgs()
    object_store: ObjectStoreArgs | None = None
    local_urls: LocalUrlArgs | None = None
    """Keep images for ``response_format="url"`` without an object store."""
    public_url: Annotated[str, _PUBLIC_URL] | None = None
    """Address at which clients reach the endpoint, for the URLs of images; by default each request's own."""
    strict_fields: bool = False
    """Refuse fields that would be ignored, and other servers' names of fields."""
    idempotency: IdempotencyArgs = IdempotencyArgs()
    image_urls: Literal["refuse", "fetch"] = "refuse"
    """Whether the pictures of an edit may be given as http(s) URLs."""
    cors_origins: tuple[Annotated[str, _ORIGIN], ...] = ()
    """Origins of web pages that may send requests, such as ``https://shop.example``; ``*`` for all."""
    root_path: Annotated[str, _ROOT_PATH] = ""
    """Path at which a proxy offers the endpoint, such as ``/images``, whether it removes it or not."""
    playground: bool = True
    log_prompts: bool = False

    @model_validator(mode="after")
    def _distinct(self) -> "AppArgs":
        ids = [model.id for model in self.models]
        for model_id in ids:
            if ids.count(model_id) > 1:
                raise ValueError(f"models: id {model_id!r} is given {ids.count(model_id)} times")
        for alias, model_id in self.aliases.items():
            if alias in ids:
                raise ValueError(f"aliases: {alias!r} is a model's own id")
            if model_id not in ids:
                raise ValueError(f"aliases: {alias!r} is for {model_id!r}, but models are {', '.join(ids)}")
        if self.local_urls and self.object_store:
            raise ValueError("local_urls: has no effect with an object_store")
        if self.public_url and not self.local_urls:
            raise ValueError("public_url: has no effect without local_urls")
        return self

    def check_models(self) -> None:
        """Check the files of the checkpoints that are on this machine, before engines are started.

        Raises:
            CheckpointError: a file is missing, damaged or not a Z-Image checkpoint's.
        """
        for model in self.models:
            check_model(model.engine_config())
