"""What a person sets of the online endpoint: the ``args`` of ``serve.yaml`` or of ``zimage serve``."""

from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from deployments.engine_resources import EngineResources
from zimage_models.config import EngineConfig
from zimage_models.model_spec import DEFAULT_MODEL

MODEL_ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"


class _Args(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScalingArgs(_Args):
    """How many replicas a model has."""

    min_replicas: int = Field(default=1, ge=0)
    """0 lets the last replica go when idle; the next request then waits for a cold start."""
    max_replicas: int = Field(default=1, ge=1)
    target_queue_s: float = Field(default=5.0, gt=0)
    """Seconds of queued online work per replica above which replicas are added."""
    upscale_delay_s: float = Field(default=5.0, ge=0)
    downscale_delay_s: float = Field(default=300.0, ge=0)
    look_back_s: float = Field(default=30.0, gt=0)
    """Decisions go by the mean of so many seconds."""

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
    """One model that clients can ask for by ``id``."""

    id: str = Field(pattern=f"^{MODEL_ID_PATTERN}$")
    model: str = DEFAULT_MODEL
    """An embedded model's name, a folder in diffusers layout, a hub id, or ``s3://bucket/prefix``."""
    engine: Annotated[dict[str, Any], AfterValidator(_known_engine_options)] = Field(default_factory=dict)
    """Options of :class:`zimage_models.config.EngineConfig` other than ``model``."""
    num_gpus: float = Field(default=0, ge=0)
    """Of each rank, as ``num_cpus``; most engines are of one."""
    num_cpus: float = Field(default=1, ge=0)
    tensor_parallel_size: int = 1
    """Ranks that one engine is divided over, each with a GPU of its own."""
    tensor_parallel_placement: Literal["one_node", "any_nodes"] = "one_node"
    """``any_nodes``: a placement group with a bundle for each rank, on as few nodes as there is room."""
    max_queue_s: float = Field(default=60.0, gt=0)
    """Online requests are refused (503) while a replica has more seconds of them queued."""
    accelerator_type: str | None = None
    """A Ray accelerator type such as ``H100``, to be placed on such nodes only."""
    node_labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes to be placed on, as in Ray's label selectors."""
    scaling: ScalingArgs = ScalingArgs()

    @model_validator(mode="after")
    def _divisible(self) -> "ModelArgs":
        if self.engine_config().parallel.tensor_parallel_size != self.tensor_parallel_size:
            raise ValueError("engine.parallel: give the model's own tensor_parallel_size instead")
        if self.tensor_parallel_placement == "any_nodes" and self.tensor_parallel_size == 1:
            raise ValueError("tensor_parallel_placement: any_nodes needs a tensor_parallel_size above 1")
        return self

    def engine_config(self) -> EngineConfig:
        """Return the engine's whole configuration."""
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
    """Of one uploaded picture."""
    max_image_pixels: int = Field(default=25 * 10**6, ge=1)
    timeout_s: float = Field(default=300.0, gt=0)
    """Deadline of a request without ``X-Request-Timeout``, and the longest that may be asked for."""
    max_waiting: int = Field(default=1024, ge=1)
    """Requests that one HTTP replica lets wait for a model's replicas; past it, 503."""


class AuthArgs(_Args):
    """Where API keys come from; without any, everyone may ask."""

    keys_file: str | None = None
    """YAML list of ``{name, key or key_sha256, requests_per_minute, max_concurrent}``; reread on change."""
    keys_variable: str | None = "ZIMAGE_API_KEYS"
    """Environment variable of ``name=key`` pairs, comma-separated."""


class ObjectStoreArgs(_Args):
    """Where images are put for ``response_format="url"``."""

    address: str = Field(pattern=r"^s3://[^/]+(/.*)?$")
    endpoint_url: str | None = None
    region: str | None = None
    url_valid_s: int = Field(default=3600, ge=1, le=7 * 24 * 3600)


class IdempotencyArgs(_Args):
    """How long answers are kept for a repeated ``Idempotency-Key``."""

    max_answers: int = Field(default=10_000, ge=1)
    max_bytes: int = Field(default=512 * 2**20, ge=1)
    keep_s: float = Field(default=3600.0, gt=0)


class IngressArgs(_Args):
    """The HTTP replicas, which need CPUs only."""

    num_replicas: int = Field(default=1, ge=1)
    num_cpus: float = Field(default=1, ge=0)
    node_labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes for HTTP replicas and front desk: on a GPU node they keep it from going idle."""
    max_ongoing_requests: int = Field(default=2048, ge=1)


class AppArgs(_Args):
    """The whole endpoint."""

    models: tuple[ModelArgs, ...] = Field(default=(ModelArgs(id="z-image-turbo"),), min_length=1)
    """The first one answers requests that name no model."""
    ingress: IngressArgs = IngressArgs()
    limits: LimitArgs = LimitArgs()
    auth: AuthArgs = AuthArgs()
    object_store: ObjectStoreArgs | None = None
    idempotency: IdempotencyArgs = IdempotencyArgs()
    image_urls: Literal["refuse", "fetch"] = "refuse"
    """Whether pictures to edit may be given as http(s) addresses."""
    cors_origins: tuple[str, ...] = ()
    playground: bool = True
    log_prompts: bool = False

    @model_validator(mode="after")
    def _distinct(self) -> "AppArgs":
        ids = [model.id for model in self.models]
        for model_id in ids:
            if ids.count(model_id) > 1:
                raise ValueError(f"models: id {model_id!r} is given {ids.count(model_id)} times")
        return self
