"""XMP packets: how an image was made, and the pictures it was made from. It knows no image formats.

The mark of generated media is IPTC's ``DigitalSourceType`` (IPTC Photo Metadata Standard 2023.1, Iptc4xmpExt
schema): ``trainedAlgorithmicMedia`` for an image made from a prompt alone,
``compositeWithTrainedAlgorithmicMedia`` for one made from pictures, which are then listed as
``xmpMM:Ingredients`` (XMP Specification part 2, 2.2). The generation parameters are stored with it as JSON.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from zimage_models.pictures import Ingredient

_IPTC_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_OWN = "urn:zimage-ray:xmp:1.0/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_MM = "http://ns.adobe.com/xap/1.0/mm/"
_REF = "http://ns.adobe.com/xap/1.0/sType/ResourceRef#"

_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED = f"{_SOURCE_TYPES}trainedAlgorithmicMedia"
EDITED = f"{_SOURCE_TYPES}compositeWithTrainedAlgorithmicMedia"

_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}"><rdf:Description rdf:about=""'
    f' xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:Iptc4xmpExt="{_IPTC_EXT}"'
    f' xmlns:zimage="{_OWN}"%s'
    ' Iptc4xmpExt:DigitalSourceType="%s" xmp:CreatorTool="%s">'
    "<zimage:parameters>%s</zimage:parameters>%s</rdf:Description></rdf:RDF></x:xmpmeta>"
    '<?xpacket end="r"?>'
)
_INGREDIENT_NAMESPACES = f' xmlns:xmpMM="{_MM}" xmlns:stRef="{_REF}"'
# JSON escapes control characters itself; XML forbids these two as well (XML 1.0, production 2).
_XML_FORBIDDEN = {0xFFFE: "\\ufffe", 0xFFFF: "\\uffff"}

# Metadata of other people's pictures is copied into ours, so it is bounded.
_MAX_PACKET_BYTES = 2**20
_MAX_TEXT_CHARS = 256
# The head of a C2PA manifest store in any container: a JUMBF description box of the type "c2pa"
# (C2PA specification 2.2, 11.1.4.2).
_C2PA_STORE = b"jumdc2pa\x00\x11\x00\x10\x80\x00\x00\xaa\x00\x38\x9b\x71"


_INGREDIENT_PROPERTIES = {
    "document_id": "stRef:documentID",
    "instance_id": "stRef:instanceID",
    "digital_source_type": "Iptc4xmpExt:DigitalSourceType",
    "sha256": "zimage:sha256",
}
_NAMESPACES = {"stRef": _REF, "Iptc4xmpExt": _IPTC_EXT, "zimage": _OWN}


def write_packet(parameters: Mapping[str, Any], ingredients: Sequence[Ingredient] = ()) -> bytes:
    """Write the XMP packet of a generated image.

    Args:
        parameters: JSON values by name.
        ingredients: the pictures that it was made from.
    """
    text = json.dumps(parameters, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    packet = _PACKET % (
        _INGREDIENT_NAMESPACES if ingredients else "",
        EDITED if ingredients else GENERATED,
        _creator_tool(),
        escape(text.translate(_XML_FORBIDDEN)),
        _ingredients_element(ingredients) if ingredients else "",
    )
    return packet.encode("utf-8")


def describe_file(data: bytes, packet: bytes | None) -> Ingredient:
    """Read what an image file says about its origin; damaged or oversized metadata count as none.

    Args:
        data: the file.
        packet: its XMP packet, if it has one.
    """
    names = {
        "document_id": f"{{{_MM}}}DocumentID",
        "instance_id": f"{{{_MM}}}InstanceID",
        "digital_source_type": f"{{{_IPTC_EXT}}}DigitalSourceType",
    }
    texts = {}
    if packet and len(packet) <= _MAX_PACKET_BYTES:
        try:
            root = _parse(packet)
            texts = {field: _property(root, name) or "" for field, name in names.items()}
        except ValueError:
            pass
    return Ingredient(
        sha256=hashlib.sha256(data).hexdigest(),
        has_c2pa=_C2PA_STORE in data,
        **{field: text[:_MAX_TEXT_CHARS] for field, text in texts.items()},
    )


def read_source_type(packet: bytes | None) -> str | None:
    """Return IPTC's mark of how the image was made, or None.

    Raises:
        ValueError: the packet is damaged.
    """
    return _property(_parse(packet), f"{{{_IPTC_EXT}}}DigitalSourceType") if packet else None


def read_parameters(packet: bytes | None) -> dict[str, Any]:
    """Read the parameters that :func:`write_packet` wrote; empty for a packet without any.

    Raises:
        ValueError: the packet is damaged.
    """
    text = _property(_parse(packet), f"{{{_OWN}}}parameters") if packet else None
    parameters = json.loads(text) if text else {}
    if not isinstance(parameters, dict):
        raise ValueError(f"image: its generation parameters are {type(parameters).__name__}, not an object")
    return parameters


def read_ingredients(packet: bytes | None) -> tuple[Ingredient, ...]:
    """Read the ingredients that :func:`write_packet` wrote.

    Raises:
        ValueError: the packet is damaged.
    """
    if not packet:
        return ()
    items = _parse(packet).iterfind(f".//{{{_MM}}}Ingredients/{{{_RDF}}}Bag/{{{_RDF}}}li")
    return tuple(
        Ingredient(
            has_c2pa=item.findtext("zimage:c2pa", namespaces=_NAMESPACES) == "True",
            **{
                field: item.findtext(name, "", namespaces=_NAMESPACES)
                for field, name in _INGREDIENT_PROPERTIES.items()
            },
        )
        for item in items
    )


def _ingredients_element(ingredients: Sequence[Ingredient]) -> str:
    items = []
    for ingredient in ingredients:
        texts = {name: getattr(ingredient, field) for field, name in _INGREDIENT_PROPERTIES.items()}
        texts["zimage:c2pa"] = "True" if ingredient.has_c2pa else ""
        elements = (f"<{name}>{escape(text)}</{name}>" for name, text in texts.items() if text)
        items.append(f'<rdf:li rdf:parseType="Resource">{"".join(elements)}</rdf:li>')
    return f"<xmpMM:Ingredients><rdf:Bag>{''.join(items)}</rdf:Bag></xmpMM:Ingredients>"


def _parse(packet: bytes) -> ElementTree.Element:
    # XMP has no document type (ISO 16684-1, 7.2): refusing one prevents all entity attacks.
    if b"<!DOCTYPE" in packet:
        raise ValueError("image: its XMP packet declares a document type")
    try:
        return ElementTree.fromstring(packet.rstrip(b"\0"))
    # LookupError: an encoding that Python does not know.
    except (ElementTree.ParseError, LookupError) as error:
        raise ValueError(f"image: its XMP packet is damaged ({error})") from error


def _property(root: ElementTree.Element, name: str) -> str | None:
    # Tools that rewrite XMP may turn a property from an attribute into an element and back.
    for description in root.iter(f"{{{_RDF}}}Description"):
        value = description.get(name) or description.findtext(name)
        if value:
            return value
    return None


@cache
def _creator_tool() -> str:
    try:
        return f"zimage-ray {metadata.version('zimage-ray')}"
    except metadata.PackageNotFoundError:
        # A plain source tree, such as a Ray working_dir.
        return "zimage-ray"
