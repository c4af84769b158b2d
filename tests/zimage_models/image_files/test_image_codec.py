import io
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from zimage_models.errors import InvalidRequest
from zimage_models.image_files.image_codec import (
    IMAGE_FORMATS,
    MIME_TYPES,
    SUFFIXES,
    Encoding,
    decode_image,
    encode_image,
    is_marked_generated,
    read_parameters,
)

ALL_FORMATS = pytest.mark.parametrize("image_format", IMAGE_FORMATS)
PROMPTS = {"prompt": "一只红色的苹果, a red apple", "negative_prompt": "模糊, blurry"}
SETTINGS = {
    "width": 48,
    "height": 32,
    "num_inference_steps": 8,
    "guidance_scale": 0.0,
    "seed": 2**53,
    "prompt_truncated": False,
    "model": "tiny-zimage-turbo",
    "weights_sha256": "ab" * 32,
    "unit_id": "cd" * 16,
}


@pytest.fixture
def pixels() -> npt.NDArray[np.uint8]:
    y, x = np.mgrid[:32, :48]
    return np.stack([x * 5, y * 7, 255 - x * 5], axis=-1).astype(np.uint8)


def encode(pixels: npt.NDArray[np.uint8], image_format: str = "png", **parameters: object) -> bytes:
    return encode_image(pixels, Encoding(format=image_format), parameters=parameters)


@ALL_FORMATS
def test_pixels_come_back(pixels: npt.NDArray[np.uint8], image_format: str) -> None:
    data = encode(pixels, image_format)
    decoded = decode_image(data)
    error = np.abs(decoded.astype(int) - pixels)
    assert decoded.dtype == np.uint8
    assert error.mean() <= (0 if image_format == "png" else 3)
    image = Image.open(io.BytesIO(data))
    assert (
        Image.MIME[image.format or ""] == MIME_TYPES[image_format] == Encoding(format=image_format).mime_type
    )
    assert Image.registered_extensions()[SUFFIXES[image_format]] == image.format


@ALL_FORMATS
@pytest.mark.parametrize(
    "prompt",
    [
        "a red apple",
        "一只红色的苹果",
        "🍎 café",
        "<b>&amp; ]]> \"quoted\" 'single' </zimage:parameters>",
        "tab\tline\nreturn\rnext\x85separator\u2028",
        "control \x01\x1b\x7f, non-characters \ufffe\uffff",
        "  spaces  ",
        "back\\slash \\u0041 %s %(x)s {y}",
    ],
)
def test_parameters_come_back(pixels: npt.NDArray[np.uint8], image_format: str, prompt: str) -> None:
    parameters = {**SETTINGS, "prompt": prompt, "negative_prompt": prompt[::-1]}
    assert read_parameters(encode(pixels, image_format, **parameters)) == parameters


@ALL_FORMATS
def test_absent_parameters_are_left_out(pixels: npt.NDArray[np.uint8], image_format: str) -> None:
    data = encode(pixels, image_format, prompt="x", negative_prompt="", lora=None, guidance_scale=0.0)
    assert read_parameters(data) == {"prompt": "x", "guidance_scale": 0.0}


@ALL_FORMATS
def test_prompts_are_left_out_on_request(pixels: npt.NDArray[np.uint8], image_format: str) -> None:
    encoding = Encoding(format=image_format, embed_prompt=False)
    data = encode_image(pixels, encoding, parameters=PROMPTS | SETTINGS)
    assert read_parameters(data) == SETTINGS
    assert is_marked_generated(data)
    for word in ("苹果", "apple", "模糊", "blurry"):
        assert word.encode() not in data


@ALL_FORMATS
def test_every_image_is_marked_as_generated(pixels: npt.NDArray[np.uint8], image_format: str) -> None:
    data = encode_image(pixels, Encoding(format=image_format, embed_prompt=False), parameters={})
    assert is_marked_generated(data)
    assert read_parameters(data) == {}
    packet = Image.open(io.BytesIO(data)).info["xmp"]
    description = ElementTree.fromstring(packet)[0][0]
    assert description.get("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType") == (
        "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    )
    assert description.get("{http://ns.adobe.com/xap/1.0/}CreatorTool", "").startswith("zimage-ray")


@ALL_FORMATS
def test_a_foreign_image_is_not_marked(pixels: npt.NDArray[np.uint8], image_format: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format)
    assert not is_marked_generated(buffer.getvalue())
    assert read_parameters(buffer.getvalue()) == {}


def test_the_mark_is_found_as_an_element_too(pixels: npt.NDArray[np.uint8]) -> None:
    def marked(source_type: str) -> bool:
        packet = (
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            '<rdf:Description xmlns:i="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"><i:DigitalSourceType>'
            f"http://cv.iptc.org/newscodes/digitalsourcetype/{source_type}"
            "</i:DigitalSourceType></rdf:Description></rdf:RDF></x:xmpmeta>"
        )
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "jpeg", xmp=packet.encode())
        return is_marked_generated(buffer.getvalue())

    assert marked("trainedAlgorithmicMedia")
    assert not marked("digitalCapture")


def test_png_carries_parameters_for_image_tools(pixels: npt.NDArray[np.uint8]) -> None:
    image = Image.open(io.BytesIO(encode(pixels, **PROMPTS, **SETTINGS, name="a: b")))
    assert image.info["parameters"].split("\n") == [
        "一只红色的苹果, a red apple",
        "Negative prompt: 模糊, blurry",
        "Steps: 8, CFG scale: 0.0, Seed: 9007199254740992, prompt_truncated: False, "
        "Model: tiny-zimage-turbo, "
        f'weights_sha256: {"ab" * 32}, unit_id: {"cd" * 16}, name: "a: b", Size: 48x32',
    ]


@ALL_FORMATS
def test_the_same_input_gives_the_same_bytes(pixels: npt.NDArray[np.uint8], image_format: str) -> None:
    assert encode(pixels, image_format, **SETTINGS) == encode(pixels.copy(), image_format, **SETTINGS)


@pytest.mark.parametrize("image_format", ["jpeg", "webp", "avif"])
def test_quality_is_obeyed(pixels: npt.NDArray[np.uint8], image_format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    low, default, high = (
        len(encode_image(noise, Encoding(format=image_format, quality=quality), parameters={}))
        for quality in (10, None, 100)
    )
    assert low < default < high


@pytest.mark.parametrize(
    ("options", "field", "message"),
    [
        ({"format": "gif"}, "format", "'gif' is not one of png, jpeg, webp, avif"),
        ({"format": "PNG"}, "format", "'PNG' is not one of"),
        ({"quality": 90}, "quality", "90 given, but a png is lossless"),
        ({"format": "jpeg", "quality": 0}, "quality", "0 is outside 1..100"),
        ({"format": "webp", "quality": 101}, "quality", "101 is outside 1..100"),
        ({"format": "avif", "quality": 80.5}, "quality", "80.5 is not a whole number"),
        ({"format": "avif", "quality": True}, "quality", "True is not a whole number"),
    ],
)
def test_bad_encodings_are_refused(options: dict[str, object], field: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as raised:
        Encoding(**options)  # type: ignore[arg-type]
    assert raised.value.field == field


def test_parameters_past_a_jpegs_room_are_refused(pixels: npt.NDArray[np.uint8]) -> None:
    prompt = "&" * 16_384  # five bytes each in XML
    with pytest.raises(InvalidRequest, match=r"embed_prompt: .* a jpeg holds 65504"):
        encode(pixels, "jpeg", prompt=prompt)
    for image_format in ("png", "webp", "avif"):
        assert read_parameters(encode(pixels, image_format, prompt=prompt)) == {"prompt": prompt}


@pytest.mark.parametrize(
    ("dtype", "shape"), [("float32", (8, 8, 3)), ("uint8", (8, 8)), ("uint8", (8, 8, 4))]
)
def test_pixels_that_are_not_rgb_are_refused(dtype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="is not uint8 of shape"):
        encode(np.zeros(shape, dtype=dtype))


@ALL_FORMATS
def test_a_file_cut_off_anywhere_is_refused(pixels: npt.NDArray[np.uint8], image_format: str) -> None:
    data = encode(pixels, image_format)
    for num_bytes in (*range(0, len(data), 13), *range(len(data) - 40, len(data))):
        with pytest.raises(ValueError, match=r"^image: "):
            decode_image(data[:num_bytes])


@ALL_FORMATS
def test_damaged_bytes_give_pixels_or_a_clear_error(pixels: npt.NDArray[np.uint8], image_format: str) -> None:
    data = encode(pixels, image_format, **SETTINGS)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            damaged[place] = rng.integers(256)
        for read in (decode_image, read_parameters, is_marked_generated):
            try:
                read(bytes(damaged))
            except ValueError:
                refused += 1
    assert refused > 0


@pytest.mark.parametrize("data", [b"", b"no image at all", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"])
def test_foreign_data_are_refused(data: bytes) -> None:
    for read in (decode_image, read_parameters, is_marked_generated):
        with pytest.raises(ValueError, match=f"{len(data)} bytes .* none of png, jpeg, webp, avif"):
            read(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8_001, 14_000])
def test_decompression_bombs_are_refused_undecoded(side: int) -> None:
    buffer = io.BytesIO()
    Image.new("1", (side, side)).save(buffer, "png", compress_level=1)
    with pytest.raises(ValueError, match=r"the limit is 64000000|decompression bomb"):
        decode_image(buffer.getvalue())


def test_an_xmp_packet_with_entities_is_refused(pixels: npt.NDArray[np.uint8]) -> None:
    buffer = io.BytesIO()
    packet = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><x>&b;</x>'
    Image.fromarray(pixels).save(buffer, "webp", xmp=packet)
    with pytest.raises(ValueError, match="document type"):
        read_parameters(buffer.getvalue())


def test_other_colour_modes_are_decoded_to_rgb() -> None:
    for mode in ("L", "P", "RGBA"):
        buffer = io.BytesIO()
        Image.new(mode, (5, 4)).save(buffer, "png")
        assert decode_image(buffer.getvalue()).shape == (4, 5, 3)
