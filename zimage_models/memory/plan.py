"""How much memory an engine takes in each memory mode, from the sizes of its model. It does not need torch.

Weights are counted exactly. What is computed is counted by the tensors that are in memory at once at the
fullest point, without the space that libraries work in.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from zimage_models.memory.modes import MemoryMode
from zimage_models.memory.sizes import ModelSizes
from zimage_models.memory.vae_maps import strip_decode_bytes, strip_map_bytes, whole_decode_bytes

_FLOAT32 = 4
# Values of a token, in units of the width, at the two fullest points of a block: before its attention, where
# queries and keys are there twice more in float32 (`block_ops.rotated_queries_and_keys`), and in its
# feed-forward. Both count the tokens before the first block and before this one, and their norm.
_ATTENTION_VALUES = 8
_ATTENTION_FLOAT32 = 4
_FEED_FORWARD_VALUES = 14
# With reference images, each token has its own scales and gates, in float32.
_MODULATION_FLOAT32 = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes that an engine takes in a memory mode while it makes images one by one."""

    weights: Mapping[str, int]
    """Weights that stay on the device, by model."""
    window_bytes: int
    """Of the device, for weights that pass through."""
    cache_bytes: int
    """Of the device, for captions."""
    step_bytes: int
    """Of the device, for a denoising step."""
    decode_bytes: int
    """Of the device, for decoding."""
    kept_bytes: int
    """Weights that are kept in host memory."""
    host_map_bytes: int
    """Of host memory, for decoding."""
    copied_per_step: int
    """Bytes copied to the device for each step, whatever the number of its images."""
    copied_per_prompts: int
    """Bytes copied to the device for each batch of new prompts."""
    device_is_host: bool = False
    """Whether the device is the CPU."""

    @property
    def device_bytes(self) -> int:
        """The most that is on the device at once."""
        stays = sum(self.weights.values()) + self.window_bytes + self.cache_bytes
        computed = max(self.step_bytes, self.decode_bytes)
        in_host_memory = self.kept_bytes + self.host_map_bytes if self.device_is_host else 0
        return stays + computed + in_host_memory

    @property
    def host_bytes(self) -> int:
        """The most that is in host memory at once, where the device has its own."""
        return 0 if self.device_is_host else self.kept_bytes + self.host_map_bytes


def memory_plan(
    sizes: ModelSizes,
    mode: MemoryMode,
    *,
    itemsize: int,
    layer_itemsize: int | None = None,
    vae_itemsize: int,
    num_tokens: int,
    num_pixels: int,
    cache_bytes: int,
    device_is_host: bool = False,
) -> MemoryPlan:
    """Plan the memory of an engine.

    Args:
        sizes: of its model.
        mode: its memory mode.
        itemsize: bytes of a value of the transformer and the encoders.
        layer_itemsize: bytes of a weight of the transformer's layers, if others (1 in float8).
        vae_itemsize: bytes of a value of the VAE.
        num_tokens: of an image and its caption.
        num_pixels: of an image.
        cache_bytes: limit of the cache of captions.
        device_is_host: whether it runs on the CPU.
    """
    layer_bytes, block_bytes = sizes.block * (layer_itemsize or itemsize), sizes.block * itemsize
    layers = sizes.num_layers * layer_bytes + sizes.num_control_layers * block_bytes
    refiners, caption_refiners = sizes.num_refiners * block_bytes, sizes.num_caption_refiners * block_bytes
    transformer = sizes.transformer_rest * itemsize + layers + refiners + caption_refiners
    text_block, embedding = sizes.text_block * itemsize, sizes.text_embedding * itemsize
    text_blocks = sizes.num_text_blocks * text_block
    text_encoder = text_blocks + embedding
    of_step = of_prompts = kept_embedding = 0
    passing = [0]
    if mode.window:
        text_encoder, of_prompts, kept_embedding = 0, text_blocks, embedding
        passing.append(text_block)
    if mode.streams_layers:
        transformer, of_step = transformer - layers, layers
        passing += [layer_bytes, block_bytes if sizes.num_control_layers else 0]
    if mode.streams_refiners:
        transformer -= refiners + caption_refiners
        of_step, of_prompts = of_step + refiners, of_prompts + caption_refiners
        passing.append(block_bytes)
    in_attention = itemsize * _ATTENTION_VALUES + _FLOAT32 * _ATTENTION_FLOAT32
    of_token = max(in_attention, itemsize * _FEED_FORWARD_VALUES)
    if sizes.reads_references:
        of_token += _FLOAT32 * _MODULATION_FLOAT32
    if mode.max_map_bytes is None:
        decode_bytes, host_map_bytes = whole_decode_bytes(sizes.vae_channels, num_pixels, vae_itemsize), 0
    else:
        map_bytes = strip_map_bytes(sizes.vae_channels, num_pixels, vae_itemsize)
        on_device = map_bytes <= mode.max_map_bytes
        host_map_bytes = 0 if on_device else map_bytes
        decode_bytes = strip_decode_bytes(sizes.vae_channels, num_pixels, vae_itemsize, on_device=on_device)
    return MemoryPlan(
        weights={
            "transformer": transformer,
            "text encoder": text_encoder,
            "SigLIP": itemsize * sizes.siglip,
            "VAE": vae_itemsize * sizes.vae,
        },
        window_bytes=max(passing) * mode.window,
        cache_bytes=cache_bytes,
        step_bytes=num_tokens * sizes.width * of_token,
        decode_bytes=decode_bytes,
        kept_bytes=of_step + of_prompts + kept_embedding,
        host_map_bytes=host_map_bytes,
        copied_per_step=of_step,
        copied_per_prompts=of_prompts,
        device_is_host=device_is_host,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeMemory:
    """Bytes that are free; None where that is not known, which counts as enough."""

    device_bytes: int | None
    host_bytes: int | None = None

    def holds(self, plan: MemoryPlan) -> bool:
        """Return whether an engine fits."""
        return _fits(plan.device_bytes, self.device_bytes) and _fits(plan.host_bytes, self.host_bytes)

    def shortage(self, plan: MemoryPlan, device: str) -> str:
        """Return the memory that an engine needs and does not find, as text."""
        if _fits(plan.device_bytes, self.device_bytes):
            return f"{gb(plan.host_bytes)} of host memory, of which {gb(self.host_bytes or 0)} are free"
        return f"{gb(plan.device_bytes)} on {device}, which has {gb(self.device_bytes or 0)} free"


def _fits(num_bytes: int, free_bytes: int | None) -> bool:
    return free_bytes is None or num_bytes <= free_bytes


def gb(num_bytes: int) -> str:
    """Return a size as text, such as 12.3 GB."""
    return f"{num_bytes / 1e9:.1f} GB"
