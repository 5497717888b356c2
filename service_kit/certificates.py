"""Certificates and keys in PEM files: read, and checked so far that a connection cannot fail for what stands in them.

gRPC itself tells nothing but "Failed to bind" or "Handshake failed". Python's `ssl` says whether key and certificate belong
together, but not until when a certificate is valid: that is read from its DER.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

MAX_PEM_BYTES = 1 << 20

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----\s.*?\s-----END CERTIFICATE-----", re.DOTALL)
_PRIVATE_KEY = re.compile(
    rb"-----BEGIN (?P<kind>[A-Z ]*)PRIVATE KEY-----\s(?P<body>.*?)\s-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL
)
# What gRPC's BoringSSL signs handshakes with: RSA and EC. It would take an Ed25519 key and then fail every handshake.
_KEY_KINDS = (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01", b"\x2a\x86\x48\xce\x3d\x02\x01")
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18


class CertificateError(Exception):
    """The files cannot be used. `problems` has one sentence each, beginning with the configuration key."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


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
    """A certificate and its key. Raises CertificateError: unreadable, no PEM, expired, not one pair, not for gRPC."""
    problems: list[str] = []
    chain = _read(certificate, problems)
    key = _read(private_key, problems)
    own = _CERTIFICATE.search(chain) if chain else None
    if chain and own is None:
        problems.append(f"{certificate.key}: {certificate.path} holds no certificate in PEM form")
    if key:
        problems += _key_problems(private_key, key)
    if problems or own is None:
        raise CertificateError(problems)
    _check_pair(certificate, private_key)
    if (_read(certificate, problems), _read(private_key, problems)) != (chain, key):
        raise CertificateError([f"{certificate.key}: {certificate.path} or its key changed while it was read"])
    facts = _facts(certificate, own[0])
    if problems := [*_kind_problems(certificate, facts), *_time_problems(certificate, facts)]:
        raise CertificateError(problems)
    return Pair(chain, key, facts.not_after)


def read_authorities(authorities: PemFile) -> bytes:
    """Certificates to trust, PEM. Raises CertificateError: unreadable, none, damaged, all out of date."""
    problems: list[str] = []
    content = _read(authorities, problems)
    blocks = _CERTIFICATE.findall(content)
    if content and not blocks:
        problems.append(f"{authorities.key}: {authorities.path} holds no certificate in PEM form")
    if problems:
        raise CertificateError(problems)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=b"\n".join(blocks).decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError):
        raise CertificateError([f"{authorities.key}: {authorities.path} holds a damaged certificate"]) from None
    of_each = [_time_problems(authorities, _facts(authorities, block)) for block in blocks]
    if all(of_each):
        raise CertificateError(of_each[0])
    return content


def _read(file: PemFile, problems: list[str]) -> bytes:
    try:
        with file.path.open("rb") as opened:
            content = opened.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        problems.append(f"{file.key}: {file.path} cannot be read: {error.strerror}")
        return b""
    if len(content) > MAX_PEM_BYTES:
        problems.append(f"{file.key}: {file.path} is larger than {MAX_PEM_BYTES >> 20} MiB, which no PEM file is")
        return b""
    if not content:
        problems.append(f"{file.key}: {file.path} is empty")
    return content


def _key_problems(file: PemFile, content: bytes) -> list[str]:
    match = _PRIVATE_KEY.search(content)
    if match is None:
        return [f"{file.key}: {file.path} holds no private key in PEM form"]
    if b"ENCRYPTED" in match["kind"] or b"ENCRYPTED" in match["body"]:
        return [f"{file.key}: the key in {file.path} is protected by a password; give one without"]
    return []


def _check_pair(certificate: PemFile, private_key: PemFile) -> None:
    """Has OpenSSL load both."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate.path, private_key.path, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            problem = f"{private_key.key}: the key in {private_key.path} is not that of the certificate in {certificate.path}"
        else:
            reason = (error.reason or "damaged").lower().replace("_", " ")
            problem = f"{certificate.key}: {certificate.path} and the key in {private_key.path} cannot be used: {reason}"
        raise CertificateError([problem]) from None
    except OSError as error:
        raise CertificateError([f"{certificate.key}: {error.filename or certificate.path}: {error.strerror}"]) from None


@dataclass(frozen=True, slots=True)
class _Facts:
    """Of one certificate: when it is valid, in Unix seconds, and the object identifier of its key's algorithm."""

    not_before: float
    not_after: float
    key_kind: bytes


def _time_problems(file: PemFile, facts: _Facts) -> list[str]:
    now = time.time()
    if now > facts.not_after:
        return [f"{file.key}: the certificate in {file.path} expired on {_date(facts.not_after)}"]
    if now < facts.not_before:
        return [f"{file.key}: the certificate in {file.path} is valid from {_date(facts.not_before)} on; is the clock right?"]
    return []


def _kind_problems(file: PemFile, facts: _Facts) -> list[str]:
    if facts.key_kind in _KEY_KINDS:
        return []
    return [f"{file.key}: the certificate in {file.path} has a key of a kind that gRPC cannot use; take EC (P-256) or RSA"]


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _facts(file: PemFile, pem: bytes) -> _Facts:
    """Of a certificate that OpenSSL has taken. Raises CertificateError should its form be another than that of RFC 5280."""
    try:
        return _read_der(ssl.PEM_cert_to_DER_cert(pem.decode("ascii")))
    except (IndexError, ValueError):
        raise CertificateError([f"{file.key}: {file.path} holds a certificate of an unknown form"]) from None


def _read_der(der: bytes) -> _Facts:
    """Section 4.1 of RFC 5280."""
    fields = _elements(_elements(_elements(der)[0][1])[0][1])
    if fields[0][0] == 0xA0:  # the version, which the oldest certificates leave out
        fields = fields[1:]
    _serial, _signature, _issuer, validity, _subject, key = fields[:6]
    not_before, not_after = (_seconds(*each) for each in _elements(validity[1]))
    algorithm = _elements(_elements(key[1])[0][1])
    return _Facts(not_before, not_after, algorithm[0][1])


def _elements(der: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of each element in a row."""
    found = []
    place = 0
    while place < len(der):
        tag, length, place = der[place], der[place + 1], place + 2
        if length & 0x80:
            width = length & 0x7F
            length, place = int.from_bytes(der[place : place + width], "big"), place + width
        found.append((tag, der[place : place + length]))
        place += length
    return found


def _seconds(tag: int, content: bytes) -> float:
    """Unix seconds of a UTCTime, whose years end with 2049, or a GeneralizedTime."""
    digits = content.decode("ascii").removesuffix("Z")
    if tag == _UTC_TIME:
        digits = f"{'19' if digits[:2] >= '50' else '20'}{digits}"
    return datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()
