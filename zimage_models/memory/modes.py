"""How much of an engine's model is on its device at once: the table of memory modes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryMode:
    """What leaves the device until it is needed, so that a released model fits a smaller one.

    Weights keep their type, and images do not change: a mode is no part of their IDs.
    """

    summary: str
    window: int = 0
    """Number of blocks whose weights are on the device at once, of those that are kept in host memory: the
    text encoder's, and what the next two add. 0: nothing is kept there."""
    streams_layers: bool = False
    """Whether the transformer's layers, and a ControlNet's, are kept in host memory too."""
    streams_refiners: bool = False
    """Whether the transformer's refiners are."""
    max_map_bytes: int | None = None
    """Feature maps of the VAE that may be on the device at once; larger ones are kept in host memory. The VAE
    runs over strips of an image. None: it runs over whole images."""
    max_step_tokens: int | None = None
    """Transformer tokens in one step; None for the device's default."""


RESIDENT = "resident"
# An image of 1024 x 1024 takes at most 15.5, 7.8 and 3.9 GB with the released models in bfloat16, also if the
# VAE is in float32 (:func:`.plan.memory_plan`): then its feature maps take 1.6 GB, or 3.6 GB at 1536 x 1536.
MEMORY_MODES: dict[str, MemoryMode] = {
    RESIDENT: MemoryMode(summary="all models stay on the device"),
    "16gb": MemoryMode(
        summary="the text encoder comes in for each batch of prompts", window=2, max_map_bytes=1_700_000_000
    ),
    "8gb": MemoryMode(
        summary="the transformer's layers come in for each step, too",
        window=3,
        streams_layers=True,
        max_map_bytes=3_700_000_000,
    ),
    "4gb": MemoryMode(
        summary="all of the transformer's blocks do",
        window=2,
        streams_layers=True,
        streams_refiners=True,
        max_map_bytes=1_700_000_000,
        max_step_tokens=2 * 4224,
    ),
}
"""From the most memory to the least."""
