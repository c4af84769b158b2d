"""Requests that nobody should send, each with the refusal that it must get."""

import base64
import gzip
import io
import json
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

KEY = "sk-0123456789abcdef"
PROMPT = "a heron that no log may show"
# Long inputs are made of it: an answer that holds a row of them repeats what it should not.
FILLER = "A"

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"

LOOPBACK_URLS = (
    "http://127.0.0.1:{port}/",
    "http://localhost:{port}/x.png",
    "http://LOCALHOST.:{port}/x.png",
    "http://127.1:{port}/",
    "http://0:{port}/",
    "http://0.0.0.0:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://[::1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[64:ff9b::7f00:1]:{port}/",
    "http://①②⑦.⓪.⓪.①:{port}/",
    "http://example.com@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}#@example.com/",
    "http://127.0.0.1:{port}\\@example.com/",
    "//127.0.0.1:{port}/",
    " http://127.0.0.1:{port}/",
    "http://169.254.169.254/latest/meta-data/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "file:///etc/passwd",
    "ftp://127.0.0.1:{port}/x.png",
    "gopher://127.0.0.1:{port}/_x",
    "unix:///var/run/docker.sock",
)
"""Addresses on this machine and near it; the port is that of a trap."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A request, and what the answer must say."""

    name: str
    status: int = 400
    field: str
    """What the message begins with; empty where nothing of the request is wrong but its address."""
    method: str = "POST"
    path: str = GENERATIONS
    authorization: str | bytes | None = f"Bearer {KEY}"
    headers: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def _png(width: int = 64, height: int = 64) -> bytes:
    return _file("png", Image.new("L", (width, height), "white"))


def _file(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    (image or Image.new("RGB", (64, 64), "red")).save(file, kind, **options)
    return file.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_of(width: int, height: int, *chunks: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + _chunk(b"IEND", b"")


def png_of_bytes(num_bytes: int) -> bytes:
    """Return a picture with so many bytes that nobody reads."""
    return _png_of(64, 64, _PIXELS, _chunk(b"prVt", bytes(num_bytes)))


def _scan_bomb() -> bytes:
    jpeg = _file("jpeg", progressive=True)
    scan = jpeg.rindex(b"\xff\xda")
    return jpeg[:scan] + jpeg[scan:-2] * 500 + jpeg[-2:]


def _data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _generation(name: str, named: str, body: Any, *, status: int = 400, **attack: Any) -> Attack:
    """Send JSON, or bytes as if they were."""
    options = {"content": body if isinstance(body, bytes | list) else json.dumps(body)}
    attack["headers"] = {"Content-Type": "application/json"} | attack.get("headers", {})
    return Attack(name=name, field=named, status=status, options=options, **attack)


def _compressed(name: str, named: str, body: Any, *, coding: str = "gzip", status: int = 400) -> Attack:
    return _generation(name, named, body, status=status, headers={"Content-Encoding": coding})


def _field(name: str, value: Any, *, status: int = 400) -> Attack:
    body = {"prompt": PROMPT, name: value}
    return _generation(f"{name[:30]}={str(value)[:30]!r}", name[:64], body, status=status)


def _header(name: str, value: str) -> Attack:
    return _generation(f"{name}: {value[:30]}", name, {"prompt": PROMPT}, headers={name: value})


def _edit(name: str, named: str, *parts: tuple[str, Any], status: int = 400) -> Attack:
    files = [("prompt", (None, PROMPT)), *parts]
    return Attack(name=name, field=named, status=status, path=EDITS, options={"files": files})


def _image(name: str, data: Any, file_name: str = "x.png") -> Attack:
    return _edit(name, "image", ("image", (file_name, data) if isinstance(data, bytes) else (None, data)))


def _form(name: str, named: str, content: Any, media_type: str, *, status: int = 400) -> Attack:
    headers = {"Content-Type": media_type}
    return Attack(
        name=name, field=named, status=status, path=EDITS, headers=headers, options={"content": content}
    )


def _json_edit(name: str, image_url: str) -> Attack:
    body = json.dumps({"prompt": PROMPT, "images": [{"image_url": image_url}]})
    return _form(name, "image", body.encode(), "application/json")


def _locked(name: str, authorization: str | bytes | None, **attack: Any) -> Attack:
    options = {"json": {"prompt": PROMPT}}
    return Attack(
        **{"name": name, "field": "Authorization", "status": 401, "options": options, **attack},
        authorization=authorization,
    )


def _lost(name: str, method: str, path: str, *, status: int = 404, named: str = "") -> Attack:
    return Attack(name=name, method=method, path=path, status=status, field=named)


_HUGE = FILLER.encode() * 3_000_000
_PIECES = [b'{"prompt":"', *[_HUGE[:100_000]] * 30, b'"}']
_PART = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
_TEXT = _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(10**7)))
_PIXELS = _chunk(b"IDAT", zlib.compress(bytes(64 * (64 * 3 + 1))))

ATTACKS = (
    # Keys.
    _locked("no key", None),
    _locked("no key, edit", None, path=EDITS),
    _locked("no key, models", None, method="GET", path="/v1/models", options={}),
    _locked("no key, broken picture", None, path=EDITS, options={"files": {"image": b"x"}}),
    _locked("empty key", "Bearer"),
    _locked("wrong key", "Bearer sk-wrong"),
    _locked("key and more", f"Bearer {KEY}x"),
    _locked("part of a key", f"Bearer {KEY[:-1]}"),
    _locked("key in capitals", f"Bearer {KEY.upper()}"),
    _locked("another scheme", f"Basic {base64.b64encode(f'any:{KEY}'.encode()).decode()}"),
    _locked("no scheme", KEY),
    _locked("key that is no text", b"Bearer \xff\xfe\x80"),
    _locked("long key", f"Bearer {FILLER * 20_000}"),
    _locked("key in the address", None, path=f"{GENERATIONS}?api_key={KEY}"),
    # Bodies.
    _generation("body too large", "body", _HUGE, status=413),
    _generation("body too large, in pieces", "body", _PIECES, status=413),
    _generation("no body", "body", b""),
    _generation("no JSON", "body", b"prompt=x"),
    _generation("half JSON", "body", b'{"prompt": "x"'),
    _generation("JSON list", "body", b"[1]"),
    _generation("JSON text", "body", "x"),
    _generation("deep JSON", "body", b"[" * 500_000),
    _generation("deep value", "n", b'{"prompt":"x","n":' + b"[" * 400 + b"]" * 400 + b"}"),
    _generation("invalid UTF-8", "body", b'{"prompt": "\xff\xfe"}'),
    _generation("lone surrogate", "prompt", b'{"prompt": "\\ud800"}'),
    _generation("surrogate for a name", "body", b'{"prompt": "x", "\\ud800": 1}'),
    _generation("number of 6000 digits", "body", b'{"prompt":"x","seed":' + b"9" * 6000 + b"}"),
    _compressed("no gzip", "body", b"{}"),
    _compressed("half gzip", "body", gzip.compress(_HUGE[:100_000])[:-20]),
    _compressed("gzip and more", "body", gzip.compress(b"{}") + b"{}"),
    _compressed("gzip bomb", "body", gzip.compress(bytes(10**8)), status=413),
    _compressed("gzip bomb, in pieces", "body", [gzip.compress(bytes(10**8))], status=413),
    _compressed("compressed twice", "Content-Encoding", b"{}", coding="gzip, gzip", status=415),
    _compressed("another compression", "Content-Encoding", b"{}", coding="br", status=415),
    _generation(
        "another media type", "Content-Type", b"<x/>", status=415, headers={"Content-Type": "text/xml"}
    ),
    # Fields.
    _generation("no prompt", "prompt", {}),
    _field("prompt", ""),
    _field("prompt", None),
    _field("prompt", [PROMPT]),
    _field("prompt", FILLER * 40_000),
    _field("prompt", FILLER * 17_000),
    _field("prompt", "a\0b"),
    _field("n", 0),
    _field("n", 11),
    _field("n", -1),
    _field("n", 10**30),
    _field("n", "1"),
    _field("n", True),
    _field("n", 1.5),
    _field("seed", -2),
    _field("num_images", 11),
    _field("width", -64),
    _field("metadata", [PROMPT]),
    _generation("metadata of no text", "metadata.a", b'{"prompt":"x","metadata":{"a":"\\ud800"}}'),
    _generation(
        "deep metadata", "metadata.a", b'{"prompt":"x","metadata":' + b'{"a":' * 300 + b"1" + b"}" * 301
    ),
    _field("seed", 2**63),
    _field("seed", int("9" * 4000)),
    _field("guidance_scale", float("nan")),
    _field("guidance_scale", float("inf")),
    _generation("1e999", "guidance_scale", b'{"prompt": "x", "guidance_scale": 1e999}'),
    _field("num_inference_steps", 10**9),
    _field("size", "99999x99999"),
    _field("size", "0x0"),
    _field("size", "64x-64"),
    _field("size", "../../etc/passwd"),
    _field("size", FILLER * 5000),
    _field("output_format", "../png"),
    _field("output_format", "svg"),
    _field("response_format", "file"),
    _field("priority", "root"),
    _field("user", FILLER * 5000),
    _field("model", "../../etc/passwd", status=404),
    _field("model", "s3://bucket/model", status=404),
    _field("model", FILLER * 5000),
    _field("lora", "http://127.0.0.1/x"),
    _field("image", "http://127.0.0.1/x.png"),
    _field("__class__", "x"),
    _field(FILLER * 5000, 1),
    # Headers.
    _header("x-request-timeout", "-1"),
    _header("x-request-timeout", "nan"),
    _header("x-request-timeout", FILLER * 5000),
    _header("idempotency-key", ""),
    _header("idempotency-key", FILLER * 5000),
    # Addresses.
    _lost("unknown route", "GET", "/v1/engines"),
    _lost("documentation", "GET", "/docs"),
    _lost("another method", "GET", GENERATIONS, status=405),
    _lost("another method, edit", "PUT", EDITS, status=405),
    _lost("options of an unknown route", "OPTIONS", "/v1/engines"),
    _lost("trailing slash", "GET", "/v1/models/", named="model"),
    _lost("traversal", "GET", "/v1/models/..%2f..%2f..%2fetc%2fpasswd", named="model"),
    _lost("traversal from the page", "GET", "/%2e%2e/%2e%2e/etc/passwd"),
    _lost("model ..", "GET", "/v1/models/%2e%2e", named="model"),
    _lost("model of control characters", "GET", "/v1/models/a%0d%0aX:%20y%00%ff"),
    _lost("long model", "GET", f"/v1/models/{FILLER * 5000}", status=400, named="model_id"),
    # Forms.
    _form("form too large", "body", _PART + _HUGE, "multipart/form-data; boundary=b", status=413),
    _form(
        "form too large, in pieces", "body", [_PART, *_PIECES], "multipart/form-data; boundary=b", status=413
    ),
    _form("no form", "Content-Type", b"<x/>", "text/xml", status=415),
    _form("plain form of many fields", "body", b"n=1&" * 400_000, "application/x-www-form-urlencoded"),
    _form(
        "plain form of escapes",
        "body",
        b"prompt=" + b"%41" * 210_000,
        "application/x-www-form-urlencoded",
        status=413,
    ),
    _form("plain form of no picture", "image", b"prompt=x&image=y", "application/x-www-form-urlencoded"),
    _form("no form but JSON", "prompt", b"{}", "application/json"),
    _form("JSON too large", "body", b'{"prompt": "' + _HUGE + b'"}', "application/json", status=413),
    _form("JSON list for an edit", "body", b"[1]", "application/json"),
    _form("deep JSON for an edit", "body", b"[" * 90_000, "application/json"),
    _form("JSON of many values", "body", b"[" + b"{}," * 300_000 + b"{}]", "application/json"),
    _form("broken JSON for an edit", "body", b'{"prompt": "\xff', "application/json"),
    *(
        _json_edit(f"JSON: {url}", url)
        for url in (LOOPBACK_URLS[0], LOOPBACK_URLS[19], "data:image/png;base64,AAA", "x", FILLER * 70_000)
    ),
    _form("no media type", "Content-Type", b"{}", "", status=415),
    _form("no boundary", "body", b"x", "multipart/form-data"),
    _form("rubbish", "body", b"x", "multipart/form-data; boundary=b"),
    _form("odd charset", "Content-Type", _PART, "multipart/form-data; boundary=b; charset=idna", status=415),
    _edit("too many parts", "body", *[(f"f{i}", (None, "x")) for i in range(100)]),
    _edit("too many files", "body", *[("image[]", ("x", b"x"))] * 30),
    _edit("no picture", "image", ("mask", ("x", _png()))),
    _edit("field twice", "n", ("image", ("x", _png())), ("n", (None, "1")), ("n", (None, "2"))),
    _edit("unknown field", "markup", ("image", ("x", _png())), ("markup", (None, "high"))),
    _edit("file for a field", "seed", ("image", ("x", _png())), ("seed", ("../7", b"7"))),
    _edit("NaN", "strength", ("image", ("x", _png())), ("strength", (None, "nan"))),
    _edit("strength 0", "strength", ("image", ("x", _png())), ("strength", (None, "0"))),
    _edit("two pictures", "image", *[("image[]", ("x", _png()))] * 2),
    # Pictures.
    _image("text", b"hello", "/etc/passwd"),
    _image("empty file", b"", "../../../x.png"),
    _image("SVG", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'),
    _image("AVIF", _file("avif")),
    _image("TIFF", _file("tiff")),
    _image("animation", _file("webp", save_all=True, append_images=[Image.new("RGB", (64, 64))])),
    _image("PNG cut off", _png()[:-30]),
    _image("JPEG cut off", _file("jpeg")[:-100]),
    _image("pixels cut off", _png_of(64, 64, _chunk(b"IDAT", zlib.compress(b"")))),
    _image("file too large", png_of_bytes(1_200_000)),
    _image("PNG of 3600 million pixels", _png_of(60_000, 60_000, _PIXELS)),
    _image("PNG of 36 million pixels", _png(6000, 6000)),
    _image("PNG whose text unpacks to 10 MB", _png_of(64, 64, _TEXT, _PIXELS)),
    _image("JPEG of 500 scans", _scan_bomb()),
    _image("a line", _png(1024, 16)),
    _image("a dot", _png(1, 1)),
    _image("data URL of text", _data_url(b"hello", "text/html")),
    _image("data URL of SVG", _data_url(b"<svg/>", "image/svg+xml")),
    _image("data URL that is no base64", "data:image/png;base64,\u00e9!"),
    _image("data URL too large", _data_url(bytes(1_200_000))),
    _edit("mask of another size", "mask", ("image", ("x", _png())), ("mask", ("x", _png(32, 32)))),
    _edit(
        "mask of nothing",
        "mask",
        ("image", ("x", _png())),
        ("mask", ("x", _file("png", Image.new("RGBA", (64, 64), "red")))),
    ),
    _edit("two masks", "mask", ("image", ("x", _png())), *[("mask", ("x", _png()))] * 2),
    _edit("mask by address", "mask", ("image", ("x", _png())), ("mask", (None, "http://127.0.0.1:{port}/"))),
    _edit("two control images", "control_image", *[("control_image", ("x", _png()))] * 2),
    _edit("control image by address", "control_image", ("control_image", (None, "http://127.0.0.1:{port}/"))),
    _edit("control image too large", "control_image", ("control_image", ("x", bytes(1_200_000)))),
    _edit(
        "pictures of 32 million pixels in all",
        "control_image",
        *[(name, ("x", _png(4000, 4000))) for name in ("image", "control_image")],
    ),
    _edit("mask without an image", "mask", *[(name, ("x", _png())) for name in ("mask", "control_image")]),
    *(_image(url, url) for url in LOOPBACK_URLS),
)
