"""The page at ``/`` where keys are needed."""

import numpy as np
from playwright.sync_api import Browser, expect

from tests.deployments.conftest import Endpoint
from tests.deployments.locked_endpoint.attacks import KEY
from tests.deployments.open_endpoint.pictures import png
from tests.deployments.playground_page import control, done, generate


def test_key_is_asked_for_and_kept_in_the_tab(browser: Browser, endpoint: Endpoint) -> None:
    page = browser.new_page()
    page.goto(endpoint.url)
    key = page.get_by_label("API key")
    expect(key).to_be_focused()
    key.fill("sk-wrong-0123456789abcdef")
    key.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("this API key is not known")

    key.fill(KEY)
    key.press("Enter")
    expect(key).to_be_hidden()
    done(generate(page, "panda"))
    page.reload()
    done(generate(page, "panda"))

    expect(key).to_be_hidden()
    page.close()


def test_picture_above_the_endpoints_limit_is_not_sent(browser: Browser, endpoint: Endpoint) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (640, 640, 3), np.uint8)
    page = browser.new_page()
    page.goto(f"{endpoint.url}/#prompt=owl")
    page.get_by_label("API key").fill(KEY)
    page.get_by_label("API key").press("Enter")
    expect(page.get_by_label("API key")).to_be_hidden()
    expect(control(page, "Prompt")).to_have_value("owl")

    page.get_by_label("Add pictures").set_input_files(
        {"name": "noise.png", "mimeType": "image/png", "buffer": png(noise)}
    )

    expect(page.get_by_role("listitem")).to_have_text("noise.png: 1.2 MB; the limit is 1 MB")
    expect(page.get_by_role("img", name="to edit")).to_have_count(0)
    page.close()
