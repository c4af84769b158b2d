"""What the form of the page at ``/`` takes: pictures by their rules, settings of a link, sizes."""

import io
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, Request, Route, expect

from tests.deployments.conftest import HOST, Endpoint
from tests.deployments.open_endpoint.pictures import BASE, EDIT, TURBO, plasma, png
from tests.deployments.playground_page import card_of, control, done, generate, open_page


def upload(page: Page, *files: tuple[str, bytes]) -> None:
    """Choose files, all at once."""
    chosen: list[Any] = [
        {"name": name, "mimeType": "application/octet-stream", "buffer": data} for name, data in files
    ]
    page.get_by_label("Add pictures").set_input_files(chosen)


def sent(page: Page) -> list[Request]:
    """Note the requests for images from now on."""
    requests: list[Request] = []
    page.on("request", lambda request: requests.append(request) if "/v1/images/" in request.url else None)
    return requests


def test_more_pictures_than_the_model_takes_are_not_sent(page: Page) -> None:
    requests = sent(page)
    upload(page, ("one.png", png(plasma(64, 64, seed=0))), ("two.png", png(plasma(64, 64, seed=1))))
    rule = page.get_by_role("alert").filter(has_text="takes 1 picture")
    expect(rule).to_have_text(f"{TURBO} takes 1 picture, not 2: remove 1, or choose {EDIT}")

    refused = generate(page, "panda")
    expect(refused).to_have_count(0)
    control(page, "Model").select_option(EDIT)
    expect(rule).to_have_count(0)
    control(page, "Model").select_option(TURBO)
    page.get_by_role("button", name="Remove picture 1").click()
    expect(rule).to_have_count(0)

    done(generate(page, "panda"))
    assert len(requests) == 1


def test_files_that_are_no_pictures_are_named_and_left_out(page: Page) -> None:
    gif = io.BytesIO()
    Image.fromarray(plasma(64, 64, seed=0)).save(gif, "gif")
    damaged = png(plasma(64, 64, seed=0))[:60]

    upload(page, ("renamed.png", gif.getvalue()), ("cut.png", damaged), ("owl", png(plasma(64, 64, seed=1))))

    expect(page.get_by_role("listitem")).to_have_text(
        [
            "renamed.png: not a PNG, JPEG or WEBP file",
            "cut.png: can't be read; the file is damaged",
        ]
    )
    expect(page.get_by_role("img", name="to edit")).to_have_count(1)


def test_pictures_that_are_too_large_together_are_not_sent(page: Page) -> None:
    control(page, "Model").select_option(EDIT)
    large = png(np.zeros((3200, 4000, 3), np.uint8))

    upload(page, ("one.png", large), ("two.png", large))

    expect(page.get_by_role("alert").filter(has_text="megapixels")).to_have_text(
        "the pictures have 25.6 megapixels in all; the limit is 25"
    )
    expect(generate(page, "panda")).to_have_count(0)


def test_sizes_that_the_model_was_trained_on_come_first(page: Page, endpoint: Endpoint) -> None:
    described = endpoint.client().models.retrieve(TURBO).model_dump()

    offered = page.locator("#sizes option").evaluate_all("options => options.map(({ value }) => value)")

    trained = described["recommended_sizes"]
    assert trained
    assert offered[: len(trained)] == trained
    expect(page.get_by_text(f"Best at {trained[0]}")).to_be_visible()


def test_image_of_another_size_carries_the_warning_from_the_start(page: Page) -> None:
    warning = "128x96 is not a size that this model was trained on"
    slow = generate(page, "fox", Model=BASE, Size="128x96", Steps="200")
    expect(slow).to_contain_text(warning)
    slow.get_by_role("button", name="Cancel").click()
    expect(slow).to_contain_text("cancelled")

    done(generate(page, "owl", Steps="1"))
    page.reload()

    expect(card_of(page, "owl")).to_contain_text(warning)
    expect(done(generate(page, "panda", Size=""))).not_to_contain_text("trained")


def test_link_fills_the_form_and_runs_nothing(page: Page) -> None:
    settings = {
        "Model": BASE,
        "Prompt": "老虎头 & owl\nsecond line",
        "Negative prompt": "flower",
        "Size": "72x64",
        "Seed": str(2**32 - 1),
        "Steps": "9",
        "Guidance": "2.5",
        "Format": "webp",
        "Previews": "1",
    }
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    for label, value in settings.items():
        field = control(page, label)
        field.select_option(value) if label in ("Model", "Format", "Previews") else field.fill(value)
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("button", name="Link copied")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")

    other = page.context.new_page()
    requests = sent(other)
    other.goto(link)

    for label, value in settings.items():
        expect(control(other, label)).to_have_value(value)
    expect(other.get_by_role("article")).to_have_count(0)
    expect(other.get_by_role("alert").filter(has_text="could not be filled in")).to_be_hidden()
    assert requests == []


def test_what_a_link_has_of_the_unknown_is_said(page: Page, endpoint: Endpoint) -> None:
    control(page, "Steps").fill("30")

    page.goto(
        f"{endpoint.url}/#model=nope&prompt=cat&steps=many&guidance=3&seed=4294967296&format=gif"
        "&size=big&previews=2&colour=red"
    )

    expect(page.get_by_role("alert").get_by_role("listitem")).to_have_text(
        [
            "colour: no such setting",
            "model: nope is not served here",
            "steps: many is not possible",
            f"guidance: {TURBO} has none",
            "seed: 4294967296 is not possible",
            "format: gif is not possible",
            "size: big is not possible",
        ]
    )
    expected = {"Prompt": "cat", "Model": TURBO, "Steps": "", "Seed": "", "Format": "png", "Previews": "2"}
    for label, value in expected.items():
        expect(control(page, label)).to_have_value(value)
    done(generate(page, "cat"))


def test_image_has_a_link_with_its_seed_where_the_browser_keeps_the_clipboard_from_scripts(
    browser: Browser, endpoint: Endpoint
) -> None:
    with browser.new_context() as context:
        page = open_page(context.new_page(), endpoint.url.replace("127.0.0.1", HOST))
        assert page.evaluate("navigator.clipboard === undefined")
        card = done(generate(page, "owl"))
        seed = (card.get_by_role("button", name="Pin seed").text_content() or "").removeprefix("Pin seed ")

        card.get_by_role("button", name="Link").click()
        expect(card.get_by_role("button", name="Link copied")).to_be_focused()

        control(page, "Prompt").fill("")
        page.keyboard.press("Control+V")
        parameters = f"#model={TURBO}&prompt=owl&seed={seed}&format=png&previews=3"
        expect(control(page, "Prompt")).to_have_value(
            f"http://{HOST}:{endpoint.url.split(':')[-1]}/{parameters}"
        )


def test_page_works_below_a_path(browser: Browser, endpoint: Endpoint) -> None:
    def without_prefix(route: Route) -> None:
        route.continue_(url=route.request.url.replace("/images-of/shop/", "/"))

    with browser.new_context() as context:
        # As a proxy does it: the endpoint does not see the prefix.
        context.route("**/images-of/shop/**", without_prefix)
        page = open_page(context.new_page(), f"{endpoint.url}/images-of/shop/")
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        done(generate(page, "panda"))
        page.reload()
        expect(card_of(page, "panda").get_by_role("img")).to_be_visible()

    asked = [url for url in requests if url.startswith("http")]
    assert len(asked) > 5
    assert [url for url in asked if "/images-of/shop/" not in url] == []
