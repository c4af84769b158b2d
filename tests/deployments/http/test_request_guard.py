from collections.abc import AsyncIterator

import pytest

from deployments.http.request_guard import MAX_JSON_BYTES
from tests.deployments.event_loop import in_event_loop
from tests.deployments.guarded_app import post


@in_event_loop
async def test_bug_is_an_answer_that_clients_do_not_repeat(caplog: pytest.LogCaptureFixture) -> None:
    response = await post("/fail")
    assert response.status_code == 500
    assert response.headers["x-should-retry"] == "false"
    error = {"message": "internal error", "type": "server_error", "param": None, "code": "internal_error"}
    assert response.json() == {"error": error}
    assert "ZeroDivisionError: a secret of ours" in caplog.text


@in_event_loop
async def test_bug_after_the_start_of_an_answer_breaks_it_off() -> None:
    with pytest.raises(ZeroDivisionError):
        await post("/fail-midway")


@pytest.mark.parametrize(
    ("media_type", "num_bytes", "status"),
    [
        ("application/json", MAX_JSON_BYTES, 200),
        ("application/json", MAX_JSON_BYTES + 1, 413),
        ("", MAX_JSON_BYTES + 1, 413),
        ("Multipart/form-data; boundary=b", 2 * MAX_JSON_BYTES, 200),
        ("multipart/form-data; boundary=b", 2 * MAX_JSON_BYTES + 1, 413),
    ],
)
@pytest.mark.parametrize("has_length", [True, False])
@in_event_loop
async def test_body_has_a_limit_by_its_kind(
    media_type: str, num_bytes: int, status: int, has_length: bool
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, num_bytes, 100_000):
            yield bytes(min(100_000, num_bytes - start))

    content = bytes(num_bytes) if has_length else pieces()
    response = await post("/read", content=content, headers={"Content-Type": media_type})
    assert response.status_code == status
