"""Derivatives with a C2PA manifest, judged by the reader of those who wrote the standard's library."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import threading
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import c2pa
import pytest
from PIL import Image

from batchgen.derivatives import containers, provenance
from batchgen.derivatives.render import render
from batchgen.derivatives.specification import Provenance, RenderedFile, RenderRequest, outputs_of
from batchgen.records import Derivative, Post
from batchgen.store.store import Store
from tests.support.signing_certificate import make_certificate

OWN, VENDOR = make_certificate("Nordlicht"), make_certificate("A vendor of models")
FORMATS = ("webp", "avif", "jpeg", "png")
EVERY = tuple(Derivative(name=kind, format=kind, quality=None if kind == "png" else 80, width=48) for kind in FORMATS)
COPY = Derivative(name="original", format="original")
OFFLINE = {"verify": {"remote_manifest_fetch": False}}
FACTS = Provenance(
    generator="batchgen 9", job="shop", id="fox", sample=1, run=3, attempt=4, model="gemini-x", file="fox.png", sha256="",
    emulated=False, prompt="A fox", system=None, settings={}, references=[],
)  # fmt: skip


@pytest.fixture(autouse=True)
def _certificate(tmp_path, monkeypatch):
    for name, path in OWN.write(tmp_path).items():
        monkeypatch.setenv(name, path)


def picture(kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((64, 48)).convert("RGB").save(out, kind)
    return out.getvalue()


def of_a_vendor(link: str = "") -> bytes:
    """A PNG as a vendor of models signs it. link: where the manifest is, when it is not in the file."""
    signer = c2pa.C2paSignerInfo("es256", VENDOR.chain, VENDOR.key, None)
    with (
        c2pa.Context.from_dict(OFFLINE) as context,
        c2pa.Signer.from_info(signer) as signing,
        c2pa.Builder({"title": "theirs"}, context=context) as builder,
    ):
        made = c2pa.C2paDigitalSourceType.TRAINED_ALGORITHMIC_MEDIA
        builder.set_intent(c2pa.C2paBuilderIntent.CREATE, made)
        if link:
            builder.set_no_embed()
            builder.set_remote_url(link)
        out = io.BytesIO()
        builder.sign(signing, "image/png", io.BytesIO(picture()), out)
    return out.getvalue()


def rendered(folder: Path, data: bytes, post: Post, **facts) -> dict[str, RenderedFile]:
    Store(folder).prepare()
    (folder / "source").write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    request = RenderRequest(
        spool=Store(folder).spool, source=str(folder / "source"), sha256=sha256, embed=post.embed, sign=post.sign,
        source_type=post.source_type, provenance=replace(FACTS, sha256=sha256, **facts),
        outputs=[output.spec for output in outputs_of(post, "fox", "png", "shop")],
    )  # fmt: skip
    made = render(RenderRequest.from_json(asdict(request)))
    return {file.path.split("/")[1]: file for file in made if file.format != "xmp"}


def read(data: bytes, kind: str) -> tuple[str | None, dict]:
    """(state, all that the reader says)"""
    with (
        c2pa.Context.from_dict(OFFLINE) as context,
        c2pa.Reader(f"image/{kind}", io.BytesIO(data), context=context) as reader,
    ):
        return reader.get_validation_state(), json.loads(reader.json())


def active(found: dict) -> dict:
    return found["manifests"][found["active_manifest"]]


def test_every_format_is_signed_with_the_original_as_its_parent_and_valid(tmp_path):
    for name, file in rendered(tmp_path, picture(), Post(derivatives=(*EVERY, COPY), sign=True)).items():
        assert file.state == "made", file.message
        kind = "png" if name == "original" else name
        data = Path(file.file).read_bytes()
        state, found = read(data, kind)
        manifest = active(found)
        assert (state, manifest["signature_info"]["common_name"], manifest["title"]) == (
            "Valid", "Nordlicht", file.path.rpartition("/")[2],
        )  # fmt: skip
        assert [(one["title"], one["relationship"]) for one in manifest["ingredients"]] == [("fox.png", "parentOf")]
        actions = next(one["data"]["actions"] for one in manifest["assertions"] if one["label"] == "c2pa.actions.v2")
        done = ["edited.metadata"] if name == "original" else ["resized", "transcoded"]
        assert [one["action"] for one in actions] == [f"c2pa.{each}" for each in ("opened", *done)]
        assert actions[-1]["digitalSourceType"] == provenance.SOURCE_TYPES + "trainedAlgorithmicMedia"
        Image.open(io.BytesIO(data)).load()


@pytest.mark.parametrize("name", ["webp", "original"])
def test_the_vendors_manifest_goes_along_and_is_not_called_lost(tmp_path, name):
    post = Post(derivatives=(EVERY[0], COPY), sign=True)
    kind = "png" if name == "original" else name
    data = Path(rendered(tmp_path, of_a_vendor(), post)[name].file).read_bytes()
    state, found = read(data, kind)
    assert state == "Valid"
    (parent,) = active(found)["ingredients"]
    theirs = found["manifests"][parent["active_manifest"]]
    assert (theirs["title"], theirs["signature_info"]["common_name"]) == ("theirs", "A vendor of models")
    assert parent["validation_results"]["activeManifest"]["failure"] == []
    xmp = containers.read_xmp(data, kind) or b""
    assert (b"DigitalSourceType" in xmp, b"OriginC2PA" in xmp) == (True, False)


def test_without_sign_the_copy_stays_as_it_came_and_a_webp_says_what_is_lost(tmp_path):
    files = rendered(tmp_path, original := of_a_vendor(), Post(derivatives=(EVERY[0], COPY)))
    assert Path(files["original"].file).read_bytes() == original
    assert b"OriginC2PA" in (containers.read_xmp(Path(files["webp"].file).read_bytes(), "webp") or b"")


def test_a_changed_pixel_and_a_changed_parent_are_seen(tmp_path):
    data = Path(rendered(tmp_path, picture(), Post(derivatives=(COPY,), sign=True))["original"].file).read_bytes()
    at = data.index(b"IDAT") + 12
    assert read(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], "png")[0] == "Invalid"
    theirs = of_a_vendor()
    at = theirs.index(b"IDAT") + 12
    broken = theirs[:at] + bytes([theirs[at] ^ 1]) + theirs[at + 1 :]
    file = rendered(tmp_path / "again", broken, Post(derivatives=(COPY,), sign=True))["original"]
    assert file.state == "made", file.message
    copy = Path(file.file).read_bytes()
    (parent,) = active(read(copy, "png")[1])["ingredients"]
    assert "assertion.dataHash.mismatch" in json.dumps(parent["validation_results"])


def test_a_manifest_that_an_original_only_links_to_is_not_fetched(tmp_path):
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        linked = of_a_vendor(f"http://127.0.0.1:{server.server_port}/theirs.c2pa")
        with contextlib.suppress(c2pa.C2paError), c2pa.Reader("image/png", io.BytesIO(linked)):
            pass
        assert asked == ["/theirs.c2pa"]  # by whoever does not forbid it
        file = rendered(tmp_path, linked, Post(derivatives=(COPY,), sign=True))["original"]
        server.shutdown()
    assert (file.state, asked) == ("made", ["/theirs.c2pa"])
    assert read(Path(file.file).read_bytes(), "png")[0] == "Valid"


@pytest.mark.parametrize(("embed", "emulated", "facts"), [
    ("none", False, None), ("none", True, {"Emulated"}), ("ids", False, {"Job", "Item", "OriginalSha256"}),
    ("full", False, {"Job", "Prompt"}),
])  # fmt: skip
def test_the_manifest_says_what_embed_asks_for_and_that_an_image_is_emulated(tmp_path, embed, emulated, facts):
    post = Post(derivatives=(COPY,), sign=True, embed=embed)
    data = Path(rendered(tmp_path, picture(), post, emulated=emulated)["original"].file).read_bytes()
    said = [one["data"] for one in active(read(data, "png")[1])["assertions"] if one["label"] == "batchgen.provenance"]
    assert said == [] if facts is None else facts <= set(said[0])
    assert ("Prompt" in str(said)) == (embed == "full")


@pytest.mark.parametrize(("name", "content", "why"), [
    ("KEY", None, "is to be signed, and BATCHGEN_C2PA_KEY_FILE is not set"),
    ("CERTIFICATE", None, "is to be signed, and BATCHGEN_C2PA_CERTIFICATE_FILE is not set"),
    ("KEY", b"", "the file of BATCHGEN_C2PA_KEY_FILE is not a private key in PEM"),
    ("KEY", OWN.chain, "the file of BATCHGEN_C2PA_KEY_FILE is not a private key in PEM"),
    ("KEY", OWN.key[:-60], "the file of BATCHGEN_C2PA_KEY_FILE is not a private key in PEM"),
    ("KEY", OWN.locked_key, "the key of BATCHGEN_C2PA_KEY_FILE asks for a passphrase: name one without"),
    ("KEY", VENDOR.key, "cannot be signed with BATCHGEN_C2PA_CERTIFICATE_FILE and BATCHGEN_C2PA_KEY_FILE: Signature: the sign"),
    ("CERTIFICATE", b"nothing", "cannot be signed with BATCHGEN_C2PA_CERTIFICATE_FILE and BATCHGEN_C2PA_KEY_FILE: "),
])  # fmt: skip
def test_what_is_wrong_with_certificate_or_key_is_said_and_never_shown(tmp_path, monkeypatch, name, content, why):
    if content is None:
        monkeypatch.delenv(f"BATCHGEN_C2PA_{name}_FILE")
    else:
        (tmp_path / "other.pem").write_bytes(content)
        monkeypatch.setenv(f"BATCHGEN_C2PA_{name}_FILE", str(tmp_path / "other.pem"))
    file = rendered(tmp_path, picture(), Post(derivatives=(COPY,), sign=True))["original"]
    assert (file.state, file.message.startswith(why)) == ("failed", True), file.message
    for secret in (*OWN.key.split(), *VENDOR.key.split(), *(content or b"").split()):
        assert len(secret) < 20 or secret.decode() not in file.message
