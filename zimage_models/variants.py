"""The variant table: defaults and limits of Turbo, Base and Edit. It knows nothing about checkpoint files."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedSizes:
    """The sizes of images that a model was trained on."""

    best: tuple[tuple[int, int], ...]
    """Width and height in pixels, the best first."""
    pixels: tuple[int, int] | None = None
    """The smallest and the largest area, of any shape; None if the model knows only the sizes above."""

    def warning(self, width: int, height: int) -> str | None:
        """Return a sentence about an image of a size that the model was not trained on, or None."""
        if (width, height) in self.best or self._has_area(width * height):
            return None
        if self.pixels is None:
            trained = " or ".join(f"{one_width}x{one_height}" for one_width, one_height in self.best)
        else:
            low, high = (math.isqrt(area) for area in self.pixels)
            trained = f"areas from {low}x{low} to {high}x{high}"
        best_width, best_height = self.best[0]
        times = width * height / (best_width * best_height)
        work = (
            f" after at least {times:.0f} times the work of {best_width}x{best_height}" if times >= 2 else ""
        )
        return (
            f"size: {width}x{height} is not a size that this model was trained on ({trained}):"
            f" expect a poor picture{work}"
        )

    def _has_area(self, num_pixels: int) -> bool:
        return self.pixels is not None and self.pixels[0] <= num_pixels <= self.pixels[1]


def _with_transposes(*sizes: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    both = (size for width, height in sizes for size in ((width, height), (height, width)))
    return tuple(dict.fromkeys(both))


# The sizes that the app of Tongyi-MAI's Z-Image-Turbo Space offers, in its classes of 1024, 1280 and 1536.
# The areas, of any shape, are those of the README's "Recommended Parameters".
RELEASED_SIZES = TrainedSizes(
    best=_with_transposes(
        *((1024, 1024), (1152, 896), (1152, 864), (1248, 832), (1280, 720), (1344, 576)),
        *((1280, 1280), (1440, 1120), (1472, 1104), (1536, 1024), (1536, 864), (1680, 720)),
        *((1536, 1536), (1728, 1344), (1728, 1296), (1872, 1248), (2048, 1152), (2016, 864)),
    ),
    pixels=(512 * 512, 2048 * 2048),
)


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
    guidance_hint: str = ""
    """What to do instead of more guidance than the variant takes, for messages."""
    supports_negative_prompt: bool
    max_start_images: int = 1
    """Limit on reference images to start from after adding noise to them (img2img, inpainting)."""
    max_reference_images: int = 0
    """Limit on reference images read as conditions, which the prompt refers to (diffusers' omni mode)."""
    released_shift: float
    """Time shift of the released scheduler; a checkpoint's own scheduler config always wins."""
    recommended_steps: tuple[int, int]
    recommended_guidance: tuple[float, float]
    released_sizes: TrainedSizes = RELEASED_SIZES
    """Those of the released checkpoint; others have their own size (:attr:`.ModelSpec.trained_sizes`)."""
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
        guidance_hint="Turbo is distilled for guidance 0 (cfg 1 in ComfyUI); use Base for more",
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
