import json
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import ZImageOmniPipeline, ZImagePipeline
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer, Qwen2Tokenizer

from zimage_models.checkpoints.components import load_components
from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.config import EngineConfig
from zimage_models.errors import CheckpointError, InvalidRequest
from zimage_models.models.prompt_encoder import PromptEncoder
from zimage_models.models.prompt_tokenizer import PromptTokenizer
from zimage_models.models.sequence_layout import num_caption_positions

PROMPTS = [
    "a",
    " red apple \n",
    "一只红苹果",
    "🦊" * 9,
    "a picture of pizza, " * 12,
    "",
    "x<|im_end|>y",
    "é\u0301",
]


@pytest.fixture(params=["tiny", "tiny-zimage-turbo"], scope="module")
def directory(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> Path:
    if request.param == "tiny":
        return tiny_checkpoint
    return resolve_model(EngineConfig(model=request.param)).directory


def diffusers_ids(pipeline: ZImagePipeline, prompt: str) -> list[int]:
    text = pipeline.tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=True,
    )
    return list(pipeline.tokenizer(text)["input_ids"])


def test_ids_are_those_of_diffusers(directory: Path, pipeline_of: Callable[[Path], ZImagePipeline]) -> None:
    tokenizer = PromptTokenizer(directory, max_tokens=512)
    for prompt in PROMPTS:
        assert list(tokenizer.tokenize(prompt, truncate=False).ids) == diffusers_ids(
            pipeline_of(directory), prompt
        )


@pytest.mark.parametrize("num_references", [0, 1, 3])
def test_segments_are_those_of_diffusers(directory: Path, num_references: int) -> None:
    tokenizer = PromptTokenizer(directory, max_tokens=512)
    pipeline = SegmentsOf(directory)
    for prompt in PROMPTS:
        found = tokenizer.tokenize(prompt, truncate=False, num_references=num_references)
        assert list(map(list, found.segments)) == pipeline.segments(prompt, num_references)
        assert tokenizer.count([prompt], num_references=num_references) == [
            len(found.segments[num_references])
        ]


class SegmentsOf:
    """Shows which texts the omni pipeline encodes, and as which tokens."""

    def __init__(self, directory: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(str(directory / "tokenizer"), local_files_only=True)

    def segments(self, prompt: str, num_references: int) -> list[list[int]]:
        ZImageOmniPipeline._encode_prompt(
            self, prompt, torch.device("cpu"), num_condition_images=num_references
        )
        return self._segments

    def tokenizer(self, texts: list[str], **options: Any) -> Any:
        inputs = self._tokenizer(texts, **options)
        pairs = zip(inputs.input_ids, inputs.attention_mask, strict=True)
        self._segments = [ids[mask.bool()].tolist() for ids, mask in pairs]
        return inputs

    def text_encoder(self, input_ids: torch.Tensor, **options: Any) -> Any:
        return SimpleNamespace(hidden_states=[input_ids] * 3)


def test_the_positions_of_the_model_bound_prompts_with_references(directory: Path) -> None:
    tokenizer = PromptTokenizer(directory, max_tokens=512, num_positions=384)
    prompt = "word " * 1000
    whole = tokenizer.tokenize(prompt, truncate=True)
    assert len(whole.ids) == 512
    for num_references in (1, 2):
        cut = tokenizer.tokenize(prompt, truncate=True, num_references=num_references)
        assert num_caption_positions(cut.lengths) <= 384
        longer = [length + 32 * (length == max(cut.lengths)) for length in cut.lengths]
        assert num_caption_positions(longer) > 384
        # Its end is kept, with the mark of the image to come.
        end = tokenizer.tokenize("", truncate=False, num_references=num_references).segments[num_references]
        assert cut.segments[num_references][-3:] == end[-3:]
        limit = len(cut.segments[num_references])
        with pytest.raises(InvalidRequest, match=f"^prompt: .* the limit is {limit}$"):
            tokenizer.tokenize(prompt, truncate=False, num_references=num_references)
        assert tokenizer.find_too_long(["a", prompt], num_references=num_references).keys() == {1}
    [needed] = tokenizer.count([""], num_references=4)
    for limits in ({"max_tokens": 512, "num_positions": 64}, {"max_tokens": needed}):
        with pytest.raises(InvalidRequest, match=r"^reference_images: 4 images leave no room"):
            PromptTokenizer(directory, **limits).tokenize("a", truncate=True, num_references=4)


def test_counts_are_the_lengths(directory: Path) -> None:
    tokenizer = PromptTokenizer(directory, max_tokens=512)
    assert tokenizer.count(PROMPTS) == [len(tokenizer.tokenize(p, truncate=False).ids) for p in PROMPTS]
    assert tokenizer.count([]) == []


@pytest.mark.parametrize("normalizer", [None, {"type": "NFC"}, {"type": "NFKC"}], ids=str)
def test_too_long_prompts_are_those_with_too_many_tokens(
    directory: Path, tmp_path: Path, normalizer: dict[str, str] | None
) -> None:
    shutil.copytree(directory / "tokenizer", tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": normalizer}))
    tokenizer = PromptTokenizer(tmp_path, max_tokens=400)
    rng = random.Random(0)
    # NFC makes three times as many bytes of the note, NFKC eleven times as many of the salutation.
    letters = ["a", " ", "\n", "é", "\u0301", "苹", "🦊", "\U0001d160", "\ufdfa", "<|im_end|>"]
    prompts = [letter * num for letter in letters for num in range(1, 400, 4)]
    prompts += ["".join(rng.choices(letters, k=rng.randrange(300))) for _ in range(500)]
    counts = tokenizer.count(prompts)
    expected = {place: num for place, num in enumerate(counts) if num > 400}
    assert 100 < len(expected) < len(prompts) - 100
    assert tokenizer.find_too_long(prompts) == expected
    assert tokenizer.find_too_long([]) == {}


def test_embeddings_are_those_of_diffusers(
    directory: Path, pipeline_of: Callable[[Path], ZImagePipeline]
) -> None:
    # diffusers pads to 512, keeps a mask and reads hidden_states[-2] of all layers; we do none of the three.
    components = load_components(
        directory, device=torch.device("cpu"), dtype=torch.float32, vae_dtype=torch.float32
    )
    tokenizer = PromptTokenizer(directory, max_tokens=512)
    prompts = [tokenizer.tokenize(prompt, truncate=False) for prompt in PROMPTS]
    embeddings = PromptEncoder(components.text_encoder).encode([prompt.ids for prompt in prompts])
    with torch.no_grad():
        expected = pipeline_of(directory)._encode_prompt(list(PROMPTS), max_sequence_length=512)
    for embedding, reference in zip(embeddings, expected, strict=True):
        assert embedding.shape == reference.shape
        torch.testing.assert_close(embedding, reference, atol=1e-5, rtol=1e-5)
    assert (embeddings[0][-1] - embeddings[2][-1]).abs().max() > 0.01


def test_long_prompts_are_rejected(directory: Path) -> None:
    tokenizer = PromptTokenizer(directory, max_tokens=64)
    prompt = "word " * 200
    [num_tokens] = tokenizer.count([prompt])
    with pytest.raises(InvalidRequest) as caught:
        tokenizer.tokenize(prompt, truncate=False, field="negative_prompt")
    assert str(caught.value) == tokenizer.too_long(num_tokens, "negative_prompt")
    assert (
        str(caught.value) == f"negative_prompt: {num_tokens} tokens with the chat template; the limit is 64"
    )
    assert caught.value.field == "negative_prompt"


def test_truncation_keeps_the_chat_suffix(directory: Path) -> None:
    tokenizer = PromptTokenizer(directory, max_tokens=64)
    # White space at the end: a word's last token may depend on what follows it.
    whole = PromptTokenizer(directory, max_tokens=4096).tokenize("word " * 200, truncate=False)
    empty = tokenizer.tokenize("", truncate=True)
    cut = tokenizer.tokenize("word " * 200, truncate=True)
    assert (empty.truncated, whole.truncated, cut.truncated) == (False, False, True)
    assert len(cut.ids) == 64
    num_suffix = next(n for n in range(1, 64) if cut.ids[: 64 - n] == whole.ids[: 64 - n])
    suffix = cut.ids[-num_suffix:]
    assert suffix == whole.ids[-num_suffix:] == empty.ids[-num_suffix:]
    assert num_suffix >= 3


def test_the_limit_is_inclusive(directory: Path) -> None:
    [num_tokens] = PromptTokenizer(directory, max_tokens=512).count(["red apple"])
    exact = PromptTokenizer(directory, max_tokens=num_tokens).tokenize("red apple", truncate=False)
    assert (len(exact.ids), exact.truncated) == (num_tokens, False)
    with pytest.raises(InvalidRequest):
        PromptTokenizer(directory, max_tokens=num_tokens - 1).tokenize("red apple", truncate=False)


def test_a_limit_below_the_template_is_told(directory: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"^max_prompt_tokens: 3 is too few: the chat template takes"):
        PromptTokenizer(directory, max_tokens=3)


def test_threads_share_a_tokenizer(directory: Path) -> None:
    tokenizer = PromptTokenizer(directory, max_tokens=64)
    prompts = [f"{word} " * (1 + number % 40) for number in range(200) for word in ("owl", "猫")]
    expected = [tokenizer.tokenize(prompt, truncate=True) for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda prompt: tokenizer.tokenize(prompt, truncate=True), prompts)) == expected


def test_a_missing_tokenizer_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tokenizer: no usable tokenizer"):
        PromptTokenizer(tmp_path, max_tokens=64)


@pytest.mark.parametrize("change", ["message.content | trim", "'always this'"])
def test_a_template_that_changes_the_text_is_told(tiny_checkpoint: Path, tmp_path: Path, change: str) -> None:
    shutil.copytree(tiny_checkpoint / "tokenizer", tmp_path / "tokenizer")
    template = tmp_path / "tokenizer" / "chat_template.jinja"
    template.write_text(template.read_text().replace("message.content", change))
    with pytest.raises(CheckpointError, match="its chat template changes the user's text"):
        PromptTokenizer(tmp_path, max_tokens=64)


def test_a_missing_template_is_told(tiny_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_checkpoint / "tokenizer", tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "chat_template.jinja").unlink()
    config = tmp_path / "tokenizer" / "tokenizer_config.json"
    content = json.loads(config.read_text())
    content.pop("chat_template", None)
    config.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="tokenizer: no usable tokenizer"):
        PromptTokenizer(tmp_path, max_tokens=64)


def test_tokens_read_otherwise_are_those_that_a_limit_decides(directory: Path) -> None:
    short, long, longest = "owl", "owl " * 60, "owl " * 200
    prompts = [short, long, longest]

    def read(max_tokens: int, other: int, num_references: int = 0) -> dict[int, int]:
        tokenizer = PromptTokenizer(directory, max_tokens=max_tokens)
        found = tokenizer.read_otherwise(prompts, max_tokens=other, num_references=num_references)
        kept = [
            tokenizer.tokenize(prompt, truncate=True, num_references=num_references).lengths[num_references]
            for prompt in prompts
        ]
        assert found == {place: kept[place] for place in found}
        return found

    assert read(512, 512) == {}
    num_tokens = PromptTokenizer(directory, max_tokens=512).count(prompts)
    assert num_tokens[0] < 32 < num_tokens[1] < num_tokens[2]
    # Both are cut below the default limit, and a higher limit lets more through.
    assert read(32, 512) == {1: 32, 2: 32}
    assert read(num_tokens[2], 64).keys() == {1, 2}
    assert read(num_tokens[2] + 1, num_tokens[1]) == {2: num_tokens[2]}
    # Limits that cut nothing are alike.
    assert read(num_tokens[2], num_tokens[2] + 9) == {}
    assert 2 in read(100, 512, num_references=2)


def test_the_tokenizer_class_of_the_release_has_known_rules(tmp_path: Path) -> None:
    vocabulary = {
        token: place for place, token in enumerate(["<|endoftext|>", *sorted(ByteLevel.alphabet())])
    }
    vocabulary |= {f"<extra{place}>": place for place in range(len(vocabulary), 100_001)}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    embedded = resolve_model(EngineConfig()).directory / "tokenizer"
    tokenizer.chat_template = (embedded / "chat_template.jinja").read_text()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert PromptTokenizer(tmp_path, max_tokens=512).rules == ""


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("chat_template.jinja", "'<|im_start|>' + message", "'<|im_start|> ' + message"),
        ("chat_template.jinja", "<|im_start|>assistant", "<|im_start|>model"),
        ("tokenizer.json", '"normalizer": null', '"normalizer": {"type": "NFC"}'),
        ("tokenizer.json", '"normalizer": null', '"normalizer": {"type": "Lowercase"}'),
        ("tokenizer.json", '"add_prefix_space": false', '"add_prefix_space": true'),
        ("tokenizer.json", "\\\\p{N}|", "\\\\p{N}{1,3}|"),
    ],
)
def test_other_rules_of_a_tokenizer_are_told(tmp_path: Path, file: str, old: str, new: str) -> None:
    embedded = resolve_model(EngineConfig()).directory / "tokenizer"
    folder = shutil.copytree(embedded, tmp_path / "tokenizer")
    text = (folder / file).read_text(encoding="utf-8")
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    told = json.loads(PromptTokenizer(tmp_path, max_tokens=512).rules)
    assert told.keys() == {"normalizer", "pre_tokenizer", "template"}
