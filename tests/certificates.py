"""Certificate authorities of a test, and certificates that they sign."""

from __future__ import annotations

import ipaddress
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_LASTS = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, in files of a folder."""

    cert: Path
    key: Path

    @property
    def serial(self) -> int:
        return x509.load_pem_x509_certificate(self.cert.read_bytes()).serial_number

    def replace_by(self, other: Certificate) -> None:
        """As whoever renews certificates does: each file at once, one after the other."""
        for ours, theirs in ((self.cert, other.cert), (self.key, other.key)):
            replace(ours, theirs.read_text())


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs certificates into `folder`."""

    folder: Path
    name: str = "authority of a test"
    _key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def file(self) -> Path:
        """Its own certificate, for those who trust it."""
        path = self.folder / f"{self.name.replace(' ', '-')}.pem"
        if not path.exists():
            ours = _named(self.name)
            built = _begun(ours, ours, self._key).add_extension(x509.BasicConstraints(True, None), critical=True)
            built = built.add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), False)
            built = built.add_extension(_SIGNS, critical=True)
            path.write_bytes(built.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return path

    def certify(self, *names: str, common_name: str = "a test") -> Certificate:
        """A certificate for these host names and addresses."""
        key, path = ec.generate_private_key(ec.SECP256R1()), self.folder / uuid.uuid4().hex
        built = _begun(_named(common_name), _named(self.name), key)
        if names:
            built = built.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), False)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        signed = built.add_extension(identifier, False).sign(self._key, hashes.SHA256())
        made = Certificate(path.with_suffix(".crt"), path.with_suffix(".key"))
        made.cert.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        made.key.write_bytes(_as_pem(key))
        made.key.chmod(0o600)
        return made


def replace(path: Path, content: str) -> None:
    """All at once, as a mounted Secret is replaced."""
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    draft.write_text(content)
    draft.chmod(0o600)
    draft.replace(path)


_SIGNS = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    crl_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


def _begun(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    built = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    built = built.serial_number(x509.random_serial_number())
    return built.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + _LASTS)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _as_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
