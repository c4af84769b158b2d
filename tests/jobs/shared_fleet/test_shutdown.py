"""The end of this endpoint as on a cluster: `zimage cluster drain`, after which someone stops it."""

import openai
import pytest

from tests.jobs.conftest import Zimage
from tests.jobs.shared_fleet.conftest import APP

DRAIN = ("cluster", "drain", "--serve-app", APP)


def test_what_is_not_there_cannot_be_drained(zimage: Zimage, online: openai.OpenAI) -> None:
    done = zimage("cluster", "drain", "--serve-app", "nope")
    assert done.code == 2
    assert "serve_app: no Serve application 'nope' is running here" in done.err


def test_a_drained_endpoint_has_answered_what_it_accepted(zimage: Zimage, online: openai.OpenAI) -> None:
    events = online.images.generate(
        prompt="owl",
        size="256x256",  # type: ignore[call-overload]
        stream=True,
        partial_images=3,
        extra_body={"num_inference_steps": 50},
    )
    assert next(events).type == "image_generation.partial_image"
    done = zimage(*DRAIN, "--drain-timeout", "0.01")
    assert (done.code, done.err) == (4, "0.01 s are over; requests still open: 1\n")
    with pytest.raises(openai.InternalServerError) as refused:
        online.images.generate(prompt="owl")
    assert (refused.value.status_code, refused.value.code) == (503, "shutting_down")
    assert zimage(*DRAIN).code == 0
    assert list(events)[-1].type == "image_generation.completed"
    assert zimage(*DRAIN, "--undo").code == 0
    assert online.images.generate(prompt="owl").data
