"""Reads certificates and keys in PEM files, and refuses those with which connections would fail later.

gRPC itself says nothing but "Failed to bind" or "Handshake failed". Import this only where TLS is on: `cryptography` takes 40 ms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from service_kit.sections import ClientTlsSection, TlsSection

MAX_PEM_BYTES = 1 << 20
# OpenSSL, with which most clients check, accepts no shorter RSA keys and no signatures with these hashes.
MIN_RSA_BITS = 2048
WEAK_HASHES = ("md5", "sha1")


class CertificateError(Exception):
    """The files cannot be used. `problems` has one sentence each, beginning with the configuration key."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@contextmanager
def noted_in(problems: list[str]) -> Iterator[None]:
    """Adds the problems of a CertificateError to the list and ends the block."""
    try:
        yield
    except CertificateError as error:
        problems += error.problems


class PemFile(NamedTuple):
    """A file and the configuration key that names it."""

    key: str
    path: Path

    def error(self, problem: str) -> CertificateError:
        """Returns the error with this problem alone."""
        return CertificateError([f"{self.key}: {problem}"])


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its chain, and its private key, both PEM. `expires_at`: Unix seconds."""

    certificate: bytes
    private_key: bytes = field(repr=False)
    expires_at: float


class Material(NamedTuple):
    """Checked contents of the files that a section names."""

    pair: Pair | None
    authorities: bytes | None


def read_material(section: TlsSection | ClientTlsSection, key: str) -> Material:
    """Reads and checks the files of a section, whose own key is `key`. Raises CertificateError with every problem."""

    def file(name: str) -> PemFile | None:
        path: Path | None = getattr(section, name)
        return PemFile(f"{key}.{name}", path) if path else None

    is_server = isinstance(section, TlsSection)
    given = {name: file(name) for name in ("certificate_file", "key_file")}
    certificate, private_key = given.values()
    ca_file = file("client_ca_file" if is_server else "ca_file")
    problems = []
    if is_server or any(given.values()):
        why = "a server with TLS" if is_server else "a client that presents a certificate"
        problems += [f"{key}.{name}: not given, and {why} needs it" for name, path in given.items() if path is None]
    if isinstance(section, TlsSection) and section.allowed_client_names and ca_file is None:
        problems.append(f"{key}.client_ca_file: not given, and without it no client has the names to allow")
    pair = authorities = None
    with noted_in(problems):
        if certificate and private_key:
            pair = read_pair(certificate, private_key)
    with noted_in(problems):
        if ca_file:
            authorities = read_authorities(ca_file)
    if problems:
        raise CertificateError(problems)
    return Material(pair, authorities)


def read_pair(certificate: PemFile, private_key: PemFile) -> Pair:
    """Reads a certificate and its key. Raises CertificateError: unreadable, no PEM, expired, not one pair, not for gRPC."""
    problems: list[str] = []
    with noted_in(problems):
        chain = _read(certificate)
        own = _certificates(certificate, chain)[0]
    with noted_in(problems):
        key = _read(private_key)
        secret = _private_key(private_key, key)
    if problems:
        raise CertificateError(problems)
    _check_kind(certificate, own)
    _check_time(certificate, own)
    if secret.public_key() != own.public_key():
        raise private_key.error(f"the key in {private_key.path} is not that of the certificate in {certificate.path}")
    return Pair(chain, key, own.not_valid_after_utc.timestamp())


def read_authorities(authorities: PemFile) -> bytes:
    """Reads certificates to trust, PEM. Raises CertificateError: unreadable, none, damaged, all out of date."""
    content = _read(authorities)
    problems: list[str] = []
    certificates = _certificates(authorities, content)
    for each in certificates:
        with noted_in(problems):
            _check_time(authorities, each)
    if len(problems) == len(certificates):
        raise CertificateError(problems[:1])
    return content


def name_in(certificate: Path) -> str:
    """Returns a name that a certificate, PEM, is good for: a DNS name where it has one, else its common name."""
    own = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
    names: list[str] = []
    with suppress(x509.ExtensionNotFound):
        names = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    names += [str(each.value) for each in own.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return names[0].replace("*", "this") if names else ""


def _read(file: PemFile) -> bytes:
    try:
        with file.path.open("rb") as opened:
            content = opened.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise file.error(f"{file.path} cannot be read: {error.strerror}") from None
    if len(content) > MAX_PEM_BYTES:
        raise file.error(f"{file.path} is larger than {MAX_PEM_BYTES >> 20} MiB, which no PEM file is")
    if not content:
        raise file.error(f"{file.path} is empty")
    return content


def _certificates(file: PemFile, content: bytes) -> list[x509.Certificate]:
    """Returns one or more."""
    try:
        return x509.load_pem_x509_certificates(content)
    except (ValueError, x509.InvalidVersion):
        some = b"-----BEGIN CERTIFICATE-----" in content
        raise file.error(f"{file.path} holds {'a damaged certificate' if some else 'no certificate in PEM form'}") from None


def _private_key(file: PemFile, content: bytes) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(content, password=None)
    except TypeError:
        raise file.error(f"the key in {file.path} is protected by a password; give one without") from None
    except (ValueError, UnsupportedAlgorithm):
        some = b"PRIVATE KEY-----" in content
        raise file.error(f"{file.path} holds {'a damaged private key' if some else 'no private key in PEM form'}") from None


def _check_kind(file: PemFile, certificate: x509.Certificate) -> None:
    """Refuses keys with which gRPC's BoringSSL fails every handshake although it takes them, and those that clients refuse."""
    key = signed = None
    with suppress(ValueError, UnsupportedAlgorithm):
        key, signed = certificate.public_key(), certificate.signature_hash_algorithm
    if not isinstance(key, RSAPublicKey | EllipticCurvePublicKey):
        raise file.error(f"the certificate in {file.path} has a key of a kind that gRPC cannot use; take EC (P-256) or RSA")
    if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        advice = f"take EC (P-256), or RSA with at least {MIN_RSA_BITS}"
        raise file.error(f"the certificate in {file.path} has a key of {key.key_size} bits; {advice}")
    if signed is not None and signed.name in WEAK_HASHES:
        raise file.error(f"the certificate in {file.path} is signed with {signed.name}, which clients do not trust; take sha256")


def _check_time(file: PemFile, certificate: x509.Certificate) -> None:
    now, first, last = datetime.now(UTC), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > last:
        raise file.error(f"the certificate in {file.path} expired on {last:%Y-%m-%d %H:%M} UTC")
    if now < first:
        raise file.error(f"the certificate in {file.path} is valid from {first:%Y-%m-%d %H:%M} UTC on; is the clock right?")
