"""The page at ``/`` as a person uses it."""

import re

from playwright.sync_api import Locator, Page, expect

_CHOICES = ("Model", "Format", "Previews")


def open_page(page: Page, url: str) -> Page:
    """Go to the page, and wait until it knows the models."""
    page.goto(url)
    expect(control(page, "Size")).to_have_attribute("placeholder", "64x64")
    return page


def generate(page: Page, prompt: str, **settings: str) -> Locator:
    """Fill in the form, generate, and return the new image's card; settings go by their labels."""
    for label, value in {"Prompt": prompt, **settings}.items():
        if label in _CHOICES:
            control(page, label).select_option(value)
        else:
            control(page, label).fill(value)
    page.get_by_role("button", name="Generate").click()
    return card_of(page, prompt)


def control(page: Page, label: str) -> Locator:
    # The text of a label around a <select> goes on with its options.
    return page.get_by_label(re.compile(rf"^\s*{label}\b"))


def card_of(page: Page, prompt: str) -> Locator:
    """Find a prompt's card, the newest of several."""
    return page.get_by_role("article", name=prompt, exact=True).first


def done(card: Locator) -> Locator:
    expect(card).to_contain_text("done")
    return card
