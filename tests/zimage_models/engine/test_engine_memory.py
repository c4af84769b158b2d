"""The engine's memory: what it keeps of prompts, encodes ahead, and does when memory runs out."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.zimage_models.engine.conftest import IMAGE_TOKENS, Ask, MakeEngine, RecordingRunner, run
from tests.zimage_models.engine_parts import Wrapped, engine_around, tokenizer_of
from zimage_models.checkpoints.components import Components
from zimage_models.errors import BlankImage, GenerationFailed, OutOfMemory
from zimage_models.model_spec import ModelSpec
from zimage_models.models.image_state import ImageState
from zimage_models.pictures import Picture
from zimage_models.requests import Priority


def test_prompts_are_encoded_once(make_engine: MakeEngine, ask: Ask) -> None:
    engine, _ = make_engine()
    engine.submit(ask(1))
    run(engine)
    assert (engine.stats().num_caption_hits, engine.stats().num_caption_misses) == (0, 1)
    handles = [engine.submit(ask(seed, guidance_scale=2.0, negative_prompt="dog")) for seed in (2, 3)]
    run(engine)
    assert (engine.stats().num_caption_hits, engine.stats().num_caption_misses) == (1, 2)
    handles.append(engine.submit(ask(4, guidance_scale=2.0, negative_prompt="dog")))
    run(engine)
    assert (engine.stats().num_caption_hits, engine.stats().num_caption_misses) == (3, 2)
    assert all(handle.result(0).pixels_HWC.any() for handle in handles)


def test_the_prompt_cache_is_bounded(components: Components, spec: ModelSpec, ask: Ask) -> None:
    caption_bytes = 32 * 64 * 4
    runner = RecordingRunner(components, caption_cache_bytes=2 * caption_bytes + 5)
    engine = engine_around(spec, runner, max_step_tokens=64)
    for seed, prompt in enumerate(("a", "b", "a", "c", "a", "b")):
        handle = engine.submit(ask(seed, prompt=prompt, num_inference_steps=1))
        run(engine)
        assert handle.result(0).pixels_HWC.any()
        assert runner.captions.num_bytes <= 2 * caption_bytes
    # a and b are kept, a is used, c drives out b, a is used, b is made again.
    assert (runner.captions.num_hits, runner.captions.num_misses) == (2, 4)


def test_what_is_kept_does_not_keep_its_batch(make_engine: MakeEngine, ask: Ask, spec: ModelSpec) -> None:
    engine, runner = make_engine()
    handles = [engine.submit(ask(seed, prompt=f"owl {seed}")) for seed in (1, 2, 3)]
    run(engine)
    assert all(handle.result(0).pixels_HWC.base is None for handle in handles)
    caption = runner.captions.get(tokenizer_of(spec).tokenize("owl 2", truncate=False).segments)
    assert caption is not None
    assert caption.untyped_storage().nbytes() == caption.nbytes


def test_prompts_next_in_line_are_encoded_together(make_engine: MakeEngine, ask: Ask) -> None:
    engine, runner = make_engine(max_step_tokens=IMAGE_TOKENS)
    for seed in range(40):
        engine.submit(ask(seed, prompt=f"owl {seed}", num_inference_steps=1))
    run(engine)
    assert [len(seeds) for seeds in runner.prepared] == [32, 8]


def test_prompts_of_other_buckets_next_steps_are_encoded_before_a_long_line(
    make_engine: MakeEngine, ask: Ask
) -> None:
    engine, runner = make_engine(max_step_tokens=IMAGE_TOKENS)
    for seed in range(40):
        engine.submit(ask(seed, prompt=f"owl {seed}"))
    for seed, size in ((50, "128x64"), (51, "64x128")):
        engine.submit(ask(seed, prompt=f"owl {seed}", size=size))
    engine.step()
    assert runner.prepared == [[0, 50, 51, *range(1, 30)]]


def test_online_requests_wait_for_no_batch_prompt(make_engine: MakeEngine, ask: Ask) -> None:
    engine, runner = make_engine(max_step_tokens=IMAGE_TOKENS)
    for seed in range(5):
        engine.submit(ask(seed, prompt=f"owl {seed}"))
    for seed in (7, 8):
        engine.submit(ask(seed, prompt=f"owl {seed}", priority=Priority.ONLINE))
    run(engine)
    assert runner.prepared == [[7, 8], [0, 1, 2, 3, 4]]


class SmallMemoryRunner(RecordingRunner):
    """Runs out of memory on more than two images, and on any of more than 128 pixels a side."""

    def denoise_step(self, states: Sequence[ImageState]) -> None:
        if len(states) > 2 or states[0].request.width > 128:
            raise torch.OutOfMemoryError(f"tried to allocate {len(states)} GiB")
        super().denoise_step(states)


def test_a_step_that_runs_out_of_memory_is_halved(
    make_engine: MakeEngine, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    engine, runner = make_engine(SmallMemoryRunner, max_step_tokens=5 * IMAGE_TOKENS)
    requests = [ask(seed) for seed in range(5)]
    handles = [engine.submit(request) for request in requests]
    run(engine)
    ample, _ = make_engine()
    references = [ample.submit(request) for request in requests]
    run(ample)
    for one, other in zip(handles, references, strict=True):
        difference = one.result(0).pixels_HWC.astype(int) - other.result(0).pixels_HWC
        assert np.abs(difference).max() <= 2
    # 5 = 2 + 3, 3 = 1 + 2; from then on no step is tried with more than two.
    assert runner.steps[:3] == [[0, 1], [2], [3, 4]]
    assert {len(step) for step in runner.steps[3:]} <= {1, 2}
    assert caplog.text.count("out of memory at") == 2


def test_an_image_too_large_for_memory_fails_alone(make_engine: MakeEngine, ask: Ask) -> None:
    engine, _ = make_engine(SmallMemoryRunner)
    large, small = engine.submit(ask(1, size="192x64")), engine.submit(ask(2))
    run(engine)
    with pytest.raises(OutOfMemory, match=r"out of memory on one 192x64 image \(tried to allocate 1 GiB\)"):
        large.result(0)
    assert small.result(0).request.seed == 2
    assert engine.death is None


class SmallTextMemoryRunner(RecordingRunner):
    def prepare(self, states: Sequence[ImageState]) -> None:
        if len(states) > 3:
            raise torch.OutOfMemoryError("text")
        super().prepare(states)


def test_encoding_ahead_gives_way_to_memory(make_engine: MakeEngine, ask: Ask) -> None:
    engine, _ = make_engine(SmallTextMemoryRunner, max_step_tokens=IMAGE_TOKENS)
    handles = [engine.submit(ask(seed, prompt=f"owl {seed}")) for seed in range(6)]
    run(engine)
    assert [handle.result(0).request.seed for handle in handles] == list(range(6))
    assert engine.stats().num_failed == 0


def test_pictures_are_not_encoded_ahead(make_engine: MakeEngine, ask: Ask) -> None:
    engine, runner = make_engine(max_step_tokens=IMAGE_TOKENS)
    for seed in (1, 2, 3):
        engine.submit(ask(seed, prompt=f"owl {seed}", reference_images=[plain_picture(seed)]))
    engine.submit(ask(4))
    run(engine)
    assert runner.prepared == [[1, 4], [2], [3]]


def plain_picture(value: int) -> Picture:
    return Picture(pixels=np.full((64, 64, 3), value, np.uint8))


class NoWhiteVae(Wrapped):
    """Runs out of memory on white pictures."""

    def encode(self, image: torch.Tensor) -> Any:
        if (image == 1.0).all():
            raise torch.OutOfMemoryError("encoder")
        return self.model.encode(image)


def test_a_picture_that_memory_cannot_encode_fails_alone(
    make_engine: MakeEngine, ask: Ask, components: Components
) -> None:
    engine, _ = make_engine(models=replace(components, vae=NoWhiteVae(components.vae)))
    requests = [ask(n, reference_images=[plain_picture(n)], strength=1.0) for n in (253, 254, 255)]
    handles = [engine.submit(request) for request in (*requests, ask(1))]
    run(engine)
    with pytest.raises(OutOfMemory, match=r"out of memory on one 64x64 image \(encoder\)"):
        handles[2].result(0)
    assert [handles[n].result(0).request.seed for n in (0, 1, 3)] == [253, 254, 1]
    assert (engine.stats().num_failed, engine.death) == (1, None)


class SmallDecoderRunner(RecordingRunner):
    def decode(self, states: Sequence[ImageState]) -> Any:
        if len(states) > 1 or states[0].request.seed == 2:
            raise torch.OutOfMemoryError("decoder")
        return super().decode(states)


def test_a_decoder_out_of_memory_goes_one_by_one(make_engine: MakeEngine, ask: Ask) -> None:
    engine, runner = make_engine(SmallDecoderRunner)
    handles = [engine.submit(ask(seed)) for seed in (1, 2, 3)]
    run(engine)
    assert runner.decoded == [[1], [3]]
    with pytest.raises(OutOfMemory, match=r"out of memory decoding one 64x64 image \(decoder\)"):
        handles[1].result(0)
    assert [handles[n].result(0).request.seed for n in (0, 2)] == [1, 3]
    assert not isinstance(handles[1].future.exception(), BlankImage)
    assert isinstance(handles[1].future.exception(), GenerationFailed)
