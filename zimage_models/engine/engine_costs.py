"""What the parts of an engine's work cost on its device: steps, encoding prompts, decoding images."""

from collections.abc import Sequence

from zimage_models.engine.cost_table import CostTable
from zimage_models.engine.step_scheduler import Bucket

# Each is used until the first measurement of its kind of work.
_GUESSED_TOKEN_S = 1e-5
_GUESSED_PIXEL_S = 1e-8
_GUESSED_PROMPT_S = 1e-2


class EngineCosts:
    """Predicts seconds from those measured on this engine; any thread may use it."""

    def __init__(self, *, width: int) -> None:
        """Make costs without measurements.

        Args:
            width: the transformer's width, its number of channels per token.
        """
        # A block's projections and feed-forward take 12 width^2 multiplications per token, and its attention
        # 2 width for each token that a token sees. Both are equal at this sequence length.
        self._balanced_tokens = 6 * width
        self._steps: CostTable[Bucket] = CostTable(guess_s=_GUESSED_TOKEN_S)
        self._decoding: CostTable[tuple[int, int]] = CostTable(guess_s=_GUESSED_PIXEL_S)
        self._encoding: CostTable[int] = CostTable(guess_s=_GUESSED_PROMPT_S)

    def step_s(self, bucket: Bucket, num_images: int) -> float:
        """Return the seconds of one step of some images of a bucket."""
        return self._steps.seconds(bucket, self._step_work(bucket, num_images))

    def decoding_s(self, height: int, width: int) -> float:
        """Return the seconds of decoding one image, as one of as many as usually end together."""
        return self._decoding.seconds((height, width), height * width)

    def encoding_s(self, num_pictures: int) -> float:
        """Return the seconds of encoding one request's prompts and so many pictures, likewise."""
        return self._encoding.seconds(num_pictures, 1)

    def record_step(self, bucket: Bucket, num_images: int, seconds: float) -> None:
        """Record the seconds of one step of some images of a bucket."""
        self._steps.record(bucket, self._step_work(bucket, num_images), seconds)

    def record_decoding(self, height: int, width: int, num_images: int, seconds: float) -> None:
        """Record the seconds of decoding some images of one size together."""
        self._decoding.record((height, width), height * width, seconds / num_images)

    def record_encoding(self, pictures: Sequence[int], seconds: float) -> None:
        """Record the seconds of encoding some requests together, each with so many pictures."""
        most, num_texts = max(pictures), pictures.count(0)
        if most and num_texts:
            # What is known of the prompts is taken out, but pictures take no less than an equal share.
            equal_s = seconds / len(pictures)
            with_pictures_s = (seconds - num_texts * self.encoding_s(0)) / (len(pictures) - num_texts)
            self._encoding.record(most, 1, max(equal_s, with_pictures_s))
        else:
            self._encoding.record(most, 1, seconds / len(pictures))

    def _step_work(self, bucket: Bucket, num_images: int) -> float:
        return num_images * bucket.num_tokens * (1 + bucket.sequence_tokens / self._balanced_tokens)
