"""Requests that nobody should send: each is refused, clearly, and touches nothing."""

import contextlib
import io
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from PIL import Image

from tests.conditions import eventually
from tests.deployments.cluster import Cluster
from tests.deployments.conftest import Endpoint
from tests.deployments.locked_endpoint.attacks import (
    ATTACKS,
    FILLER,
    GENERATIONS,
    KEY,
    LOOPBACK_URLS,
    PROMPT,
    Attack,
)
from tests.deployments.locked_endpoint.conftest import (
    BUSY_KEY,
    FAKE,
    KEYS,
    SLOW_FORM_KEY,
    SLOW_KEY,
    SMALL,
    write_keys,
)

SERVER_PATHS = (str(Path(__file__).parents[3]), "site-packages", "/tmp/", " object at 0x")


@contextlib.contextmanager
def trap(port: int = 0) -> Iterator[socket.socket]:
    """Listen where nothing may connect, on all addresses of this machine."""
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        listener.setblocking(False)
        yield listener


def has_caught(listener: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        connection, _ = listener.accept()
        connection.close()
        return True
    return False


def send(client: httpx.Client, attack: Attack, port: int) -> httpx.Response:
    options = dict(attack.options)
    if "files" in options:
        options["files"] = [
            (name, (None, part[1].replace("{port}", str(port))) if part[0] is None else part)
            for name, part in (
                options["files"].items() if isinstance(options["files"], dict) else options["files"]
            )
        ]
    headers = attack.headers | ({"Authorization": attack.authorization} if attack.authorization else {})
    return client.request(attack.method, attack.path, headers=headers, **options)


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """What came of all attacks, sent one after the other."""

    answers: list[httpx.Response]
    before: list[dict[str, Any]]
    """The engines' stats."""
    after: list[dict[str, Any]]
    trapped: list[int]
    """The ports of this machine that something connected to."""


@pytest.fixture(scope="module")
def attacked(endpoint: Endpoint) -> Attacked:
    """Send every attack, those by address with the port of a trap: nothing may connect there."""
    with contextlib.ExitStack() as stack:
        traps = [stack.enter_context(trap())]
        # Of the ports that may be fetched from, where this machine lets us listen.
        with contextlib.suppress(OSError):
            traps.append(stack.enter_context(trap(80)))
        driver = stack.enter_context(Cluster(endpoint).driver())
        client = stack.enter_context(endpoint.http())
        before = [driver.stats(model_id) for model_id in (FAKE, SMALL)]
        answers = []
        for attack in ATTACKS:
            answers.append(send(client, attack, port=traps[0].getsockname()[1]))
            if attack.name in LOOPBACK_URLS:
                send(client, attack, port=80)
        after = [driver.stats(model_id) for model_id in (FAKE, SMALL)]
        trapped = [listener.getsockname()[1] for listener in traps if has_caught(listener)]
    return Attacked(answers=answers, before=before, after=after, trapped=trapped)


@pytest.mark.parametrize("number", range(len(ATTACKS)), ids=lambda number: ATTACKS[number].name)
def test_attack_is_refused(attacked: Attacked, number: int) -> None:
    attack, response = ATTACKS[number], attacked.answers[number]
    assert response.status_code == attack.status, response.text
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"].startswith(f"{attack.field}: " if attack.field else ("Not Found", "Method Not"))
    assert error["type"]
    assert error["code"]
    assert error["param"] in (attack.field, None)
    told = response.text + str(response.headers)
    assert FILLER * 65 not in told
    assert PROMPT not in told
    assert KEY not in told
    assert not [path for path in SERVER_PATHS if path in told]


def test_attacks_touch_nothing(attacked: Attacked, endpoint: Endpoint, folder: Path) -> None:
    assert len(attacked.answers) == len(ATTACKS) >= 40
    (replica,) = Cluster(endpoint).replicas("Ingress")
    assert Path(replica.cwd()) == folder
    assert attacked.trapped == []
    for name in ("num_images", "num_failed"):
        assert [stats[name] for stats in attacked.after] == [stats[name] for stats in attacked.before]
    assert list(folder.parents[1].rglob("*")) == [folder.parent, folder]


def test_a_trap_sees_who_connects() -> None:
    with trap() as listener:
        assert not has_caught(listener)
        with socket.create_connection(listener.getsockname()[:2]):
            assert has_caught(listener)


def test_logs_name_no_prompt_and_no_key(endpoint: Endpoint) -> None:
    prompts = PROMPT, "a hare that no log may show"
    client = endpoint.client(api_key=KEY)
    response = client.images.with_raw_response.generate(
        model=SMALL, prompt=prompts[1], extra_body={"seed": 1}
    )
    with pytest.raises(openai.BadRequestError):
        client.images.generate(model=SMALL, prompt=prompts[0], size="1x1")
    with pytest.raises(openai.AuthenticationError):
        endpoint.client(api_key="sk-somebody-elses").images.generate(prompt=prompts[0])
    cluster = Cluster(endpoint)
    request_id = response.headers["x-request-id"]
    eventually(lambda: request_id in cluster.log(), "the request is logged")
    log = cluster.log() + endpoint.log.read_text()
    assert '"caller": "any"' in log
    for secret in (*prompts, KEY, SLOW_KEY, SLOW_FORM_KEY, BUSY_KEY, "sk-somebody-elses"):
        assert secret not in log


@pytest.mark.parametrize(
    "lines",
    [
        "Content-Length: -1",
        "Content-Length: 1e3",
        "Content-Length: 5\r\nContent-Length: 6",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked\r\n\r\nnot a size",
        "No colon",
        f"X-Long: {FILLER * 200_000}",
    ],
    ids=lambda lines: lines[:40],
)
def test_malformed_http_is_refused(endpoint: Endpoint, lines: str) -> None:
    url = httpx.URL(endpoint.url)
    head = (
        f"POST {GENERATIONS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n{lines}\r\n\r\n"
    )
    with socket.create_connection((url.host, url.port or 80), timeout=30) as connection:
        # The server may answer, and hang up, before it has read everything.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(head.encode())
        answer = connection.recv(65_536)
    assert re.match(rb"HTTP/1.1 4\d\d ", answer), answer


def test_keys_are_read_again_when_their_file_changes(endpoint: Endpoint, keys_file: Path) -> None:
    def status(key: str) -> int:
        with endpoint.http() as http:
            return http.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code

    assert status("sk-new") == 401
    write_keys(keys_file, [*KEYS, {"name": "new", "key": "sk-new"}])
    eventually(lambda: status("sk-new") == 200, "the new key is let in")
    write_keys(keys_file, KEYS)
    eventually(lambda: status("sk-new") == 401, "the removed key is refused")
    # A broken file changes nothing.
    keys_file.write_text("- {name: any, key: [")
    assert status(KEY) == 200
    write_keys(keys_file, KEYS)


def test_pictures_of_a_request_share_a_limit_of_pixels(endpoint: Endpoint) -> None:
    file = io.BytesIO()
    Image.new("L", (3600, 3600)).save(file, "png")
    with pytest.raises(openai.BadRequestError, match="image: more than 25000000 pixels in all"):
        endpoint.client(api_key=KEY).images.edit(prompt=PROMPT, image=[file.getvalue()] * 2)


def test_limit_a_minute_is_met_before_a_form_is_read(endpoint: Endpoint) -> None:
    client = endpoint.client(api_key=SLOW_FORM_KEY)
    client.images.generate(model=SMALL, prompt=PROMPT)
    with pytest.raises(openai.RateLimitError, match="requests_per_minute 1") as raised:
        client.images.edit(model=SMALL, prompt=PROMPT, image=b"no picture")
    assert 1 <= int(raised.value.response.headers["retry-after"]) <= 60


def test_limit_at_the_same_time(endpoint: Endpoint) -> None:
    client = endpoint.client(api_key=BUSY_KEY)
    long: dict[str, Any] = {"model": SMALL, "prompt": PROMPT, "size": "256x256", "partial_images": 3}
    with client.images.generate(stream=True, **long, extra_body={"num_inference_steps": 50}) as stream:
        next(stream)
        with pytest.raises(openai.RateLimitError, match="max_concurrent 1") as raised:
            client.images.generate(model=FAKE, prompt=PROMPT)
        assert int(raised.value.response.headers["retry-after"]) >= 1
        endpoint.client(api_key=KEY).images.generate(model=FAKE, prompt=PROMPT)  # others are not held up

    def admitted() -> bool:
        with contextlib.suppress(openai.RateLimitError):
            client.images.generate(model=FAKE, prompt=PROMPT)
            return True
        return False

    eventually(admitted, "the one that left no longer counts")


def test_other_sites_are_not_let_in(endpoint: Endpoint) -> None:
    with endpoint.http() as http:
        answer = http.get("/v1/models", headers={"Authorization": f"Bearer {KEY}", "Origin": "http://evil"})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_page_loads_and_is_shown_nowhere_else(endpoint: Endpoint) -> None:
    with endpoint.http() as http:
        page = http.get("/")
    policy = dict(part.split(maxsplit=1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", page.text)
