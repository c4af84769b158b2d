"""The page at ``/`` in a real browser, against a real endpoint."""

import base64
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from tests.deployments.conftest import Endpoint
from tests.deployments.open_endpoint.conftest import Make
from tests.deployments.open_endpoint.pictures import EDIT, plasma, png
from tests.deployments.playground_page import card_of, control, done, generate
from zimage_models.pictures import Picture

# Notes every picture that a card shows, with the last that was said beside it.
_WATCH = """() => {
    window.seen = [];
    new MutationObserver(() => {
        const { src } = document.querySelector(".card img");
        const said = document.querySelector(".card .progress").textContent;
        if (src && src !== seen.at(-1)?.src) seen.push({ src });
        if (src) seen.at(-1).said = said;
    }).observe(document.body, { subtree: true, childList: true, attributes: true });
}"""


def pixels_of(card: Locator, folder: Path) -> npt.NDArray[np.int16]:
    """Download a card's image."""
    with card.page.expect_download() as download:
        card.get_by_role("link", name="Download").click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return pixels_in(path.read_bytes())


def pixels_in(data: bytes) -> npt.NDArray[np.int16]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)


def seed_of(card: Locator) -> str:
    return (card.get_by_role("button", name="Pin seed").text_content() or "").removeprefix("Pin seed ")


def test_previews_replace_each_other_until_the_image_is_done(page: Page) -> None:
    page.evaluate(_WATCH)

    card = done(generate(page, "panda", Steps="40", Previews="3"))

    said = [picture["said"] for picture in page.evaluate("window.seen")]
    assert said == ["preview 1 of 3", "preview 2 of 3", "preview 3 of 3", "done"]
    image = card.get_by_role("img", name="panda")
    assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [64, 64]
    assert image.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    expect(card).to_contain_text("z-image-turbo · 64x64 · 40 steps · guidance 0 · png")


def test_ctrl_enter_generates(page: Page) -> None:
    control(page, "Prompt").fill("owl")

    page.keyboard.press("Control+Enter")

    done(card_of(page, "owl"))


def test_shown_seed_makes_the_same_picture_again(page: Page, endpoint: Endpoint, tmp_path: Path) -> None:
    first = done(generate(page, "sunflower"))
    seed, picture = seed_of(first), pixels_of(first, tmp_path)
    other = pixels_of(done(generate(page, "sunflower")), tmp_path)

    page.get_by_role("button", name=f"Pin seed {seed}").click()
    again = done(generate(page, "sunflower"))
    answer = endpoint.client().images.generate(prompt="sunflower", extra_body={"seed": int(seed)})

    assert seed_of(again) == seed
    assert np.abs(pixels_of(again, tmp_path) - picture).max() <= 1
    assert np.abs(pixels_in(base64.b64decode(answer.data[0].b64_json)) - picture).max() <= 1
    assert np.abs(other - picture).max() > 1, "another seed, another picture"


def test_large_seed_keeps_all_its_digits(page: Page) -> None:
    seed = str(2**32 - 1)

    card = done(generate(page, "tulip", Seed=seed))

    assert seed_of(card) == seed


def test_cancel_ends_its_request_and_no_other(page: Page) -> None:
    fox = generate(page, "fox", Model="z-image-base", Steps="200", Previews="0")
    expect(fox).to_contain_text("making the image")
    owl = generate(page, "owl", Steps="40")

    with page.expect_event("requestfailed") as ended:
        fox.get_by_role("button", name="Cancel").click()

    assert '"prompt":"fox"' in (ended.value.post_data or "")
    expect(fox).to_contain_text("cancelled")
    done(owl)


def test_refused_setting_is_shown_with_its_field_and_request_id(page: Page) -> None:
    with page.expect_response("**/v1/images/generations") as refused:
        card = generate(page, "frog", Size="65x64")

    expect(card).to_contain_text("size: 65x64 is not a multiple of 8 px: use 64x64 or 72x64")
    expect(card).to_contain_text(f"field size · request {refused.value.headers['x-request-id']}")
    expect(control(page, "Size")).to_have_attribute("aria-invalid", "true")


def test_reuse_restores_prompt_and_settings(page: Page) -> None:
    settings = {
        "Model": "z-image-base",
        "Negative prompt": "flower",
        "Size": "72x64",
        "Steps": "9",
        "Guidance": "2.5",
        "Format": "webp",
        "Previews": "1",
    }
    card = done(generate(page, "cactus", **settings))
    seed = seed_of(card)
    others = {"Size": "", "Steps": "8", "Seed": "7", "Guidance": "", "Negative prompt": "", "Format": "png"}
    generate(page, "palm tree", **others, Previews="0", Model="z-image-turbo")
    expect(control(page, "Guidance")).to_be_hidden()

    card.get_by_role("button", name="Reuse").click()

    for label, value in {"Prompt": "cactus", "Seed": seed, **settings}.items():
        expect(control(page, label)).to_have_value(value)


def test_edit_starts_from_the_picture(page: Page, tmp_path: Path) -> None:
    panda = done(generate(page, "panda", Seed="3"))
    start = pixels_of(panda, tmp_path)
    panda.get_by_role("button", name="Edit this").click()

    near = pixels_of(done(generate(page, "tiger face", Steps="40", Strength="0.1")), tmp_path)
    far = pixels_of(done(generate(page, "tiger face", Strength="1")), tmp_path)

    assert np.abs(near - start).mean() < 0.5 * np.abs(far - start).mean()
    page.get_by_role("button", name="Remove picture 1").click()
    expect(control(page, "Strength")).to_be_hidden()


def test_page_asks_only_its_own_server_and_logs_nothing(browser: Browser, endpoint: Endpoint) -> None:
    page = browser.new_page()
    urls: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(endpoint.url)
    page.get_by_role("button", name="sunflower").click()
    done(card_of(page, "sunflower")).get_by_role("button", name="Edit this").click()
    done(generate(page, "tulip"))
    page.close()

    assert said == []
    assert [url for url in urls if not url.startswith((f"{endpoint.url}/", "blob:"))] == []


def test_instruction_is_followed_on_uploaded_pictures(
    page: Page, made_in_process: Make, tmp_path: Path
) -> None:
    images = [plasma(96, 64, seed=0), plasma(64, 80, seed=1)]
    uploads = [
        {"name": f"{index}.png", "mimeType": "image/png", "buffer": png(image)}
        for index, image in enumerate(images)
    ]
    page.evaluate(_WATCH)
    control(page, "Model").select_option(EDIT)
    for upload in uploads:
        page.get_by_label("Add pictures").set_input_files(upload)
    expect(page.get_by_role("img", name="to edit")).to_have_count(2)
    expect(control(page, "Strength")).to_be_hidden()

    card = done(generate(page, "make it red", Steps="8", Seed="6", Previews="2"))

    said = [picture["said"] for picture in page.evaluate("window.seen")]
    assert said == ["preview 1 of 2", "preview 2 of 2", "done"]
    expect(card).to_contain_text(f"{EDIT} · 56x64 · 8 steps")
    values = {"prompt": "make it red", "num_inference_steps": 8, "seed": 6}
    expected = made_in_process(EDIT, reference_images=[Picture(pixels=image) for image in images], **values)
    assert np.abs(pixels_of(card, tmp_path) - expected.pixels_HWC).max() <= 1
