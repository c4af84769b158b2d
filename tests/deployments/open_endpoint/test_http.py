"""HTTP as clients speak it: HTTP/2 offered, HEAD, OPTIONS, compressed bodies, other origins, a path."""

import gzip
import http.client
import json
import shutil
import subprocess
from typing import Any

import httpx2 as httpx
import pytest
from playwright.sync_api import Browser

from tests.deployments.cluster import Cluster
from tests.deployments.conftest import Endpoint
from tests.deployments.open_endpoint.conftest import ORIGIN, ROOT_PATH
from tests.deployments.playground_page import done, generate

GENERATIONS = "/v1/images/generations"
BODY = json.dumps({"prompt": "a red apple", "seed": 1}).encode()
JSON = {"Content-Type": "application/json"}
# What Java's HttpClient sends with every request until it has had an answer.
OFFER = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAAAAIAAAAB"}
# What OpenAI's client for JavaScript sends.
SDK_HEADERS = "authorization,content-type,openai-organization,x-stainless-arch,x-stainless-retry-count"


def in_pieces(body: bytes) -> Any:
    return iter([body[:10], body[10:]])


@pytest.mark.parametrize("body", [BODY, in_pieces(BODY)], ids=["whole", "in pieces"])
@pytest.mark.parametrize("offer", [OFFER, {**OFFER, "Upgrade": "TLS/1.3, HTTP/1.1"}], ids=["h2c", "TLS"])
def test_offer_of_another_protocol_is_ignored(endpoint: Endpoint, offer: dict[str, str], body: Any) -> None:
    url = httpx.URL(endpoint.url)
    body = in_pieces(BODY) if not isinstance(body, bytes) else body
    connection = http.client.HTTPConnection(url.host, url.port, timeout=60)
    for sent in (body, BODY):  # the connection goes on
        connection.request("POST", GENERATIONS, sent, {**JSON, **offer})
        answer = connection.getresponse()
        assert (answer.status, answer.version) == (200, 11)
        assert json.loads(answer.read())["data"][0]["seed"] == 1
    connection.close()


def test_curl_that_would_like_http_2(endpoint: Endpoint) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("needs curl, which is not installed")
    command = [curl, "-sS", "--http2", endpoint.url + GENERATIONS, "-d", BODY.decode()]
    command += ["-H", "Content-Type: application/json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["data"][0]["seed"] == 1


@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/models", "/openapi.json", "/", "/metrics"])
def test_head_has_the_headers_of_get(endpoint: Endpoint, path: str) -> None:
    with endpoint.http() as client:
        got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", *(["content-length"] if path != "/metrics" else [])):
        assert head.headers[name] == got.headers[name]


@pytest.mark.parametrize(
    ("path", "methods"), [("/health", {"GET", "HEAD", "OPTIONS"}), (GENERATIONS, {"POST", "OPTIONS"})]
)
def test_other_methods_are_told_which_there_are(endpoint: Endpoint, path: str, methods: set[str]) -> None:
    with endpoint.http() as client:
        for method in ("OPTIONS", "DELETE", *({"HEAD"} - methods)):
            answer = client.request(method, path)
            assert answer.status_code == (204 if method == "OPTIONS" else 405)
            assert set(answer.headers["allow"].split(", ")) == methods
    assert answer.status_code == 405


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "GET", "POST"])
def test_unknown_route_is_not_found(endpoint: Endpoint, method: str) -> None:
    with endpoint.http() as client:
        answer = client.request(method, "/v1/image/generations")
    assert answer.status_code == 404
    if method != "HEAD":
        assert answer.json()["error"] == {
            "message": "Not Found",
            "type": "not_found_error",
            "param": None,
            "code": "not_found",
        }


def test_compressed_request_is_as_good_as_any(endpoint: Endpoint) -> None:
    form = httpx.Request("POST", "http://x", data={"prompt": "x"}, files={"image": b"no picture"})
    with endpoint.http() as client:
        compressed = {"Content-Encoding": "gzip"}
        made = client.post(GENERATIONS, content=gzip.compress(BODY), headers=JSON | compressed)
        headers = {"Content-Type": form.headers["content-type"], **compressed}
        edited = client.post("/v1/images/edits", content=gzip.compress(form.read()), headers=headers)
    assert made.json()["data"][0]["seed"] == 1
    assert edited.json()["error"]["message"] == "image: not a readable PNG, JPEG or WebP image"


@pytest.mark.parametrize("origin", [ORIGIN, "null"])
def test_page_of_an_admitted_origin_may_ask(endpoint: Endpoint, origin: str) -> None:
    preflight = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": SDK_HEADERS,
        "Access-Control-Request-Private-Network": "true",
    }
    with endpoint.http() as client:
        allowed = client.options(GENERATIONS, headers=preflight)
        refused = client.options(GENERATIONS, headers=preflight | {"Origin": "https://evil.example"})
        failed = client.post(GENERATIONS, content=bytes(2**20 + 1), headers={"Origin": origin})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-headers"] == SDK_HEADERS
    assert "POST" in allowed.headers["access-control-allow-methods"]
    assert allowed.headers["access-control-allow-private-network"] == "true"
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers
    # Errors of any layer can be read by the page, with all their headers.
    assert failed.status_code == 413
    for answer in (allowed, failed):
        assert answer.headers["access-control-allow-origin"] == origin
        assert "access-control-allow-credentials" not in answer.headers
    assert failed.headers["access-control-expose-headers"] == "*"


@pytest.mark.parametrize("prefix", ["", ROOT_PATH])
def test_endpoint_behind_a_path(endpoint: Endpoint, prefix: str) -> None:
    with endpoint.http(base_url=endpoint.url + prefix) as client:
        assert client.get("/v1/models").json()["object"] == "list"
        assert client.get("/").headers["content-type"].startswith("text/html")
        made = client.post(GENERATIONS, content=BODY, headers=JSON)
        assert made.json()["data"][0]["seed"] == 1
        assert client.get("/openapi.json").json()["servers"] == [{"url": ROOT_PATH}]
        assert client.get(f"{ROOT_PATH}x/health").status_code == 404


def test_page_works_behind_a_path(browser: Browser, endpoint: Endpoint) -> None:
    page = browser.new_page()
    page.goto(endpoint.url + ROOT_PATH)
    done(generate(page, "lemon"))
    assert page.url == f"{endpoint.url}{ROOT_PATH}/"
    page.close()


def test_deadline_before_the_start(endpoint: Endpoint) -> None:
    with endpoint.http() as client:
        answer = client.post(GENERATIONS, content=BODY, headers={**JSON, "X-Request-Timeout": "0.000001"})
    assert answer.status_code in (503, 504)
    message = "the request's deadline of 0.001 ms had passed before it started"
    assert answer.json()["error"]["message"].startswith(message)


def test_endpoint_listens_where_it_should_and_nowhere_else(endpoint: Endpoint) -> None:
    listeners = Cluster(endpoint).listeners()
    assert len(listeners) > 10
    reachable = [title for title, address in listeners if address not in ("127.0.0.1", "::ffff:127.0.0.1")]
    # Replicas listen for each other; they ask for Ray's token.
    assert [title for title in reachable if not title.startswith("ray::ServeReplica:")] == []
