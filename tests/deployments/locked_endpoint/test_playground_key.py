"""The page at ``/`` where keys are needed."""

from playwright.sync_api import Browser, expect

from tests.deployments.conftest import Endpoint
from tests.deployments.locked_endpoint.attacks import KEY
from tests.deployments.playground_page import done, generate


def test_key_is_asked_for_and_kept_in_the_tab(browser: Browser, endpoint: Endpoint) -> None:
    page = browser.new_page()
    page.goto(endpoint.url)
    key = page.get_by_label("API key")
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
