"""Fields that clients of OpenAI's API and of other image servers send and that need more than a type.

Those that change nothing here are accepted and named in the answer's ``ignored``, so that clients need no
changes. Only values that leave the picture as it is are accepted; ``background="transparent"`` is refused.
"""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from zimage_models.errors import InvalidRequest
from zimage_models.request_fields import MAX_SEED, REQUEST_FIELDS

RANDOM_SEED = -1
"""The seed that other servers' clients send for a random one."""
# As in OpenAI's API.
_MAX_ENTRIES, _MAX_KEY_CHARS, _MAX_VALUE_CHARS = 16, 64, 512
# Of the entries as JSON: a character takes up to 12, as two \uXXXX.
_MAX_ENTRIES_CHARS = 2**18


def _off(value: bool) -> bool:
    if value:
        raise PydanticCustomError("off", "is not available here")
    return value


def _entries(value: Any) -> Any:
    """Read the entries of a form, which are JSON text."""
    if isinstance(value, str) and len(value) <= _MAX_ENTRIES_CHARS:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, dict):
        raise PydanticCustomError(
            "entries",
            f"is not an object of up to {_MAX_ENTRIES} texts of up to {_MAX_VALUE_CHARS} characters",
        )
    return value


def _ignored() -> Any:
    return Field(default=None, description="Accepted and ignored.")


def _number() -> Any:
    return Field(default=None, ge=1, le=10, description="The same as n.")


_Text = Annotated[str, Field(max_length=512)]
_Seed = Annotated[int, WithJsonSchema({"type": "integer", "minimum": RANDOM_SEED, "maximum": MAX_SEED})]
_Entries = Annotated[
    dict[
        Annotated[str, Field(max_length=_MAX_KEY_CHARS)], Annotated[str, Field(max_length=_MAX_VALUE_CHARS)]
    ],
    Field(max_length=_MAX_ENTRIES),
    BeforeValidator(_entries),
]
_Off = Annotated[bool, AfterValidator(_off)]


class NeutralFields(BaseModel):
    """Fields that change nothing here, whatever they change elsewhere."""

    # OpenAI's Images API (openai-python 3.54), with the fields that it has retired.
    user: _Text | None = _ignored()
    safety_identifier: _Text | None = _ignored()
    metadata: _Entries | None = _ignored()
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = _ignored()
    style: Literal["vivid", "natural"] | None = _ignored()
    background: Literal["auto", "opaque"] | None = _ignored()
    moderation: Literal["auto", "low"] | None = _ignored()
    input_fidelity: Literal["low", "high"] | None = _ignored()
    complexity: Literal["low", "medium", "high"] | None = _ignored()
    # vLLM-Omni 0.30 and SGLang 0.5: options of other models, of memory, of reports, and what is off here.
    bot_task: _Text | None = _ignored()
    sys_type: _Text | None = _ignored()
    use_system_prompt: _Text | None = _ignored()
    generator_device: Literal["cpu"] | None = _ignored()
    output_quality: Literal["default"] | None = _ignored()
    return_stage_metrics: bool | None = _ignored()
    vae_use_slicing: bool | None = _ignored()
    vae_use_tiling: bool | None = _ignored()
    enable_teacache: _Off | None = _ignored()
    enable_cache_dit: _Off | None = _ignored()
    enable_upscaling: _Off | None = _ignored()
    rollout: _Off | None = _ignored()

    @property
    def ignored(self) -> list[str]:
        """The fields of this kind that were given."""
        return [name for name in NeutralFields.model_fields if getattr(self, name) is not None]


class ClientFields(NeutralFields):
    """Fields that clients spell in several ways, and those that change nothing."""

    n: int = Field(default=1, ge=1, le=10)
    num_images: int | None = _number()
    num_images_per_prompt: int | None = _number()
    num_outputs_per_prompt: int | None = _number()
    seed: _Seed | None = Field(
        default=None, description=f"{REQUEST_FIELDS['seed'].summary} {RANDOM_SEED} counts as not given."
    )

    @model_validator(mode="after")
    def _one_number(self) -> Self:
        """Set ``n``, by whichever name it was given."""
        numbers = self._other_numbers()
        if "n" in self.model_fields_set:
            numbers["n"] = self.n
        for name, number in numbers.items():
            for other_name, other in numbers.items():
                if number != other:
                    raise InvalidRequest(f"{name}: {number}, but {other_name} is {other}", field=name)
            self.n = number
        return self

    def check_strictly(self) -> None:
        """Refuse what an endpoint with ``strict_fields`` does not take.

        Raises:
            InvalidRequest: a field would be ignored, or has another server's name or meaning.
        """
        for name in self.ignored:
            value = getattr(self, name)
            if name not in _STRICT or (_STRICT[name] and value not in _STRICT[name]):
                raise InvalidRequest(
                    f"{name}: has no effect here, and is refused (strict_fields)", field=name
                )
        for name in self._other_numbers():
            raise InvalidRequest(f"{name}: use n (strict_fields)", field=name)
        if self.seed == RANDOM_SEED:
            raise InvalidRequest(
                f"seed: {RANDOM_SEED} is outside 0..{MAX_SEED} (strict_fields)", field="seed"
            )

    def _other_numbers(self) -> dict[str, int]:
        given = {name: getattr(self, name) for name in _NUMBERS}
        return {name: number for name, number in given.items() if number is not None}


_NUMBERS = ("num_images", "num_images_per_prompt", "num_outputs_per_prompt")
# What an endpoint with strict_fields takes nevertheless: values that say what is done anyway, and the oldest
# name of a client's user. An empty tuple stands for any value.
_STRICT: dict[str, tuple[str, ...]] = {
    "user": (),
    "quality": ("auto",),
    "background": ("auto", "opaque"),
    "moderation": ("auto", "low"),
}

# Why fields that clients of other servers send are refused.
_REASONS = {
    "cfg_scale": "use guidance_scale",
    "extra_params": "send its entries as fields",
    "flow_shift": "the checkpoint's own scheduler sets it",
    "frame_count": "only still images are made",
    "frame_duration_ms": "only still images are made",
    "guidance": "use guidance_scale",
    "guidance_scale_2": "use guidance_scale",
    "image": 'edits in JSON have images: [{"image_url": "data:..."}]',
    "lora": "LoRAs are not chosen by request",
    "mask_image": "use mask",
    "num_steps": "use num_inference_steps",
    "reference_image": "use image",
    "steps": "use num_inference_steps",
    "svg": "only images of pixels are made",
    "system_prompt": "say it in the prompt",
    "true_cfg_scale": "use guidance_scale, which is one less",
}


def unknown_field(name: str) -> str:
    """Return the error message for a field that no body has; ``name`` may be a path with dots."""
    reason = _REASONS.get(name.rpartition(".")[2])
    return f"{name}: unknown field; {reason}" if reason else f"{name}: unknown field"
