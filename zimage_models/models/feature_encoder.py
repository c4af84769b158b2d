"""SigLIP2 features of pictures, for models that read them. It knows nothing about requests."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

from zimage_models.models.tensor_cache import TensorCache
from zimage_models.pictures import Picture
from zimage_models.siglip_spec import SiglipSpec


def feature_grid(height: int, width: int, spec: SiglipSpec) -> tuple[int, int]:
    """Return the rows and columns of features that a picture of a size in pixels has."""
    rows, columns = get_image_size_for_max_num_patches(height, width, spec.patch_size, spec.max_num_patches)
    return rows // spec.patch_size, columns // spec.patch_size


class FeatureEncoder:
    """Runs a SigLIP2 vision model and caches the features of pictures."""

    def __init__(self, siglip: Any, processor: Any, *, cache_bytes: int) -> None:
        self._siglip = siglip
        self._processor = processor
        self._kept: TensorCache[str] = TensorCache(cache_bytes)

    @torch.inference_mode()
    def encode(self, picture: Picture) -> Tensor:
        """Encode one RGB picture.

        Returns:
            (rows, columns, feature width), in the encoder's dtype.
        """
        features = self._kept.get(picture.sha256)
        if features is None:
            inputs = self._processor(images=[Image.fromarray(picture.pixels)], return_tensors="pt")
            rows, columns = inputs.spatial_shapes[0].tolist()
            hidden = self._siglip(**inputs.to(self._siglip.device)).last_hidden_state
            # A copy, so that the cache does not keep the padding.
            features = hidden[0, : rows * columns].view(rows, columns, -1).clone()
            self._kept.put(picture.sha256, features)
        return features
