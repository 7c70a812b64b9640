"""A certificate as C2PA wants it, of an authority that nobody knows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class Certificate(NamedTuple):
    """PEM: the chain, the key of its first, and the same key behind a passphrase."""

    chain: bytes
    key: bytes
    locked_key: bytes

    def write(self, folder: Path) -> dict[str, str]:
        """What the environment says of it."""
        (folder / "chain.pem").write_bytes(self.chain)
        (folder / "key.pem").write_bytes(self.key)
        return {
            "BATCHGEN_C2PA_CERTIFICATE_FILE": str(folder / "chain.pem"),
            "BATCHGEN_C2PA_KEY_FILE": str(folder / "key.pem"),
        }


def make_certificate(owner: str) -> Certificate:
    """Source: C2PA 2.2, 14.5.1 (certificate profile)."""
    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _builder("Authority of a test", "Authority of a test", authority)
    root = root.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    root = root.add_extension(_usage(signs_certificates=True), True)
    leaf = _builder(owner, "Authority of a test", own)
    leaf = leaf.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    leaf = leaf.add_extension(_usage(signs_certificates=False), True)
    leaf = leaf.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
    leaf = leaf.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), False)
    signed = [one.sign(authority, hashes.SHA256()).public_bytes(Encoding.PEM) for one in (leaf, root)]
    key, locked = (
        own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)
        for how in (NoEncryption(), BestAvailableEncryption(b"x"))
    )
    return Certificate(b"".join(signed), key, locked)


def _builder(owner: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now, day = datetime.now(UTC), timedelta(days=1)
    subject, by = (
        x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name), x509.NameAttribute(NameOID.COMMON_NAME, name)])
        for name in (owner, issuer)
    )
    return (
        x509.CertificateBuilder(by, subject, key.public_key(), x509.random_serial_number(), now - day, now + day)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    )  # fmt: skip


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        not signs_certificates, False, False, False, False, signs_certificates, signs_certificates, False, False
    )
