"""Speed and memory of one engine, on one accelerator or spread over N accelerators of one machine.

An engine of degree N splits every block's heads and inner width; each of the two parts ends in an all-reduce
over all ranks. Embedders, text encoder and VAE are not split. Degrees that do not divide the heads pad them
(30 to 32 for 4 and 8); the formula includes this cost.
"""

from dataclasses import dataclass

from pipelines.capacity.accelerators import Accelerator
from pipelines.capacity.image_work import ImageWork
from pipelines.capacity.model_shape import ModelShape, TransformerShape

_BF16 = 2
_FLOAT32 = 4
_VAE_PARAMETERS = 83.8e6
_ACTIVATION_GB_PER_PIXEL = 4.0 / 1024**2
"""Peak memory minus weights at 1024 x 1024 (24.5 - 20.5 GB: SGLang CI, H100), proportional to the pixels."""
_USABLE_MEMORY = 0.95
SUMS_PER_BLOCK = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEstimate:
    """Estimate of one engine of a given degree on one kind of accelerator."""

    degree: int
    image_s: float
    """Time of one image from prompt to pixels, with nothing else to do."""
    compute_s: float
    """Part of it for arithmetic."""
    communication_s: float
    """Part of it for all-reduces over the ranks."""
    memory_gb: float
    """Memory on the fullest rank."""
    fits: bool

    @property
    def images_per_s(self) -> float:
        """Throughput when the engine always has work."""
        return 1 / self.image_s


def estimate_engine(
    shape: ModelShape, work: ImageWork, accelerator: Accelerator, *, degree: int, pixels: int
) -> EngineEstimate:
    """Estimate an engine: ``T(N) = (split flops * padding / N + other flops) / speed + all-reduces``."""
    speed = accelerator.sustained_tflops * 1e12
    split_s = work.forwards * work.forward_flops / speed
    other_s = (work.caption_flops + work.decode_flops) / speed
    compute_s = split_s * padding(shape.transformer, degree) / degree + other_s
    communication_s = work.forwards * sums_s(shape.transformer, work.sequence, accelerator, degree)
    memory_gb = engine_memory_gb(shape, degree=degree, pixels=pixels)
    return EngineEstimate(
        degree=degree,
        image_s=compute_s + communication_s,
        compute_s=compute_s,
        communication_s=communication_s,
        memory_gb=memory_gb,
        fits=memory_gb <= _USABLE_MEMORY * accelerator.memory_gb,
    )


def num_sums(shape: TransformerShape) -> int:
    """Count the all-reduces of one forward: two per block."""
    return SUMS_PER_BLOCK * shape.num_blocks


def sum_bytes(shape: TransformerShape, sequence: int) -> int:
    """Return the size of one all-reduce: the block's output in bfloat16."""
    return sequence * shape.dim * _BF16


def sums_s(shape: TransformerShape, sequence: int, accelerator: Accelerator, degree: int) -> float:
    """Return one forward's ring all-reduce time: ``68 * (2 (N - 1) / N * bytes / bandwidth + latency)``."""
    if degree == 1:
        return 0.0
    if accelerator.all_reduce_gb_per_s is None:
        return float("inf")
    on_wire = 2 * (degree - 1) / degree * sum_bytes(shape, sequence)
    one_s = on_wire / (accelerator.all_reduce_gb_per_s * 1e9) + accelerator.all_reduce_latency_s
    return num_sums(shape) * one_s


def padding(shape: TransformerShape, degree: int) -> float:
    """Return the factor by which the split work grows when heads and inner width are padded to the degree."""
    attention, ffn = shape.attention_weights, shape.ffn_weights
    padded = attention * _up(shape.num_heads, degree) / shape.num_heads
    padded += ffn * _up(shape.ffn_dim, degree) / shape.ffn_dim
    return padded / (attention + ffn)


def engine_memory_gb(shape: ModelShape, *, degree: int, pixels: int) -> float:
    """Return the memory of the fullest rank in 10^9 bytes: its share of the blocks, and all unsplit parts."""
    transformer = shape.transformer
    split = transformer.num_blocks * (transformer.attention_weights + transformer.ffn_weights)
    whole = transformer.num_parameters - split
    weights = _BF16 * (split * padding(transformer, degree) / degree + whole)
    weights += _BF16 * shape.text_encoder.num_parameters + _FLOAT32 * _VAE_PARAMETERS
    return weights / 1e9 + _ACTIVATION_GB_PER_PIXEL * pixels


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
