"""The engine's rules: joining and leaving, priorities, cancellation, deadlines, failures. Stepped by hand."""

import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conditions import eventually
from tests.zimage_models.engine.conftest import IMAGE_TOKENS, Ask, MakeEngine, RecordingRunner, run
from tests.zimage_models.engine_parts import cpu_components, tokenizer_of
from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.config import EngineConfig
from zimage_models.engine.build_engine import EngineLike, build_engine, warm_up
from zimage_models.engine.load_engine import load_engine
from zimage_models.engine.request_handle import PreviewEvent, RequestHandle
from zimage_models.errors import (
    BlankImage,
    Cancelled,
    DeadlineExceeded,
    EngineDead,
    EngineOverloaded,
    InvalidRequest,
)
from zimage_models.model_spec import ModelSpec
from zimage_models.models.image_state import ImageState
from zimage_models.requests import ImageRequest, Priority, build_request


def test_requests_join_and_leave_at_every_step(make_engine: MakeEngine, ask: Ask) -> None:
    engine, runner = make_engine()
    first = engine.submit(ask(1, num_inference_steps=4))
    engine.step()
    second = engine.submit(ask(2, num_inference_steps=2))
    engine.step()
    third = engine.submit(ask(3, num_inference_steps=1))
    run(engine)
    assert runner.steps == [[1], [1, 2], [1, 2, 3], [1]]
    assert [handle.result().request.seed for handle in (first, second, third)] == [1, 2, 3]
    assert not engine.step()


def test_a_step_holds_no_more_tokens_than_allowed(make_engine: MakeEngine, ask: Ask) -> None:
    engine, runner = make_engine(max_step_tokens=2 * IMAGE_TOKENS)
    handles = [engine.submit(ask(seed, num_inference_steps=2)) for seed in (1, 2, 3)]
    # Guidance doubles the tokens of an image.
    handles.append(engine.submit(ask(4, guidance_scale=2.0, num_inference_steps=1)))
    handles.append(engine.submit(ask(5, guidance_scale=2.0, num_inference_steps=1)))
    run(engine)
    # The two kinds take turns, whose order depends on what steps cost here.
    assert [step for step in runner.steps if step[0] < 4] == [[1, 2], [1, 2], [3], [3]]
    assert [step for step in runner.steps if step[0] >= 4] == [[4], [5]]
    assert all(handle.future.done() for handle in handles)


def test_results_say_what_was_done(make_engine: MakeEngine, ask: Ask) -> None:
    engine, _ = make_engine(max_step_tokens=IMAGE_TOKENS)
    requests = [ask(seed, num_inference_steps=2) for seed in (1, 2)]
    handles = [engine.submit(request) for request in requests]
    run(engine)
    results = [handle.result(0) for handle in handles]
    for request, result in zip(requests, results, strict=True):
        assert result.request == request
        assert (result.pixels_HWC.shape, result.pixels_HWC.dtype) == ((64, 64, 3), np.uint8)
        assert not result.prompt_truncated
        timings = result.timings
        parts = timings.queue_s + timings.denoise_s + timings.decode_s
        assert timings.total_s == pytest.approx(parts, abs=1e-6)
    # The second one waited for all of the first, though its prompt was encoded with the first one's.
    first, second = (result.timings for result in results)
    assert second.queue_s >= first.denoise_s


def test_an_image_is_the_same_alone_and_in_a_batch(make_engine: MakeEngine, ask: Ask) -> None:
    request = ask(7, prompt="一只猫", guidance_scale=3.0, negative_prompt="dog")
    alone, _ = make_engine()
    single = alone.submit(request)
    run(alone)
    crowded, runner = make_engine(max_step_tokens=100 * IMAGE_TOKENS)
    others = [replace(request, seed=seed, prompt=f"cat {seed}") for seed in range(5)]
    handles = [crowded.submit(r) for r in (*others[:3], request, *others[3:])]
    run(crowded)
    assert runner.steps[0] == [0, 1, 2, 7, 3, 4]
    difference = handles[3].result().pixels_HWC.astype(int) - single.result().pixels_HWC
    assert np.abs(difference).max() <= 2


def test_a_long_prompt_fails_its_own_future(make_engine: MakeEngine, ask: Ask) -> None:
    engine, _ = make_engine()
    bad = [
        engine.submit(ask(1, prompt="a" * 600)),
        engine.submit(ask(2, negative_prompt="a" * 600, guidance_scale=1.0)),
    ]
    cut = engine.submit(ask(3, prompt="a" * 600, truncate_prompt=True))
    run(engine)
    for handle, field in zip(bad, ("prompt", "negative_prompt"), strict=True):
        with pytest.raises(InvalidRequest, match=f"^{field}: 6.. tokens .* the limit is 512"):
            handle.result(0)
    assert cut.result(0).prompt_truncated
    assert cut.result(0).num_prompt_tokens == 512
    assert (engine.stats().num_failed, engine.stats().num_images, engine.stats().num_open) == (2, 1, 0)


def test_previews_come_close_to_the_picture() -> None:
    engine = load_engine(EngineConfig())
    request = build_request(engine.spec, {"prompt": "red apple", "seed": 1}, preview_every=2)
    events: list[PreviewEvent] = []
    handle = engine.submit(request, on_preview=events.append)
    # Without a callback, or without asking, there are none.
    engine.submit(request)
    engine.submit(replace(request, preview_every=0), on_preview=lambda event: pytest.fail("not asked for"))
    run(engine)
    assert [(event.step, event.num_steps) for event in events] == [(2, 8), (4, 8), (6, 8)]
    final = handle.result().pixels_HWC.astype(int)
    errors = [np.abs(event.pixels_HWC - final).mean() for event in events]
    assert all(event.pixels_HWC.dtype == np.uint8 for event in events)
    assert errors[2] < errors[0] < 60
    assert errors[2] < 12


def test_previews_are_small(make_engine: MakeEngine, ask: Ask) -> None:
    engine, _ = make_engine()
    events: list[PreviewEvent] = []
    engine.submit(ask(1, size="512x256", num_inference_steps=2, preview_every=1), on_preview=events.append)
    run(engine)
    [event] = events
    assert event.pixels_HWC.shape == (64, 128, 3)


def test_a_failing_preview_callback_harms_nobody(
    make_engine: MakeEngine, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    engine, _ = make_engine()
    events: list[PreviewEvent] = []

    def fail(event: PreviewEvent) -> None:
        events.append(event)
        raise RuntimeError("the client has gone")

    handle = engine.submit(ask(1, preview_every=1), on_preview=fail)
    run(engine)
    assert handle.result(0).pixels_HWC.any()
    assert len(events) == 1
    assert "the client has gone" in caplog.text


def cancel(handle: RequestHandle) -> None:
    handle.cancel()


def cancel_future(handle: RequestHandle) -> None:
    assert handle.future.cancel()


@pytest.mark.parametrize("how", [cancel, cancel_future])
def test_cancelling_frees_the_slot_at_the_next_step(
    make_engine: MakeEngine, ask: Ask, how: Callable[[RequestHandle], None]
) -> None:
    engine, runner = make_engine(max_step_tokens=2 * IMAGE_TOKENS, max_queued=4)
    handles = [engine.submit(ask(seed)) for seed in (1, 2, 3, 4)]
    engine.step()
    how(handles[0])
    how(handles[3])
    engine.step()
    assert runner.steps == [[1, 2], [2, 3]]
    assert engine.stats().num_open == 2
    engine.submit(ask(5))
    run(engine)
    for handle in (handles[0], handles[3]):
        with pytest.raises((Cancelled, CancelledError)):
            handle.result(0)
        handle.cancel()
    assert (engine.stats().num_cancelled, engine.stats().num_images) == (2, 3)
    assert 4 not in {seed for step in runner.steps for seed in step}


def test_a_cancellation_that_overtakes_its_request_is_not_lost(make_engine: MakeEngine, ask: Ask) -> None:
    engine, runner = make_engine()
    engine.submit(ask(1))
    handles = []

    def submit_and_cancel(_: object) -> None:
        # While a step drops what was cancelled: past the arrivals, which the engine hears of at its next.
        handles.append(engine.submit(ask(2)))
        handles[0].cancel()

    dropped = engine.submit(ask(3))
    dropped.future.add_done_callback(submit_and_cancel)
    dropped.cancel()
    run(engine)
    with pytest.raises(Cancelled):
        handles[0].result(0)
    assert runner.steps == [[1]] * 3


def test_cancelling_the_finished_changes_nothing(make_engine: MakeEngine, ask: Ask) -> None:
    engine, _ = make_engine()
    handle = engine.submit(ask(1))
    run(engine)
    handle.cancel()
    engine.step()
    assert handle.result(0).request.seed == 1
    assert engine.stats().num_cancelled == 0


def test_deadlines_drop_the_waiting_and_the_running(make_engine: MakeEngine, ask: Ask) -> None:
    engine, runner = make_engine()

    def until_it_is_late(_: PreviewEvent) -> None:
        eventually(lambda: time.monotonic() > running.submitted_s + 1.0, "its deadline has passed")

    late = engine.submit(ask(1, deadline_s=1e-9))
    running = engine.submit(ask(2, deadline_s=1.0, preview_every=1), on_preview=until_it_is_late)
    patient = engine.submit(ask(3, deadline_s=1000.0))
    run(engine)
    with pytest.raises(
        DeadlineExceeded, match=r"^the request's deadline of 1e-06 ms had passed before it started$"
    ):
        late.result(0)
    with pytest.raises(
        DeadlineExceeded, match=r"^the request's deadline of 1 s passed before its image was finished$"
    ):
        running.result(0)
    assert patient.result(0).request.seed == 3
    assert runner.steps == [[2, 3], [3], [3]]
    assert engine.stats().num_cancelled == 2


def test_a_full_queue_refuses_and_says_when_to_come_back(make_engine: MakeEngine, ask: Ask) -> None:
    engine, _ = make_engine(max_queued=2)
    for seed in (1, 2):
        engine.submit(ask(seed))
    with pytest.raises(EngineOverloaded, match="2 requests are queued; the limit is 2") as caught:
        engine.submit(ask(3))
    assert caught.value.retry_after_s >= 1.0
    run(engine)
    third = engine.submit(ask(3))
    run(engine)
    assert third.result(0).request.seed == 3


def test_batch_work_leaves_room_for_online_requests(make_engine: MakeEngine, ask: Ask) -> None:
    engine, _ = make_engine(max_queued=2)
    for seed in (1, 2):
        engine.submit(ask(seed))
    with pytest.raises(EngineOverloaded):
        engine.submit(ask(3))
    online = [engine.submit(ask(seed, priority=Priority.ONLINE)) for seed in (4, 5)]
    with pytest.raises(EngineOverloaded):
        engine.submit(ask(6, priority=Priority.ONLINE))
    run(engine)
    assert all(handle.future.done() for handle in online)
    engine.submit(ask(7))


def test_online_requests_overtake_batch_ones(make_engine: MakeEngine, ask: Ask) -> None:
    engine, runner = make_engine(max_step_tokens=2 * IMAGE_TOKENS)
    batch = [engine.submit(ask(seed)) for seed in (1, 2)]
    engine.step()
    online = engine.submit(ask(9, size="128x64", priority=Priority.ONLINE, num_inference_steps=2))
    run(engine)
    assert runner.steps == [[1, 2], [9], [9], [1, 2], [1, 2]]
    assert engine.stats().num_preemptions == 2
    # The preempted kept their latents: the same pictures as without the interruption.
    quiet, _ = make_engine(max_step_tokens=2 * IMAGE_TOKENS)
    undisturbed = [quiet.submit(ask(seed)) for seed in (1, 2)]
    run(quiet)
    for one, other in zip(batch, undisturbed, strict=True):
        assert np.array_equal(one.result(0).pixels_HWC, other.result(0).pixels_HWC)
    assert online.result(0).timings.total_s < batch[0].result(0).timings.total_s


def test_batch_requests_end_under_steady_online_load(make_engine: MakeEngine, ask: Ask) -> None:
    engine, runner = make_engine(max_step_tokens=IMAGE_TOKENS, ageing_s=1e-9)
    batch = engine.submit(ask(1))
    for seed in range(100, 200):
        engine.submit(ask(seed, priority=Priority.ONLINE, num_inference_steps=1))
        engine.step()
        if batch.future.done():
            break
    # It was left out once before each of its three steps.
    assert [step == [1] for step in runner.steps] == [False, True] * 3
    assert batch.result(0).request.seed == 1


def test_one_nan_image_fails_alone(make_engine: MakeEngine, ask: Ask, spec: ModelSpec) -> None:
    engine, _ = make_engine()
    components = cpu_components(spec.directory)
    # A prompt with a Z is NaN from its embedding on.
    with_z, with_y = (set(tokenizer_of(spec).tokenize(text, truncate=False).ids) for text in "ZY")
    [z_id] = with_z - with_y
    components.text_encoder.embed_tokens.weight[z_id] = torch.nan
    broken, _ = make_engine(models=components, max_step_tokens=10 * IMAGE_TOKENS)
    requests = [ask(1), ask(2, prompt="Zebra"), ask(3)]
    handles = [broken.submit(request) for request in requests]
    references = [engine.submit(request) for request in requests]
    run(broken)
    run(engine)
    with pytest.raises(BlankImage, match="NaN or infinity"):
        handles[1].result(0)
    assert references[1].result(0).pixels_HWC.any()
    for number in (0, 2):
        one, other = (h[number].result(0).pixels_HWC.astype(int) for h in (handles, references))
        assert np.abs(one - other).max() <= 2
    after = broken.submit(ask(4))
    run(broken)
    assert after.result(0).request.seed == 4
    assert (broken.stats().num_failed, broken.death) == (1, None)


def test_a_uniform_image_fails(make_engine: MakeEngine, ask: Ask, spec: ModelSpec) -> None:
    components = cpu_components(spec.directory)
    components.vae.decoder.conv_out.weight.zero_()
    engine, _ = make_engine(models=components)
    handle = engine.submit(ask(1))
    run(engine)
    with pytest.raises(BlankImage, match=r"one uniform colour \(every pixel is \d+, \d+, \d+\)"):
        handle.result(0)


class DyingRunner(RecordingRunner):
    def denoise_step(self, states: Sequence[ImageState]) -> None:
        super().denoise_step(states)
        if len(self.steps) == 2:
            raise RuntimeError("device-side assert")


def test_a_dead_engine_fails_all_and_refuses_more(make_engine: MakeEngine, ask: Ask) -> None:
    engine, _ = make_engine(DyingRunner, max_step_tokens=2 * IMAGE_TOKENS)
    handles = [engine.submit(ask(seed)) for seed in range(5)]
    assert engine.death is None
    engine.start()
    for handle in handles:
        with pytest.raises(EngineDead, match="the engine died of RuntimeError: device-side assert"):
            handle.result(30)
    with pytest.raises(EngineDead, match="device-side assert"):
        engine.submit(ask(9))
    assert isinstance(engine.death, EngineDead)
    assert engine.stats().num_open == 0
    engine.close()


def test_closing_fails_the_unfinished(make_engine: MakeEngine, ask: Ask) -> None:
    engine, _ = make_engine()
    done = engine.submit(ask(1))
    run(engine)
    running, waiting = engine.submit(ask(2)), engine.submit(ask(3, size="128x64"))
    engine.step()
    arriving = engine.submit(ask(4))
    engine.close()
    for handle in (running, waiting, arriving):
        with pytest.raises(Cancelled, match="the engine was closed"):
            handle.result(0)
    assert done.result(0).request.seed == 1
    with pytest.raises(EngineDead, match="the engine is closed"):
        engine.submit(ask(5))
    engine.close()


def test_stats_count_what_happened(make_engine: MakeEngine, ask: Ask) -> None:
    engine, _ = make_engine()
    assert (engine.stats().images_per_s, engine.stats().queue_s, engine.stats().step_s) == (0.0, 0.0, 0.0)
    for seed in (1, 2):
        engine.submit(ask(seed, num_inference_steps=2))
    engine.submit(ask(3, num_inference_steps=1))
    run(engine)
    engine.submit(ask(4))
    engine.submit(ask(5, priority=Priority.ONLINE))
    stats = engine.stats()
    assert (stats.num_images, stats.num_steps, stats.num_item_steps) == (3, 2, 5)
    assert (stats.num_open, stats.num_online) == (2, 1)
    assert stats.images_per_s > 0
    assert stats.queue_s > 0
    assert stats.step_s > 0
    assert stats.memory_bytes > 10 * 2**20


def test_a_finished_image_is_kept_by_its_caller_alone(make_engine: MakeEngine, ask: Ask) -> None:
    engine, _ = make_engine()
    handle = engine.submit(ask(1, deadline_s=1000.0))
    run(engine)
    pixels = weakref.ref(handle.result(0).pixels_HWC)
    assert pixels() is not None
    del handle
    # No cycle, so without the garbage collector.
    assert pixels() is None


def test_threads_share_a_running_engine(ask: Ask, tiny_checkpoint: Path) -> None:
    engine = build_engine(EngineConfig(model=str(tiny_checkpoint), variant="base", max_queued=200))
    try:
        warm_up(engine)
        requests = [
            ask(seed, prompt="owl " * (1 + seed % 9), num_inference_steps=1 + seed % 3) for seed in range(24)
        ]

        def make(request: ImageRequest) -> tuple[ImageRequest, int]:
            result = engine.submit(request).result(60)
            return result.request, int(result.pixels_HWC.sum())

        with ThreadPoolExecutor(8) as pool:
            first, second = (list(pool.map(make, order)) for order in (requests, requests[::-1]))
        assert [request for request, _ in first] == requests
        for (_, one), (_, other) in zip(first, second[::-1], strict=True):
            assert one == pytest.approx(other, abs=2 * 64 * 64 * 3)
    finally:
        engine.close()


def test_unusable_devices_are_told() -> None:
    for device in ("cuda:99", "nonsense"):
        with pytest.raises(InvalidRequest, match=f"^device: '{device}' is not usable here"):
            load_engine(EngineConfig(device=device))


def test_both_engines_have_one_face() -> None:
    config = EngineConfig()
    faces: list[EngineLike] = [load_engine(config), build_engine(replace(config, fake=True))]
    for engine in faces:
        assert engine.spec == resolve_model(config)
        assert engine.death is None
        engine.close()
        with pytest.raises(EngineDead, match="the engine is closed"):
            engine.submit(build_request(engine.spec, {"prompt": "a", "seed": 1}))
