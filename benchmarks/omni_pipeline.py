"""diffusers' ZImageOmniPipeline as a reference: one call an edit, on the same weights as an engine."""

from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.z_image.pipeline_z_image_omni import ZImageOmniPipeline

from zimage_models.siglip_spec import has_siglip


class OmniPipeline(ZImageOmniPipeline):
    """The pipeline with two steps that it cannot take in diffusers 0.42."""

    def prepare_image_latents(self, images: Any, batch_size: int, device: Any, dtype: torch.dtype) -> Any:
        """Encode as the original, which casts images to bfloat16: a VAE in float32 then raises."""
        config, latents = self.vae.config, []
        for image in images:
            mode = self.vae.encode(image.to(device, self.vae.dtype)).latent_dist.mode()[0]
            latents.append(((mode - config.shift_factor) * config.scaling_factor).unsqueeze(1).to(dtype))
        return [list(latents) for _ in range(batch_size)]

    def prepare_siglip_embeds(self, images: Any, batch_size: int, device: Any, dtype: torch.dtype) -> Any:
        """Encode as the original, which calls the encoder of a checkpoint that has none too."""
        if self.siglip is None:
            return [[] for _ in range(batch_size)]
        return super().prepare_siglip_embeds(images, batch_size, device, dtype)


def load_omni_pipeline(directory: Path, *, dtype: torch.dtype) -> Any:
    """Load the pipeline of a checkpoint; its progress bar is off."""
    # A component that is null in the index has to be given as none.
    none = {} if has_siglip(directory) else {"siglip": None, "siglip_processor": None}
    pipeline: Any = OmniPipeline.from_pretrained(str(directory), dtype=dtype, local_files_only=True, **none)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
