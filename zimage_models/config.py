"""How one engine is built and how it schedules. It knows no request."""

from dataclasses import dataclass

from zimage_models.errors import InvalidRequest
from zimage_models.model_spec import DEFAULT_MODEL

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Everything that decides one engine."""

    model: str = DEFAULT_MODEL
    """An embedded model's name, a local folder in diffusers layout, a hub id, or ``s3://bucket/prefix``."""
    variant: str | None = None
    """``turbo``, ``base`` or ``edit``; needed only where the model is not known by name."""
    device: str = "auto"
    """A torch device, or ``auto`` for the first accelerator, else the CPU."""
    dtype: str = "auto"
    """``float32``, ``bfloat16``, or ``auto``: bfloat16 on accelerators, float32 on the CPU."""
    vae_dtype: str = "float32"
    """The VAE decides most of the rounding between batch shapes, so float32 unless told otherwise."""
    num_threads: int | None = None
    """CPU threads for torch; None leaves torch's own choice."""
    max_prompt_tokens: int | None = None
    max_step_tokens: int | None = None
    """Transformer tokens in one denoising step, over all its images (one always runs); None: by device."""
    max_queued: int = 1024
    """Requests of one priority waiting or running; past it a submission is refused."""
    ageing_s: float = 10.0
    """When the first request of a lower priority has not stepped for this long, it goes first once."""
    caption_cache_bytes: int = 256 * 2**20
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
        if self.ageing_s <= 0:
            raise InvalidRequest(f"ageing_s: {self.ageing_s} is not above 0", field="ageing_s")
