import asyncio

import httpx2 as httpx
from fastapi import FastAPI

from deployments.http.drain_gate import DrainGate, OpenRequests
from tests.deployments.event_loop import in_event_loop


@in_event_loop
async def test_a_gate_that_drains_finishes_what_it_let_in_and_refuses_the_rest() -> None:
    open_requests, finish = OpenRequests(), asyncio.Event()
    app = FastAPI()
    app.add_middleware(DrainGate, open_requests=open_requests)

    @app.post("/make")
    async def make() -> str:
        await finish.wait()
        return "made"

    @app.get("/look")
    async def look() -> str:
        return "seen"

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        accepted = asyncio.create_task(client.post("/make"))
        while not open_requests.drain():
            open_requests.accept()
            await asyncio.sleep(0)
        refused = await client.post("/make")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        assert refused.headers["Connection"] == "close"
        assert refused.json()["error"]["code"] == "shutting_down"
        assert (await client.get("/look")).json() == "seen"
        assert open_requests.drain() == 1
        finish.set()
        assert (await accepted).json() == "made"
        assert open_requests.drain() == 0
