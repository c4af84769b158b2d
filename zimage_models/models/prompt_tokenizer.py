"""Token ids of prompts, within the token limit. It loads no weights and does not need torch.

The text is one user turn of the checkpoint's own chat template (diffusers pipeline_z_image.py,
``_encode_prompt``).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.normalizers import NFC
from transformers import AutoTokenizer

from zimage_models.component_config import canonical_json
from zimage_models.errors import CheckpointError, InvalidRequest
from zimage_models.models.sequence_layout import num_caption_positions

# White space at both ends reveals a template that trims the user's text.
_SENTINEL = " <<prompt>>\n"
_VISION_START, _VISION_END, _TURN_END = "<|vision_start|>", "<|vision_end|>", "<|im_end|>"

# Qwen's tokenizer (transformers' Qwen2Tokenizer), with which the release comes. The embedded models' is the
# same with 4096 tokens and no normaliser.
_LARGE_VOCABULARY = 100_000
_QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_QWEN_RULES = {
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {"Regex": _QWEN_PATTERN},
                "behavior": "Isolated",
                "invert": False,
            },
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ],
    },
    "template": ["<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedPrompt:
    """A prompt as token ids, chat template included."""

    segments: tuple[tuple[int, ...], ...]
    """Parts that are encoded separately; several only if there are images between them."""
    truncated: bool = False

    @property
    def ids(self) -> tuple[int, ...]:
        """All token ids."""
        return tuple(chain.from_iterable(self.segments))

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of each segment."""
        return [len(segment) for segment in self.segments]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """The text around a prompt with a certain number of reference images."""

    prefix: str
    suffix: str
    suffix_ids: tuple[int, ...]
    before: tuple[tuple[int, ...], ...] = ()
    """Segments before the prompt's own."""
    after: tuple[tuple[int, ...], ...] = ()
    max_tokens: int
    """Token limit of the prompt's own segment."""

    def holding(self, ids: Sequence[int], *, truncated: bool) -> TokenizedPrompt:
        return TokenizedPrompt(segments=(*self.before, tuple(ids), *self.after), truncated=truncated)


class PromptTokenizer:
    """Turns prompts into token ids and enforces the token limit; loads no weights. Any thread may use it.

    With reference images, a prompt has a segment before each image, its own segment and a last one, as in
    diffusers' ``ZImageOmniPipeline._encode_prompt``. The limit applies to its own segment.
    """

    def __init__(self, directory: Path, *, max_tokens: int, num_positions: int | None = None) -> None:
        """Load a checkpoint's tokenizer.

        Args:
            directory: the checkpoint.
            max_tokens: the limit.
            num_positions: positions that all segments share (``ModelSpec.num_caption_positions``); they may
                lower the limit of prompts with reference images.
        """
        folder = directory / "tokenizer"
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
            # enable_thinking=True adds no block to the prompt; the model was trained with it.
            template = tokenizer.apply_chat_template(
                [{"role": "user", "content": _SENTINEL}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=True,
            )
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder}: no usable tokenizer ({error})") from error
        if not tokenizer.is_fast:
            raise CheckpointError(f"{folder}: {type(tokenizer).__name__} has no tokenizer.json")
        self._prefix, separator, self._suffix = str(template).partition(_SENTINEL)
        if not separator:
            raise CheckpointError(f"{folder}: its chat template changes the user's text")
        self.max_tokens = max_tokens
        # The Rust tokenizer itself: transformers' wrapper keeps state that threads must not share.
        self._tokenizer = tokenizer.backend_tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.rules = _rules(self._tokenizer, self._prefix, self._suffix)
        """How it splits texts and what it puts around them, as canonical JSON; "" if as in known models."""
        self._counts_bytes = _has_a_byte_for_each_token(self._tokenizer)
        self._num_positions = num_positions
        self._frames: dict[tuple[int, int], _Frame] = {}
        num_template_tokens = len(self._ids(self._prefix + self._suffix))
        if max_tokens <= num_template_tokens:
            raise InvalidRequest(
                f"max_prompt_tokens: {max_tokens} is too few: the chat template takes {num_template_tokens}",
                field="max_prompt_tokens",
            )

    def count(self, prompts: Sequence[str], *, num_references: int = 0) -> list[int]:
        """Count the tokens of each prompt (with references, of its own segment), chat template included."""
        frame = self._frame(num_references)
        texts = [f"{frame.prefix}{prompt}{frame.suffix}" for prompt in prompts]
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch_fast(texts)]

    def find_too_long(self, prompts: Sequence[str], *, num_references: int = 0) -> dict[int, int]:
        """Find the prompts that have too many tokens, without tokenizing the short ones.

        Returns:
            Number of tokens, chat template included, by the prompt's place in the sequence.
        """
        frame = self._frame(num_references)
        unsure = [place for place, prompt in enumerate(prompts) if not self._surely_fits(prompt, frame)]
        counts = self.count([prompts[place] for place in unsure], num_references=num_references)
        return {place: num for place, num in zip(unsure, counts, strict=True) if num > frame.max_tokens}

    def read_otherwise(
        self, prompts: Sequence[str], *, max_tokens: int, num_references: int = 0
    ) -> dict[int, int]:
        """Find the prompts of which another limit would let the model read more tokens or fewer.

        Returns:
            Number of tokens that are read of a prompt that may be truncated, by its place in the sequence.

        Raises:
            InvalidRequest: the references leave no room for a prompt.
        """
        limit, other = (
            self._frame(num_references, limit).max_tokens for limit in (self.max_tokens, max_tokens)
        )
        if limit == other:
            return {}
        counts = self.count(prompts, num_references=num_references)
        return {
            place: min(num, limit) for place, num in enumerate(counts) if min(num, limit) != min(num, other)
        }

    def tokenize(
        self, prompt: str, *, truncate: bool, field: str = "prompt", num_references: int = 0
    ) -> TokenizedPrompt:
        """Turn one prompt into token ids.

        Args:
            prompt: the user's text.
            truncate: cut a prompt past the limit, keeping the template's closing tokens, instead of raising.
            field: the name used in the error.
            num_references: number of images that the model reads with it.

        Raises:
            InvalidRequest: the prompt has too many tokens and ``truncate`` is False.
        """
        frame = self._frame(num_references)
        ids = self._ids(f"{frame.prefix}{prompt}{frame.suffix}")
        if len(ids) <= frame.max_tokens:
            return frame.holding(ids, truncated=False)
        if not truncate:
            raise InvalidRequest(self.too_long(len(ids), field, num_references=num_references), field=field)
        kept = ids[: frame.max_tokens - len(frame.suffix_ids)]
        return frame.holding((*kept, *frame.suffix_ids), truncated=True)

    def too_long(self, num_tokens: int, field: str = "prompt", *, num_references: int = 0) -> str:
        """Return the error message for a prompt with too many tokens."""
        limit = self._frame(num_references).max_tokens
        return f"{field}: {num_tokens} tokens with the chat template; the limit is {limit}"

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text).ids)

    def _frame(self, num_references: int, max_tokens: int | None = None) -> _Frame:
        key = num_references, max_tokens or self.max_tokens
        if key not in self._frames:
            self._frames[key] = self._make_frame(*key)
        return self._frames[key]

    def _make_frame(self, num_references: int, max_tokens: int) -> _Frame:
        if not num_references:
            return _Frame(
                prefix=self._prefix,
                suffix=self._suffix,
                suffix_ids=self._ids(self._suffix),
                max_tokens=max_tokens,
            )
        between = [_VISION_END + _VISION_START] * (num_references - 1)
        before = [self._ids(text) for text in (self._prefix + _VISION_START, *between)]
        after = self._ids(_VISION_END + _TURN_END)
        suffix = self._suffix + _VISION_START
        suffix_ids = self._ids(suffix)
        limit = max_tokens
        lengths = [len(segment) for segment in before]
        num_positions = self._num_positions
        if num_positions is not None:
            fits = (
                n
                for n in range(max_tokens, 0, -1)
                if num_caption_positions([*lengths, n, len(after)]) <= num_positions
            )
            max_tokens = next(fits, 0)
        if max_tokens <= len(self._ids(_VISION_END + suffix)):
            raise InvalidRequest(
                f"reference_images: {num_references} images leave no room for a prompt"
                f" (max_prompt_tokens {limit}, positions {num_positions})",
                field="reference_images",
            )
        return _Frame(
            prefix=_VISION_END,
            suffix=suffix,
            suffix_ids=suffix_ids,
            before=tuple(before),
            after=(after,),
            max_tokens=max_tokens,
        )

    def _surely_fits(self, prompt: str, frame: _Frame) -> bool:
        text = f"{frame.prefix}{prompt}{frame.suffix}"
        # NFC turns one byte into at most three (Unicode UAX 15, maximum expansion factors), but keeps ASCII.
        num_bytes = len(text) if text.isascii() else 3 * len(text.encode())
        return self._counts_bytes and num_bytes <= frame.max_tokens


def _rules(tokenizer: Tokenizer, prefix: str, suffix: str) -> str:
    """Return what a tokenizer does besides its vocabulary, which belongs to the text encoder's weights."""
    normalizer, splits = (
        json.loads(step.__getstate__()) if step else None
        for step in (tokenizer.normalizer, tokenizer.pre_tokenizer)
    )
    for step in (splits or {}).get("pretokenizers", ()):
        step.pop("trim_offsets", None)  # of characters, not of tokens
    rules = {"normalizer": normalizer, "pre_tokenizer": splits, "template": [prefix, suffix]}
    is_large = tokenizer.get_vocab_size() >= _LARGE_VOCABULARY
    known = {**_QWEN_RULES, "normalizer": {"type": "NFC"} if is_large else None}
    return "" if rules == known else canonical_json(rules)


def _has_a_byte_for_each_token(tokenizer: Tokenizer) -> bool:
    """Return whether no text has more tokens than bytes after NFC, as with Qwen's byte-level BPE."""
    steps = tokenizer.pre_tokenizer
    *splits, last = (
        steps if isinstance(steps, pre_tokenizers.Sequence) else [steps]  # type: ignore[misc]  # by its indices
    )
    return (
        isinstance(tokenizer.model, BPE)
        and (tokenizer.normalizer is None or isinstance(tokenizer.normalizer, NFC))
        and all(isinstance(step, pre_tokenizers.Split) for step in splits)
        and isinstance(last, pre_tokenizers.ByteLevel)
        and not last.add_prefix_space
        and not tokenizer.encode("").ids
    )
