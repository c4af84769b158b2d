"""How many tokens of its prompts a model reads: which are too long, and what a token limit changes."""

from collections.abc import Sequence

from zimage_models.model_spec import ModelSpec
from zimage_models.requests import ImageRequest

_PROMPTS = ("prompt", "negative_prompt")


class PromptLengths:
    """Counts the tokens of requests' prompts.

    Args:
        spec: the model; its tokenizer is loaded here.

    Attributes:
        tokenizer_rules: what is unusual about the tokenizer (:attr:`.PromptTokenizer.rules`).
    """

    def __init__(self, spec: ModelSpec) -> None:
        # Imports torch, which commands that only read a data set do not need.
        from zimage_models.models.prompt_tokenizer import PromptTokenizer

        self._spec = spec
        self._tokenizer = PromptTokenizer(spec.directory, max_tokens=spec.max_prompt_tokens)
        self.tokenizer_rules = self._tokenizer.rules

    def too_long(self, requests: Sequence[ImageRequest]) -> dict[int, str]:
        """Return the error of each request whose prompt is too long and may not be truncated, by place."""
        messages: dict[int, str] = {}
        checked = [place for place, request in enumerate(requests) if not request.truncate_prompt]
        for name in _PROMPTS:
            found = self._tokenizer.find_too_long([getattr(requests[place], name) for place in checked])
            for index, num_tokens in found.items():
                messages.setdefault(checked[index], self._tokenizer.too_long(num_tokens, name))
        return messages

    def tokens_read(self, request: ImageRequest) -> dict[str, int]:
        """Return the tokens read of each prompt that the model's default limit would truncate elsewhere."""
        limit = self._spec.default_prompt_tokens
        if not request.truncate_prompt or self._spec.max_prompt_tokens == limit:
            return {}
        found = self._tokenizer.read_otherwise(
            [getattr(request, name) for name in _PROMPTS],
            max_tokens=limit,
            num_references=len(request.condition_images),
        )
        return {_PROMPTS[place]: number for place, number in found.items()}
