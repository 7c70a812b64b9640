"""Signs a derivative with a C2PA manifest and the user's own certificate, with the original as its parent.

Certificate and key are only named by the process's environment, never by a manifest or a `.env` beside one: nobody
else's folder decides what is signed with them, and they are not passed between processes. Nothing is requested from the
network: no time stamp, no revocation list, and no manifest that an original only links to. Source: C2PA 2.2, 10
(claims, ingredients) and 18.15 (actions); c2pa-python 0.38, `Builder` and `Signer`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from batchgen.derivatives import provenance
from batchgen.derivatives.specification import MISSING_C2PA, OutputSpec, RenderRequest
from batchgen.sanitize import redact_secrets
from batchgen.settings import environment

CERTIFICATE_VARIABLE, KEY_VARIABLE = "BATCHGEN_C2PA_CERTIFICATE_FILE", "BATCHGEN_C2PA_KEY_FILE"
ASSERTION = "batchgen.provenance"
SETTINGS = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": False},
    "builder": {"thumbnail": {"enabled": False}},
}
CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


def sign(data: bytes, kind: str, original: bytes, original_kind: str, definition: dict[str, Any]) -> bytes:
    """The file with a signed manifest. kind: webp, avif, jpeg, png or gif. definition: from `manifest_definition`.
    Raises ValueError, which says what is wrong with certificate or key and never contains either."""
    try:
        import c2pa  # an extra, and 0.1 s
    except ImportError:
        raise ValueError(MISSING_C2PA) from None
    certificates, key = (_read_pem(name) for name in (CERTIFICATE_VARIABLE, KEY_VARIABLE))
    parent = {"title": definition["parent"], "relationship": "parentOf"}
    try:
        info = c2pa.C2paSignerInfo(_algorithm(key), certificates, key, None)
        with (
            c2pa.Context.from_dict(SETTINGS) as context,
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(definition["claim"], context=context) as builder,
        ):
            builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
            builder.add_ingredient(parent, f"image/{original_kind}", io.BytesIO(original))
            for action in definition["actions"]:
                builder.add_action(action)
            signed = io.BytesIO()
            builder.sign(signer, f"image/{kind}", io.BytesIO(data), signed)
            return signed.getvalue()
    except c2pa.C2paError as error:
        secrets = [line for line in key.decode(errors="replace").splitlines() if not line.startswith("-----")]
        why = redact_secrets(str(error), filter(None, secrets))[:300]
        raise ValueError(f"cannot be signed with {CERTIFICATE_VARIABLE} and {KEY_VARIABLE}: {why}") from None


def signing_problem() -> str:
    """Why nothing can be signed, found out by signing something; empty if it works."""
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "PNG")
    try:
        sign(image.getvalue(), "png", image.getvalue(), "png", {"claim": {"title": ""}, "actions": [], "parent": ""})
    except ValueError as error:
        return str(error)
    return ""


def manifest_definition(request: RenderRequest, spec: OutputSpec, size_changed: bool) -> dict[str, Any]:
    """The contents of a file's manifest: claim, actions, and the name of its parent."""
    facts = provenance.described_properties(request.provenance, request.embed)
    if request.provenance.emulated:
        facts["Emulated"] = True
    name, _, version = request.provenance.generator.partition(" ")
    claim = {
        "title": spec.path.rpartition("/")[2],
        "claim_generator_info": [{"name": name, "version": version}],
        "assertions": [{"label": ASSERTION, "data": facts}] if facts else [],
    }
    source_type = provenance.SOURCE_TYPES + request.source_type
    actions = [
        {"action": f"c2pa.{action}", "digitalSourceType": source_type} for action in _actions(spec, size_changed)
    ]
    return {"claim": claim, "actions": actions, "parent": request.provenance.file}


def _actions(spec: OutputSpec, size_changed: bool) -> Iterator[str]:
    if spec.format == "original":
        yield "edited.metadata"
        return
    if spec.cutout:
        yield "edited"
    if spec.crop:
        yield "cropped"
    if size_changed:
        yield "resized"
    yield "transcoded"


def _read_pem(name: str) -> bytes:
    """The contents of a PEM file. Raises ValueError."""
    path = environment().get(name)
    if not path:
        raise ValueError(f"is to be signed, and {name} is not set: it names a file in PEM")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{name}: {path} cannot be read: {error.strerror}") from None


def _algorithm(key: bytes) -> str:
    """The signature algorithm for a key, by C2PA's name. Raises ValueError."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # it comes with c2pa-python
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # as above

    try:
        found = load_pem_private_key(key, password=None)
    except TypeError:
        raise ValueError(f"the key of {KEY_VARIABLE} asks for a passphrase: name one without") from None
    except Exception:  # the error may quote the file
        raise ValueError(f"the file of {KEY_VARIABLE} is not a private key in PEM that can be read") from None
    if isinstance(found, ec.EllipticCurvePrivateKey) and found.curve.name in CURVES:
        return CURVES[found.curve.name]
    if isinstance(found, rsa.RSAPrivateKey):
        return "ps256"
    if isinstance(found, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise ValueError(
        f"the key of {KEY_VARIABLE} is of a kind that C2PA does not sign with: take one of P-256, RSA or Ed25519"
    )
