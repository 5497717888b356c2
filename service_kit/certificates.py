"""Reads certificates and keys in PEM files, and refuses those with which connections would fail later.

gRPC itself tells nothing but "Failed to bind" or "Handshake failed".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate

MAX_PEM_BYTES = 1 << 20
# OpenSSL, by which most clients check, takes no shorter keys of RSA, and no signatures with these.
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


@dataclass(frozen=True, slots=True)
class PemFile:
    """A file and the configuration key that names it, for messages."""

    key: str
    path: Path


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its chain, and its private key, both PEM. `expires_at`: Unix seconds."""

    certificate: bytes
    private_key: bytes = field(repr=False)
    expires_at: float


def read_pair(certificate: PemFile, private_key: PemFile) -> Pair:
    """Reads a certificate and its key. Raises CertificateError: unreadable, no PEM, expired, not one pair, not for gRPC."""
    problems: list[str] = []
    chain = key = b""
    with noted_in(problems):
        chain = _read(certificate)
        own = _certificates(certificate, chain)[0]
    with noted_in(problems):
        key = _read(private_key)
        secret = _private_key(private_key, key)
    if problems:
        raise CertificateError(problems)
    if problems := [*_kind_problems(certificate, own), *_time_problems(certificate, own)]:
        raise CertificateError(problems)
    if secret.public_key() != own.public_key():
        problem = f"{private_key.key}: the key in {private_key.path} is not that of the certificate in {certificate.path}"
        raise CertificateError([problem])
    return Pair(chain, key, own.not_valid_after_utc.timestamp())


def read_authorities(authorities: PemFile) -> bytes:
    """Reads certificates to trust, PEM. Raises CertificateError: unreadable, none, damaged, all out of date."""
    content = _read(authorities)
    of_each = [_time_problems(authorities, each) for each in _certificates(authorities, content)]
    if all(of_each):
        raise CertificateError(of_each[0])
    return content


def _read(file: PemFile) -> bytes:
    try:
        with file.path.open("rb") as opened:
            content = opened.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise CertificateError([f"{file.key}: {file.path} cannot be read: {error.strerror}"]) from None
    if len(content) > MAX_PEM_BYTES:
        raise CertificateError([f"{file.key}: {file.path} is larger than {MAX_PEM_BYTES >> 20} MiB, which no PEM file is"])
    if not content:
        raise CertificateError([f"{file.key}: {file.path} is empty"])
    return content


def _certificates(file: PemFile, content: bytes) -> list[Certificate]:
    """Returns one or more."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(content)
    except (ValueError, x509.InvalidVersion):
        has_some = b"-----BEGIN CERTIFICATE-----" in content
        holds = "holds a damaged certificate" if has_some else "holds no certificate in PEM form"
        raise CertificateError([f"{file.key}: {file.path} {holds}"]) from None


def _private_key(file: PemFile, content: bytes) -> PrivateKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(content, password=None)
    except TypeError:
        problem = f"{file.key}: the key in {file.path} is protected by a password; give one without"
    except (ValueError, UnsupportedAlgorithm):
        holds = "a damaged private key" if b"PRIVATE KEY-----" in content else "no private key in PEM form"
        problem = f"{file.key}: {file.path} holds {holds}"
    raise CertificateError([problem])


def _kind_problems(file: PemFile, certificate: Certificate) -> list[str]:
    """Names a key that gRPC's BoringSSL would take and then fail every handshake with, or that clients refuse."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    of = f"{file.key}: the certificate in {file.path}"
    try:
        key, signed = certificate.public_key(), certificate.signature_hash_algorithm
        usable = isinstance(key, RSAPublicKey | EllipticCurvePublicKey)
    except (ValueError, UnsupportedAlgorithm):
        usable = False
    if not usable:
        return [f"{of} has a key of a kind that gRPC cannot use; take EC (P-256) or RSA"]
    if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        return [f"{of} has a key of {key.key_size} bits; take EC (P-256), or RSA with at least {MIN_RSA_BITS}"]
    if signed is not None and signed.name in WEAK_HASHES:
        return [f"{of} is signed with {signed.name}, which clients do not trust; take sha256"]
    return []


def _time_problems(file: PemFile, certificate: Certificate) -> list[str]:
    now, first, last = datetime.now(UTC), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > last:
        return [f"{file.key}: the certificate in {file.path} expired on {_date(last)}"]
    if now < first:
        return [f"{file.key}: the certificate in {file.path} is valid from {_date(first)} on; is the clock right?"]
    return []


def _date(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
