"""The images that a job has to generate, counted by kind."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipelines.capacity.accelerators import Accelerator
from pipelines.capacity.engine_speed import EngineEstimate, estimate_engine
from pipelines.capacity.image_work import ImageKind, image_work
from pipelines.capacity.model_shape import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Images of one model, counted by kind; at least one."""

    shape: ModelShape
    kinds: Mapping[ImageKind, int]

    @property
    def num_images(self) -> int:
        """Number of all images."""
        return sum(self.kinds.values())

    @property
    def num_forwards(self) -> int:
        """Number of transformer forwards of all images."""
        return sum(kind.forwards * number for kind, number in self.kinds.items())

    @property
    def flops(self) -> float:
        """Floating-point operations of all images."""
        return sum(image_work(self.shape, kind).flops * number for kind, number in self.kinds.items())

    @property
    def main_kind(self) -> ImageKind:
        """The most frequent kind."""
        return Counter(self.kinds).most_common(1)[0][0]

    def engine(self, accelerator: Accelerator, degree: int) -> EngineEstimate:
        """Estimate an engine for this mixture: mean times, and the memory of the largest image."""
        estimates = [
            (
                number,
                estimate_engine(
                    self.shape,
                    image_work(self.shape, kind),
                    accelerator,
                    degree=degree,
                    pixels=kind.height * kind.width,
                ),
            )
            for kind, number in self.kinds.items()
        ]

        total = self.num_images
        return replace(
            max((one for _, one in estimates), key=lambda one: one.memory_gb),
            image_s=sum(number * one.image_s for number, one in estimates) / total,
            compute_s=sum(number * one.compute_s for number, one in estimates) / total,
            communication_s=sum(number * one.communication_s for number, one in estimates) / total,
        )
