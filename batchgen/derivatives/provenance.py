"""The provenance of an image as an XMP packet: existing statements stay, and those about its making are added. Pure.

Written with the standard library: pyexiv2 is GPL, python-xmp-toolkit needs a C library of its own, piexif and iptcinfo3
do not support XMP, and c2pa-python writes what it signs (signing.py). Pillow puts a packet in its place. Sources: XMP
part 1 (ISO 16684-1); IPTC Photo Metadata 2025.1 (digital source type, AI system, AI prompt information).
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from batchgen.derivatives.specification import Provenance

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
XMP_META_NAMESPACE = "adobe:ns:meta/"
IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
XMP = "http://ns.adobe.com/xap/1.0/"
MM = "http://ns.adobe.com/xap/1.0/mm/"
REF = "http://ns.adobe.com/xap/1.0/sType/ResourceRef#"
OWN_NAMESPACE = "urn:batchgen:provenance:1.0/"
PREFIXES = {
    "rdf": RDF,
    "x": XMP_META_NAMESPACE,
    "Iptc4xmpExt": IPTC,
    "xmp": XMP,
    "xmpMM": MM,
    "stRef": REF,
    "batchgen": OWN_NAMESPACE,
}
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
PACKET_MAX_BYTES = 60_000  # fits into one segment of a JPEG, with some room
C2PA_LOST = "the original carries a C2PA manifest, which cannot be kept in a re-encoded file"
# Not a Char of XML 1.0, or a control character.
_UNSAFE = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
LONG_PROPERTIES = ("Prompt", "System", "Settings")  # cut if a packet would not fit


def clean(text: str) -> str:
    """A text without control characters and characters that XML does not allow, with \\n as line ends."""
    return _UNSAFE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def packet(
    facts: Provenance, embed: str, source_type: str, existing: bytes | None = None, *, keeps_c2pa: bool
) -> bytes:
    """The packet. existing: the original's own packet, whose statements take precedence.

    keeps_c2pa: the file keeps the original's C2PA manifest. With `none`, only the source type is stated, that an image
    is emulated, and that a C2PA manifest was lost. Texts are cut if the packet would become larger than every format
    allows.
    """
    longest = max(
        (len(text) for name, text in described_properties(facts, embed).items() if name in LONG_PROPERTIES), default=0
    )
    while True:
        made = _build_packet(facts, embed, source_type, existing, longest, keeps_c2pa=keeps_c2pa)
        if len(made) <= PACKET_MAX_BYTES or longest < 64:
            break
        longest //= 2
    if existing is None or len(made) <= PACKET_MAX_BYTES:
        return made
    return packet(facts, embed, source_type, keeps_c2pa=keeps_c2pa)


def _build_packet(
    facts: Provenance, embed: str, source_type: str, existing: bytes | None, max_chars: int, *, keeps_c2pa: bool
) -> bytes:
    for prefix, uri in PREFIXES.items():
        ET.register_namespace(prefix, uri)
    rdf = _parse_rdf(existing)
    if rdf is None:
        rdf = ET.Element(f"{{{RDF}}}RDF")
    for description in rdf:
        for child in [child for child in description if child.tag.startswith(f"{{{OWN_NAMESPACE}}}")]:
            description.remove(child)
    ours = ET.Element(f"{{{RDF}}}Description", {f"{{{RDF}}}about": ""})
    existing_names = _property_names(rdf)
    for name, value in _own_properties(facts, embed, source_type, max_chars, keeps_c2pa=keeps_c2pa):
        if name not in existing_names:
            _add_property(ours, name, value)
    rdf.append(ours)
    meta = ET.Element(f"{{{XMP_META_NAMESPACE}}}xmpmeta")
    meta.append(rdf)
    body = ET.tostring(meta, encoding="unicode")
    return f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n{body}\n<?xpacket end="w"?>'.encode()


def _own_properties(
    facts: Provenance, embed: str, source_type: str, max_chars: int, *, keeps_c2pa: bool
) -> list[tuple[str, Any]]:
    """(qualified name, text, list of texts, or a mapping for a structure)."""
    found: list[tuple[str, Any]] = [(f"{{{IPTC}}}DigitalSourceType", SOURCE_TYPES + source_type)]
    emulated = facts.emulated
    if emulated:
        found.append((f"{{{OWN_NAMESPACE}}}Emulated", "True"))
    if facts.c2pa and not keeps_c2pa:
        found.append((f"{{{OWN_NAMESPACE}}}OriginC2PA", C2PA_LOST))
        found.append((f"{{{MM}}}DerivedFrom", {f"{{{REF}}}documentID": f"urn:sha256:{facts.sha256}"}))
    if embed == "none":
        return found
    maker = f"{facts.model}, EMULATED: drawn by a local emulator" if emulated else facts.model
    found += [(f"{{{IPTC}}}AISystemUsed", maker), (f"{{{XMP}}}CreatorTool", facts.generator)]
    words = described_properties(facts, embed)
    if "Prompt" in words:
        found.append((f"{{{IPTC}}}AIPromptInformation", _truncate(words["Prompt"], max_chars)))
    for name, value in words.items():
        found.append((f"{{{OWN_NAMESPACE}}}{name}", _truncate(value, max_chars) if name in LONG_PROPERTIES else value))
    return found


def described_properties(facts: Provenance, embed: str) -> dict[str, Any]:
    """The properties that `ids` and `full` state, by name."""
    ids = {
        "Job": facts.job,
        "Item": facts.id,
        "Sample": facts.sample,
        "Run": facts.run,
        "Attempt": facts.attempt,
        "Model": facts.model,
        "OriginalSha256": facts.sha256,
        "Generator": facts.generator,
    }
    full = {"Prompt": facts.prompt, "System": facts.system, "Settings": facts.settings, "References": facts.references}
    told: dict[str, Any] = {**ids, **full} if embed == "full" else ids if embed == "ids" else {}
    values = {name: value for name, value in told.items() if value not in (None, "", [], {})}
    values = {name: clean(value) if isinstance(value, str) else value for name, value in values.items()}
    if "Settings" in values:
        values["Settings"] = clean(json.dumps(values["Settings"], ensure_ascii=False, sort_keys=True))
    return values


def png_texts(facts: Provenance, embed: str) -> dict[str, str]:
    """Texts by keyword: `Software`, and `batchgen` with the packet's properties in JSON. Empty for `none`."""
    if embed == "none":
        return {}
    emulated = {"Emulated": True} if facts.emulated else {}
    return {
        "Software": facts.generator,
        "batchgen": json.dumps({**described_properties(facts, embed), **emulated}, ensure_ascii=False),
    }


def _truncate(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else f"{text[:max_chars]}…"


def _add_property(description: ET.Element, name: str, value: Any) -> None:
    element = ET.SubElement(description, name)
    if isinstance(value, Mapping):
        element.set(f"{{{RDF}}}parseType", "Resource")
        for inner, text in value.items():
            ET.SubElement(element, inner).text = clean(text)
    elif isinstance(value, list):
        bag = ET.SubElement(element, f"{{{RDF}}}Bag")
        for each in value:
            ET.SubElement(bag, f"{{{RDF}}}li").text = clean(str(each))
    else:
        element.text = clean(str(value))


def _property_names(rdf: ET.Element) -> set[str]:
    """The names of all properties, which RDF writes as attributes or as elements."""
    return {name for description in rdf for name in (*description.attrib, *(child.tag for child in description))}


def _parse_rdf(existing: bytes | None) -> ET.Element | None:
    """The rdf:RDF of a packet, None if it cannot be parsed safely. Keeps the prefixes it was written with."""
    try:
        text = (existing or b"").decode("utf-8-sig").strip("\x00 \t\r\n")
        if not text or "<!" in text:  # XMP has neither a DOCTYPE nor entities of its own
            return None
        for _, (prefix, uri) in ET.iterparse(io.StringIO(text), ("start-ns",)):  # noqa: S314
            if prefix not in PREFIXES:
                with contextlib.suppress(ValueError):  # ns0 and the like are ElementTree's own
                    ET.register_namespace(prefix, uri)
        root = ET.fromstring(text)  # noqa: S314
    except (UnicodeDecodeError, ET.ParseError):
        return None
    return root if root.tag == f"{{{RDF}}}RDF" else root.find(f".//{{{RDF}}}RDF")


def has_source_type(existing: bytes | None) -> bool:
    """Whether a packet states its digital source type already."""
    rdf = _parse_rdf(existing)
    return rdf is not None and f"{{{IPTC}}}DigitalSourceType" in _property_names(rdf)
