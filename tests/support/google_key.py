"""A service account's key file, as Google's console makes it, whose tokens come from a server of a test's choice."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

PROJECT = "shop-4711"


@functools.lru_cache(maxsize=1)
def _private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def key_file(folder: Path, base_url: str, name: str = "painter", **changed: object) -> Path:
    """base_url: of the server whose /token gives tokens. changed: facts of the file; None takes one out."""
    facts = {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": "9f8e7d",
        "private_key": _private_key(),
        "client_email": f"{name}@{PROJECT}.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": f"{base_url}/token",
        **changed,
    }
    path = folder / "key.json"
    path.write_text(json.dumps({fact: value for fact, value in facts.items() if value is not None}))
    return path
