"""How one engine is built and how it schedules. It knows no request."""

from dataclasses import dataclass, field

from zimage_models.errors import InvalidRequest
from zimage_models.model_spec import DEFAULT_MODEL

DTYPES = ("float32", "bfloat16")
PARALLEL_DEGREES = (1, 2, 3, 4, 5, 6, 8, 10)
"""Ranks an engine may have. The release's 30 heads pad to 32 at most; 7 ranks would need 35, 9 need 36."""
TEXT_ENCODER_PLACES = ("sharded", "first_rank")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelConfig:
    """How one engine's models are divided over several processes, its ranks, each with a device of its own.

    The VAE, the scheduler and the caches are on rank 0, which is the engine's own process.
    """

    tensor_parallel_size: int = 1
    """Ranks: one of ``PARALLEL_DEGREES``, and no more than the checkpoint has attention heads."""
    text_encoder: str = "sharded"
    """``sharded``: divided like the transformer, so rank 0 holds little more than the others. ``first_rank``:
    whole on rank 0, so the other ranks hold none of it."""
    collective_timeout_s: float = 30.0
    """A rank that does not answer within this time is taken as stuck and replaced."""
    start_timeout_s: float = 600.0
    """How long a rank may take to start and read its share of the weights."""

    def __post_init__(self) -> None:
        if self.tensor_parallel_size not in PARALLEL_DEGREES:
            degrees = ", ".join(map(str, PARALLEL_DEGREES))
            raise InvalidRequest(
                f"tensor_parallel_size: {self.tensor_parallel_size} is not one of {degrees}",
                field="tensor_parallel_size",
            )
        if self.text_encoder not in TEXT_ENCODER_PLACES:
            raise InvalidRequest(
                f"text_encoder: {self.text_encoder!r} is not one of {', '.join(TEXT_ENCODER_PLACES)}",
                field="text_encoder",
            )
        for name in ("collective_timeout_s", "start_timeout_s"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise InvalidRequest(f"{name}: {value} is not a finite number above 0", field=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Everything that decides one engine."""

    model: str = DEFAULT_MODEL
    """An embedded model's name, a local folder in diffusers layout, a hub id, or ``s3://bucket/prefix``."""
    variant: str | None = None
    """``turbo``, ``base`` or ``edit``; needed only where the model is not known by name."""
    controlnet: str | None = None
    """A ControlNet, for control images: a folder as diffusers writes a ZImageControlNetModel, a hub id,
    or ``s3://bucket/prefix``."""
    device: str = "auto"
    """A torch device, or ``auto`` for the first accelerator, else the CPU. Of several ranks, each takes the
    device of its own number, so they want a type here, such as ``cuda``, and no number."""
    dtype: str = "auto"
    """``float32``, ``bfloat16``, or ``auto``: bfloat16 on accelerators, float32 on the CPU."""
    vae_dtype: str = "float32"
    """The VAE decides most of the rounding between batch shapes, so float32 unless told otherwise."""
    num_threads: int | None = None
    """CPU threads for torch, on each rank; None for torch's own choice; of several
    ranks each takes an equal part of the cores at most."""
    max_prompt_tokens: int | None = None
    max_step_tokens: int | None = None
    """Transformer tokens in one denoising step, over all its images (one always runs); None: by device."""
    max_queued: int = 1024
    """Requests of one priority waiting or running; past it a submission is refused."""
    ageing_s: float = 10.0
    """When the first request of a lower priority has not stepped for this long, it goes first once."""
    caption_cache_bytes: int = 256 * 2**20
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    compile: bool = False
    """Compile the transformer's repeated blocks (`torch.compile`)."""
    s3_endpoint_url: str | None = None
    cache_dir: str | None = None
    """Where downloaded checkpoints are kept; None for the user's cache folder."""
    fake: bool = False
    """Make instant coloured tiles instead of images: tests and dry runs of everything around the engine."""

    def __post_init__(self) -> None:
        for name in ("dtype", "vae_dtype"):
            value = getattr(self, name)
            if value not in (*DTYPES, "auto"):
                # fp16 overflows to NaN in this model (Tongyi-MAI/Z-Image issue 14).
                raise InvalidRequest(f"{name}: {value!r} is not one of auto, {', '.join(DTYPES)}", field=name)
        for name in ("max_step_tokens", "max_queued", "caption_cache_bytes", "num_threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidRequest(f"{name}: {value} is below 1", field=name)
        if self.controlnet is not None and self.parallel.tensor_parallel_size > 1:
            raise InvalidRequest(
                f"controlnet: {self.controlnet!r} cannot be divided over"
                f" {self.parallel.tensor_parallel_size} ranks; an engine with a ControlNet has one",
                field="controlnet",
            )
        if self.ageing_s <= 0:
            raise InvalidRequest(f"ageing_s: {self.ageing_s} is not above 0", field="ageing_s")
