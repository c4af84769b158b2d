"""Where a memory mode has the weights of a checkpoint's models."""

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from zimage_models.checkpoints.components import Components
from zimage_models.memory.modes import MemoryMode
from zimage_models.models.device_memory import upload
from zimage_models.models.offload.strips import use_strips
from zimage_models.models.offload.window import ON_DEVICE, Residency, Window

_LAYERS = ("layers", "control_layers")
_REFINERS = ("context_refiner", "noise_refiner", "siglip_refiner", "control_noise_refiner")


def host_parts(mode: MemoryMode) -> tuple[str, ...]:
    """List the components that must be loaded into host memory for :func:`place`."""
    streamed = ("transformer", "controlnet") if mode.streams_layers else ()
    return (*streamed, "text_encoder") if mode.window else ()


def place(components: Components, mode: MemoryMode, device: torch.device) -> Residency:
    """Put models where a memory mode has them: all of them on the device, but what passes through a window.

    Args:
        components: on the device, but those of :func:`host_parts`.
        mode: the memory mode.
        device: where the models compute.

    Returns:
        How blocks get to the device.
    """
    if not mode.window:
        return ON_DEVICE
    window = Window(device, num_slots=mode.window)
    _stream_text_encoder(components.text_encoder, window)
    if mode.max_map_bytes is not None:
        use_strips(components.vae, max_map_bytes=mode.max_map_bytes)
    stacks = _LAYERS * mode.streams_layers + _REFINERS * mode.streams_refiners
    for model in (components.transformer, components.controlnet):
        if model is not None and stacks:
            blocks = [block for stack in stacks for block in getattr(model, stack, None) or ()]
            kept = {part for block in blocks for part in (block.attention, block.feed_forward)}
            _move(model, device, but=kept)
    return Residency(
        layers=window if mode.streams_layers else None, refiners=window if mode.streams_refiners else None
    )


def _stream_text_encoder(text_encoder: Any, window: Window) -> None:
    layers, embedding = text_encoder.layers, text_encoder.get_input_embeddings()
    for layer in layers:
        window.take(layer)
        layer.register_forward_pre_hook(lambda module, _: window.enter(module))
    # Few rows of the table are needed: they are looked up in host memory.
    embedding.register_forward_hook(lambda module, _, found: upload(found, window.device))
    _move(text_encoder, window.device, but={embedding, *layers})


def _move(module: nn.Module, device: torch.device, *, but: Collection[nn.Module]) -> None:
    """Move a module to a device without some of its parts."""
    if module in but:
        return
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        tensor.data = tensor.data.to(device)
    for child in module.children():
        _move(child, device, but=but)
