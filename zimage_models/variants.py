"""The variant table: defaults and limits of Turbo, Base and Edit. It knows nothing about checkpoint files."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantSpec:
    """One model variant: defaults, limits, capabilities.

    Guidance follows diffusers: 0 means no classifier-free guidance, and a value g equals g + 1 in ComfyUI.
    """

    name: str
    summary: str
    default_num_inference_steps: int
    max_num_inference_steps: int
    default_guidance_scale: float
    max_guidance_scale: float
    supports_negative_prompt: bool
    max_start_images: int = 1
    """Limit on reference images to start from after adding noise to them (img2img, inpainting)."""
    max_reference_images: int = 0
    """Limit on reference images read as conditions, which the prompt refers to (diffusers' omni mode)."""
    released_shift: float
    """Time shift of the released scheduler; a checkpoint's own scheduler config always wins."""
    recommended_steps: tuple[int, int]
    recommended_guidance: tuple[float, float]
    max_pixels: int = 2048 * 2048


# Sources: Tongyi-MAI/Z-Image README, model zoo and "Recommended Parameters"; diffusers >= 0.39 counts Turbo's
# steps as 8 (older releases called the same schedule 9 steps).
VARIANTS: dict[str, VariantSpec] = {
    "turbo": VariantSpec(
        name="turbo",
        summary="distilled: 8 steps, no guidance, no negative prompt",
        default_num_inference_steps=8,
        max_num_inference_steps=50,
        default_guidance_scale=0.0,
        max_guidance_scale=0.0,
        supports_negative_prompt=False,
        released_shift=3.0,
        recommended_steps=(8, 8),
        recommended_guidance=(0.0, 0.0),
    ),
    "base": VariantSpec(
        name="base",
        summary="undistilled: classifier-free guidance and negative prompts",
        default_num_inference_steps=50,
        max_num_inference_steps=200,
        default_guidance_scale=4.0,
        max_guidance_scale=20.0,
        supports_negative_prompt=True,
        released_shift=6.0,
        recommended_steps=(28, 50),
        recommended_guidance=(3.0, 5.0),
    ),
    "edit": VariantSpec(
        name="edit",
        summary="follows instructions on reference images (no released checkpoint yet)",
        default_num_inference_steps=50,
        max_num_inference_steps=200,
        default_guidance_scale=3.0,
        max_guidance_scale=20.0,
        supports_negative_prompt=True,
        max_start_images=0,
        max_reference_images=4,
        released_shift=6.0,
        recommended_steps=(50, 50),
        recommended_guidance=(3.0, 5.0),
    ),
}
