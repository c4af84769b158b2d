"""How one engine is built and how it schedules its work. It knows nothing about requests."""

from dataclasses import dataclass, field

from zimage_models.errors import InvalidRequest
from zimage_models.memory.modes import MEMORY_MODES, RESIDENT
from zimage_models.model_spec import DEFAULT_MODEL

DTYPES = ("float32", "bfloat16")
_SHORT_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
PRECISIONS = ("auto", "bf16", "fp8")
PARALLEL_DEGREES = (1, 2, 3, 4, 5, 6, 8, 10)
"""Numbers of ranks an engine may have. They pad the release's 30 heads to at most 32; 7 ranks would need 35
heads, and 9 would need 36."""
TEXT_ENCODER_PLACES = ("sharded", "first_rank")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelConfig:
    """How one engine's models are divided over several processes (ranks), each with its own device.

    Rank 0 is the engine's own process; the VAE, the scheduler and the caches are only there.
    """

    tensor_parallel_size: int = 1
    """Number of ranks: one of ``PARALLEL_DEGREES``, at most the checkpoint's number of attention heads."""
    text_encoder: str = "sharded"
    """``sharded``: divided like the transformer, so rank 0 holds little more than the others. ``first_rank``:
    kept whole on rank 0, so the other ranks hold none of it."""
    collective_timeout_s: float = 30.0
    """Time after which a rank that does not answer counts as stuck and is replaced."""
    start_timeout_s: float = 600.0
    """Time that a rank may take to start and read its share of the weights."""

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
    """All settings of one engine."""

    model: str = DEFAULT_MODEL
    """An embedded model's name, a local folder in diffusers layout, a hub id, or ``s3://bucket/prefix``."""
    variant: str | None = None
    """``turbo``, ``base`` or ``edit``; needed only if the model is not known by name."""
    controlnet: str | None = None
    """A ControlNet for control images: a folder in which diffusers saved a ZImageControlNetModel, a hub id,
    or ``s3://bucket/prefix``."""
    device: str = "auto"
    """A torch device, or ``auto`` for the first accelerator, else the CPU. With several ranks, a type without
    a number, such as ``cuda``: each rank takes the device with its own number."""
    dtype: str = "auto"
    """``float32`` (``fp32``), ``bfloat16`` (``bf16``), or ``auto``: bfloat16 on accelerators, float32 on the
    CPU."""
    precision: str = "auto"
    """``auto``: what ``dtype`` says. ``bf16``: the dtype is bfloat16. ``fp8``: the matrix products of the
    transformer's main blocks are made in float8, everything else in ``dtype``; slightly other images, on GPUs
    with units for it in less time. On a CPU only the same arithmetic, slowly."""
    vae_dtype: str = "auto"
    """As ``dtype``. bfloat16 decodes faster; pixels then differ from those of float32 by at most 2 of 255
    (embedded Turbo, 48 prompts: 57 dB), and as much between batch shapes."""
    num_threads: int | None = None
    """CPU threads for torch on each rank. None for torch's own choice; with several ranks, each then takes at
    most an equal share of the cores."""
    max_prompt_tokens: int | None = None
    max_step_tokens: int | None = None
    """Limit on transformer tokens in one denoising step, over all its images; None for the device's default.
    One image always runs, even above the limit."""
    max_queued: int = 1024
    """Limit on requests of one priority that wait or run; further ones are refused."""
    ageing_s: float = 10.0
    """Time without a step after which the first request of a lower priority goes first once."""
    caption_cache_bytes: int = 256 * 2**20
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    memory: str = RESIDENT
    """What leaves the device until it is needed, so that the model fits a smaller one: a name in
    ``memory.modes.MEMORY_MODES``. Images stay the same up to rounding."""
    compile: bool | None = None
    """Whether to compile the blocks of the transformer and of its ControlNet (`torch.compile`). None: on
    accelerators. What was compiled is kept in ``cache_dir``."""
    s3_endpoint_url: str | None = None
    cache_dir: str | None = None
    """Folder for downloaded checkpoints and compiled forms; None for the user's cache folder."""
    fake: bool = False
    """Whether to make instant coloured tiles instead of images, to test everything around the engine."""

    def __post_init__(self) -> None:
        for name in ("dtype", "vae_dtype"):
            value = getattr(self, name)
            if value not in (*DTYPES, "auto", *_SHORT_DTYPES):
                # Tongyi-MAI/Z-Image issue 14.
                why = "; float16 overflows in this model" if value in ("float16", "fp16", "half") else ""
                raise InvalidRequest(
                    f"{name}: {value!r} is not one of auto, {', '.join(DTYPES)}{why}", field=name
                )
            # One name each, because what an image is made from includes it.
            object.__setattr__(self, name, _SHORT_DTYPES.get(value, value))
        if self.precision not in PRECISIONS:
            raise InvalidRequest(
                f"precision: {self.precision!r} is not one of {', '.join(PRECISIONS)}", field="precision"
            )
        if self.precision == "bf16" and self.dtype == "float32":
            raise InvalidRequest(
                "precision: bf16 is the dtype bfloat16, but the dtype given is float32", field="precision"
            )
        for name in ("max_step_tokens", "max_queued", "caption_cache_bytes", "num_threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidRequest(f"{name}: {value} is below 1", field=name)
        if self.controlnet is not None and self.parallel.tensor_parallel_size > 1:
            raise InvalidRequest(
                f"controlnet: {self.controlnet!r} cannot be divided over"
                f" {self.parallel.tensor_parallel_size} ranks; an engine with a ControlNet has one rank",
                field="controlnet",
            )
        if self.memory not in MEMORY_MODES:
            modes = ", ".join(MEMORY_MODES)
            raise InvalidRequest(f"memory: {self.memory!r} is not one of {modes}", field="memory")
        if self.memory != RESIDENT and self.parallel.tensor_parallel_size > 1:
            raise InvalidRequest(
                f"memory: {self.memory!r} is for one device, but the engine has"
                f" {self.parallel.tensor_parallel_size} ranks, which hold only a share of the model each",
                field="memory",
            )
        if self.ageing_s <= 0:
            raise InvalidRequest(f"ageing_s: {self.ageing_s} is not above 0", field="ageing_s")

    @property
    def computing_dtype(self) -> str:
        """What to compute in: the ``dtype``, or bfloat16 where the ``precision`` says so."""
        return "bfloat16" if self.precision == "bf16" else self.dtype
