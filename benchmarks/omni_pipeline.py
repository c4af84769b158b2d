"""diffusers' ZImageOmniPipeline as a reference: one call per edit, with the same weights as an engine."""

from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.z_image.pipeline_z_image_omni import ZImageOmniPipeline

from zimage_models.siglip_spec import has_siglip


class OmniPipeline(ZImageOmniPipeline):
    """The pipeline with fixes for two methods that fail in diffusers 0.42."""

    def prepare_image_latents(self, images: Any, batch_size: int, device: Any, dtype: torch.dtype) -> Any:
        """Encode images in the VAE's dtype; the original casts them to bfloat16, so a float32 VAE raises."""
        config, latents = self.vae.config, []
        for image in images:
            mode = self.vae.encode(image.to(device, self.vae.dtype)).latent_dist.mode()[0]
            latents.append(((mode - config.shift_factor) * config.scaling_factor).unsqueeze(1).to(dtype))
        return [list(latents) for _ in range(batch_size)]

    def prepare_siglip_embeds(self, images: Any, batch_size: int, device: Any, dtype: torch.dtype) -> Any:
        """Encode images, if there is an encoder; the original calls it even if there is none."""
        if self.siglip is None:
            return [[] for _ in range(batch_size)]
        return super().prepare_siglip_embeds(images, batch_size, device, dtype)


def load_omni_pipeline(directory: Path, *, dtype: torch.dtype) -> Any:
    """Load a checkpoint's pipeline, without its progress bar."""
    # A component that is null in the index must be passed as None.
    none = {} if has_siglip(directory) else {"siglip": None, "siglip_processor": None}
    pipeline: Any = OmniPipeline.from_pretrained(str(directory), dtype=dtype, local_files_only=True, **none)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
