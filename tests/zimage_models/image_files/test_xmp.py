import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from zimage_models.image_files.image_codec import (
    IMAGE_FORMATS,
    Encoding,
    encode_image,
    is_marked_generated,
    read_ingredients,
)
from zimage_models.image_files.xmp import EDITED, GENERATED, describe_file, read_source_type
from zimage_models.pictures import Ingredient

PIXELS = np.full((16, 16, 3), 99, np.uint8)
CAMERA = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/" xmpMM:DocumentID="xmp.did:1&amp;2">'
    b"<xmpMM:InstanceID>xmp.iid:3</xmpMM:InstanceID></rdf:Description></rdf:RDF></x:xmpmeta>"
)
C2PA = b"\0\0\0\x1ejumdc2pa\0\x11\0\x10\x80\0\0\xaa\0\x38\x9b\x71\x03c2pa\0"


def packet_of(data: bytes) -> bytes | None:
    packet: bytes | None = Image.open(io.BytesIO(data)).info.get("xmp")
    return packet


@pytest.mark.parametrize("image_format", IMAGE_FORMATS)
def test_ingredients_come_back_and_mark_an_edit(image_format: str) -> None:
    ingredients = (
        Ingredient(sha256="ab" * 32, document_id="<did>&", digital_source_type=GENERATED, has_c2pa=True),
        Ingredient(instance_id="iid"),
        Ingredient(),
    )
    data = encode_image(
        PIXELS, Encoding(format=image_format), parameters={"seed": 1}, ingredients=ingredients
    )
    assert read_ingredients(data) == ingredients
    assert read_source_type(packet_of(data)) == EDITED
    assert is_marked_generated(data)


def test_image_without_ingredients_is_marked_as_generated_alone() -> None:
    data = encode_image(PIXELS, Encoding(), parameters={})
    assert read_source_type(packet_of(data)) == GENERATED
    assert read_ingredients(data) == ()


def test_file_is_described_by_its_xmp_and_content_credentials() -> None:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "jpeg", xmp=CAMERA)
    data = buffer.getvalue()
    described = describe_file(data + C2PA, packet_of(data))
    assert described == Ingredient(
        sha256=hashlib.sha256(data + C2PA).hexdigest(),
        document_id="xmp.did:1&2",
        instance_id="xmp.iid:3",
        has_c2pa=True,
    )
    assert not describe_file(data, None).has_c2pa


def test_what_we_generated_stays_marked_as_an_ingredient() -> None:
    data = encode_image(PIXELS, Encoding(), parameters={})
    assert describe_file(data, packet_of(data)).digital_source_type == GENERATED


@pytest.mark.parametrize(
    "packet",
    [
        None,
        b"",
        b"\xff\xfe not XML",
        b'<?xml version="1.0" encoding="none-such"?><a/>',
        b'<!DOCTYPE a [<!ENTITY e "x">]><a>&e;</a>',
        CAMERA + b" " * 2**20,
    ],
)
def test_unusable_metadata_say_nothing(packet: bytes | None) -> None:
    assert describe_file(b"file", packet) == Ingredient(sha256=hashlib.sha256(b"file").hexdigest())


def test_endless_ids_are_cut() -> None:
    packet = CAMERA.replace(b"xmp.iid:3", b"i" * 10_000)
    assert describe_file(b"", packet).instance_id == "i" * 256
