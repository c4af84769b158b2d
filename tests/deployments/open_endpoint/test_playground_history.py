"""The images on the page at ``/``: kept in the browser, and gone through with the keyboard or on a phone."""

import json
import shutil
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, Locator, Page, expect

from tests.deployments.conftest import Endpoint
from tests.deployments.open_endpoint.pictures import BASE
from tests.deployments.playground_page import card_of, control, done, generate, open_page

_PIXELS = """image => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 64, height: 64 });
    canvas.getContext("2d").drawImage(image, 0, 0);
    return [...canvas.getContext("2d").getImageData(0, 0, 64, 64).data];
}"""
_RELOAD_ONCE = """() => new MutationObserver((_, observer) => {
    if (!(%s)) return;
    observer.disconnect();
    location.reload();
}).observe(document.getElementById("images"), { childList: true, subtree: true, characterData: true })"""
# Other transactions wait meanwhile, as on a slow disk.
_HOLD_THE_STORE_FOR_1_S = """async () => {
    const [{ name }] = await indexedDB.databases();
    const opening = indexedDB.open(name);
    await new Promise((resolve) => { opening.onsuccess = resolve; });
    const store = opening.result.transaction("images", "readwrite").objectStore("images");
    const endMs = performance.now() + 1000;
    const hold = () => { if (performance.now() < endMs) store.count().onsuccess = hold; };
    hold();
}"""
_NAMES_OF_CARDS = "() => [...document.querySelectorAll('article')].map(({ ariaLabel }) => ariaLabel)"


def shown(card: Locator) -> list[int]:
    pixels: list[int] = card.get_by_role("img").evaluate(_PIXELS)
    return pixels


def reload(page: Page) -> Page:
    page.reload()
    expect(control(page, "Size")).to_have_attribute("placeholder", "64x64")
    return page


def test_images_survive_a_reload(page: Page) -> None:
    panda = done(generate(page, "panda", Steps="9", Seed="3"))
    panda.get_by_role("button", name="Edit this").click()
    done(generate(page, "tiger face", Strength="0.5", Seed=""))
    expect(generate(page, "frog", Size="65x64")).to_contain_text("is not a multiple")
    pixels = shown(panda)

    reload(page)

    expect(page.get_by_role("article")).to_have_count(2)
    assert page.evaluate(_NAMES_OF_CARDS) == ["tiger face", "panda"]
    assert shown(card_of(page, "panda")) == pixels
    expect(card_of(page, "panda")).to_contain_text("9 steps")
    card_of(page, "tiger face").get_by_role("button", name="Reuse").click()
    expect(page.get_by_role("img", name="to edit")).to_have_count(1)
    expect(control(page, "Strength")).to_have_value("0.5")
    generate(page, "tiger face")
    expect(page.get_by_role("article", name="tiger face")).to_have_count(2)
    again = shown(done(card_of(page, "tiger face")))
    assert np.abs(np.array(again) - shown(page.get_by_role("article", name="tiger face").nth(1))).max() <= 1


def test_what_the_page_shows_is_what_it_has_kept(page: Page) -> None:
    page.evaluate(_HOLD_THE_STORE_FOR_1_S)
    page.evaluate(_RELOAD_ONCE % "document.querySelector('article')?.textContent.includes('done')")
    with page.expect_event("load"):
        generate(page, "panda")
    expect(card_of(page, "panda")).to_contain_text("done")

    page.evaluate(_HOLD_THE_STORE_FOR_1_S)
    page.evaluate(_RELOAD_ONCE % "document.querySelector('article') === null")
    with page.expect_event("load"):
        card_of(page, "panda").get_by_role("button", name="Remove").click()
    expect(control(page, "Size")).to_have_attribute("placeholder", "64x64")
    expect(page.get_by_role("article")).to_have_count(0)


def test_removed_images_stay_away(page: Page) -> None:
    for prompt in ("panda", "owl", "tulip"):
        done(generate(page, prompt))
    card_of(page, "owl").get_by_role("button", name="Remove").click()

    reload(page)
    expect(page.get_by_role("article")).to_have_count(2)
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_role("article")).to_have_count(0)
    reload(page)

    expect(page.get_by_text("Your images appear here")).to_be_visible()
    expect(page.get_by_role("article")).to_have_count(0)


def test_kept_images_are_bounded(page: Page) -> None:
    numbers = page.evaluate("""async () => {
        const { keep, keptImages, MAX_BYTES, MAX_IMAGES } = await import("./playground/kept_images.js");
        const image = (numBytes) => ({ image: new Blob([new Uint8Array(numBytes)]), pictures: [] });
        const ids = [];
        for (let index = 0; index < MAX_IMAGES + 2; index++) ids.push(await keep(image(1)));
        const many = (await keptImages()).map(({ id }) => id);
        const large = [];
        for (let index = 0; index < 4; index++) large.push(await keep(image(MAX_BYTES / 3)));
        const few = (await keptImages()).map(({ id }) => id);
        return { ids, many, large, few };
    }""")

    assert numbers["many"] == numbers["ids"][2:]
    assert numbers["few"] == numbers["large"][1:]


def test_page_works_where_it_may_store_nothing(browser: Browser, endpoint: Endpoint, tmp_path: Path) -> None:
    # A person's setting: "don't allow sites to save data on your device".
    preferences = {"profile": {"default_content_setting_values": {"cookies": 2}}}
    (tmp_path / "Default").mkdir()
    (tmp_path / "Default" / "Preferences").write_text(json.dumps(preferences))
    chromium = browser.browser_type.launch_persistent_context(
        tmp_path, executable_path=shutil.which("chromium"), args=["--no-sandbox"]
    )
    with chromium as context:
        page = open_page(context.new_page(), endpoint.url)
        done(generate(page, "panda"))
        expect(page.get_by_text("Not kept: a reload loses them")).to_be_visible()
        card_of(page, "panda").get_by_role("button", name="Remove").click()
        expect(page.get_by_role("article")).to_have_count(0)


def test_everything_is_reached_and_shown_by_the_keyboard(page: Page) -> None:
    page.get_by_label("Add pictures").set_input_files([])
    card = done(generate(page, "panda"))
    card.get_by_role("button", name="Edit this").click()
    expect(page.get_by_role("img", name="to edit")).to_have_count(1)
    visible = page.locator("button:visible, input:visible, select:visible, textarea:visible, a:visible")
    expected = visible.count()

    reached = set()
    page.locator("body").evaluate("body => { body.tabIndex = -1; body.focus(); }")
    for _ in range(expected):
        page.keyboard.press("Tab")
        # An outline of the control, or of the label that stands for it.
        found = page.evaluate("""() => {
            const focused = document.activeElement;
            const outlined = [focused, focused.closest("label")].filter(Boolean)
                .some((node) => getComputedStyle(node).outlineStyle !== "none");
            return [[...document.querySelectorAll("*")].indexOf(focused), outlined];
        }""")
        assert found[1], page.evaluate("document.activeElement.outerHTML")
        reached.add(found[0])

    assert len(reached) == expected


def test_arrows_go_between_images(page: Page) -> None:
    for prompt in ("panda", "owl", "tulip"):
        done(generate(page, prompt))
    card_of(page, "tulip").get_by_role("button", name="Remove").focus()

    page.keyboard.press("ArrowRight")
    expect(card_of(page, "owl")).to_be_focused()
    page.keyboard.press("Enter")
    viewer = page.get_by_role("dialog", name="owl")
    expect(viewer.get_by_role("img", name="owl")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("dialog", name="panda")).to_be_visible()
    expect(page.get_by_role("button", name="Next")).to_be_disabled()
    page.keyboard.press("Escape")

    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(card_of(page, "panda").get_by_role("button", name="Show large")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(card_of(page, "owl")).to_be_focused()


def test_escape_cancels_the_image_in_focus_and_closes_the_list_of_shortcuts(page: Page) -> None:
    fox = generate(page, "fox", Model=BASE, Steps="200")
    owl = generate(page, "owl", Steps="200")
    page.get_by_role("button", name="Shortcuts").click()
    expect(page.get_by_role("dialog", name="Shortcuts")).to_contain_text("Generate")

    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Shortcuts")).to_be_hidden()
    expect(owl.get_by_role("button", name="Cancel")).to_be_visible()
    fox.get_by_role("button", name="Cancel").focus()
    page.keyboard.press("Escape")
    expect(fox).to_contain_text("cancelled")
    expect(owl.get_by_role("button", name="Cancel")).to_be_visible()
    control(page, "Prompt").focus()
    page.keyboard.press("Escape")

    expect(owl).to_contain_text("cancelled")


def test_phone_shows_the_new_image_needs_no_sideways_scroll_and_has_targets_for_thumbs(
    browser: Browser, endpoint: Endpoint
) -> None:
    with browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True) as context:
        page = open_page(context.new_page(), endpoint.url)
        card = generate(page, "panda", Steps="50")
        expect(card.get_by_role("button")).to_have_text(["Cancel"])
        expect(card.get_by_role("img")).to_be_visible()
        expect(done(card).get_by_role("img")).to_be_in_viewport(ratio=0.9)
        card.get_by_role("button", name="Edit this").click()
        done(generate(page, "panda" * 60, Strength="1"))

        assert page.evaluate("document.documentElement.scrollWidth") == 390
        targets = page.locator(
            "button:visible, select:visible, textarea:visible, a:visible, label.button:visible,"
            " input:not(.spoken):visible"
        )
        small = [
            (target.inner_text(), box)
            for target in targets.all()
            if (box := target.bounding_box()) and min(box["width"], box["height"]) < 44
        ]
        assert small == []
        card.get_by_role("button", name="Show large").tap()
        viewer = page.get_by_role("dialog", name="panda", exact=True)
        expect(viewer.get_by_role("img")).to_be_in_viewport(ratio=1)
        viewer.get_by_role("button", name="Close").tap()
        expect(viewer).to_have_count(0)
