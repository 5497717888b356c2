"""Reading certificates and keys: what is accepted, and what is said of the rest. openssl is the judge."""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service_kit.certificates import CertificateError, PemFile, read_authorities, read_pair

from .authority import DAY, Authority, Pair, openssl

Issue = Callable[..., Pair]


def read(pair: Pair) -> float:
    return read_pair(PemFile("tls.certificate_file", pair.certificate), PemFile("tls.key_file", pair.key)).expires_at


def problems(pair: Pair) -> tuple[str, ...]:
    with pytest.raises(CertificateError) as caught:
        read(pair)
    return caught.value.problems


@pytest.mark.parametrize(
    "algorithm",
    ["EC -pkeyopt ec_paramgen_curve:P-256", "EC -pkeyopt ec_paramgen_curve:P-384", "RSA -pkeyopt rsa_keygen_bits:2048"],
    ids=["p256", "p384", "rsa"],
)
@pytest.mark.parametrize("end", [DAY, timedelta(days=365 * 30)], ids=["two-digit-year", "four-digit-year"])
def test_the_end_of_a_certificate_is_what_openssl_says(issue: Issue, algorithm: str, end: timedelta) -> None:
    pair = issue(algorithm=algorithm, end=end)
    said = openssl(f"x509 -in {pair.certificate} -noout -enddate").removeprefix("notAfter=").strip()
    assert read(pair) == datetime.strptime(said, "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC).timestamp()


def test_old_forms_of_keys_and_text_around_them_are_read(issue: Issue, tmp_path: Path) -> None:
    pair = issue(algorithm="RSA -pkeyopt rsa_keygen_bits:2048")
    old = tmp_path / "old.key"
    openssl(f"rsa -traditional -in {pair.key} -out {old}")
    both = tmp_path / "both.pem"
    both.write_bytes("Ä comment\r\n".encode() + pair.certificate.read_bytes().replace(b"\n", b"\r\n") + old.read_bytes())
    assert read(Pair(both, both)) == read(Pair(pair.certificate, old)) == read(pair)


def test_a_key_is_in_no_text_that_a_log_could_get(authority: Authority) -> None:
    own = authority.pair("inference")
    pair = read_pair(PemFile("tls.certificate_file", own.certificate), PemFile("tls.key_file", own.key))
    assert pair.private_key == own.key.read_bytes()
    assert "PRIVATE KEY" not in repr(pair)


def test_each_problem_names_its_key_and_file(authority: Authority, stranger: Authority, issue: Issue, tmp_path: Path) -> None:
    good = authority.pair("inference")
    empty, folder, garbage = tmp_path / "empty", tmp_path / "folder", tmp_path / "garbage"
    empty.touch()
    folder.mkdir()
    garbage.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert problems(Pair(tmp_path / "none", empty)) == (
        f"tls.certificate_file: {tmp_path}/none cannot be read: No such file or directory",
        f"tls.key_file: {empty} is empty",
    )
    assert problems(Pair(good.key, folder)) == (
        f"tls.certificate_file: {good.key} holds no certificate in PEM form",
        f"tls.key_file: {folder} cannot be read: Is a directory",
    )
    assert problems(Pair(good.certificate, good.certificate)) == (
        f"tls.key_file: {good.certificate} holds no private key in PEM form",
    )
    assert problems(Pair(good.certificate, stranger.pair("inference").key)) == (
        f"tls.key_file: the key in {stranger.folder}/inference.key is not that of the certificate in {good.certificate}",
    )
    assert problems(Pair(garbage, good.key)) == (f"tls.certificate_file: {garbage} holds a damaged certificate",)
    garbage.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    assert problems(Pair(good.certificate, garbage)) == (f"tls.key_file: {garbage} holds a damaged private key",)


def test_dates_are_told(issue: Issue) -> None:
    [expired] = problems(issue(end=-timedelta(hours=1)))
    assert re.search(r"the certificate in .* expired on \d{4}-\d\d-\d\d \d\d:\d\d UTC$", expired)
    [early] = problems(issue(start=DAY, end=2 * DAY))
    assert "is valid from" in early


def test_keys_that_grpc_cannot_use_are_refused(issue: Issue, tmp_path: Path) -> None:
    [kind] = problems(issue(algorithm="ED25519"))
    assert kind.endswith("has a key of a kind that gRPC cannot use; take EC (P-256) or RSA")
    [short] = problems(issue(algorithm="RSA -pkeyopt rsa_keygen_bits:1024"))
    assert short.endswith("has a key of 1024 bits; take EC (P-256), or RSA with at least 2048")
    [weak] = problems(issue(digest="sha1"))
    assert weak.endswith("is signed with sha1, which clients do not trust; take sha256")
    pair = issue()
    locked = tmp_path / "locked.key"
    openssl(f"pkcs8 -topk8 -in {pair.key} -passout pass:secret -out {locked}")
    assert problems(Pair(pair.certificate, locked)) == (
        f"tls.key_file: the key in {locked} is protected by a password; give one without",
    )


def authorities(path: Path) -> bytes:
    return read_authorities(PemFile("tls.client_ca_file", path))


def test_a_bundle_of_authorities_needs_one_that_is_valid(authority: Authority, issue: Issue, tmp_path: Path) -> None:
    old = issue(end=-DAY).certificate
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(old.read_bytes() + "ä\n".encode() + authority.certificate.read_bytes())
    assert authorities(bundle) == bundle.read_bytes()
    with pytest.raises(CertificateError, match=r"tls\.client_ca_file: the certificate in .* expired on"):
        authorities(old)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("no PEM", "holds no certificate in PEM form"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds a damaged certificate"),
        ("x" * (2 << 20), "is larger than 1 MiB"),
    ],
    ids=["empty", "text", "damaged", "huge"],
)
def test_a_bundle_that_is_none(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "ca.crt"
    path.write_text(content)
    with pytest.raises(CertificateError) as caught:
        authorities(path)
    assert says in str(caught.value)


@pytest.fixture(scope="module")
def der(authority: Authority) -> bytes:
    command = ["openssl", "x509", "-in", authority.pair("inference").certificate, "-outform", "DER"]
    return subprocess.run(command, check=True, capture_output=True).stdout


def test_a_version_that_there_is_not_is_damage(der: bytes, tmp_path: Path) -> None:
    assert der[8:13] == bytes([0xA0, 3, 2, 1, 2])  # version 3
    unknown = der[:12] + bytes([1]) + der[13:]
    path = tmp_path / "unknown.pem"
    path.write_bytes(b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(unknown) + b"-----END CERTIFICATE-----\n")
    with pytest.raises(CertificateError, match="damaged certificate"):
        authorities(path)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")  # of serial numbers below 1
@settings(max_examples=300)
@given(data=st.data())
def test_whatever_the_bytes_are_the_answer_is_a_sentence(
    der: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Certificates with some bytes changed: OpenSSL takes many of them."""
    changed = bytearray(der)
    for place in data.draw(st.lists(st.integers(0, len(der) - 1), min_size=1, max_size=3)):
        changed[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed.pem"
    path.write_bytes(b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(changed) + b"-----END CERTIFICATE-----\n")
    try:
        said = [authorities(path)]
    except CertificateError as error:
        said = [problem.startswith("tls.client_ca_file: ") for problem in error.problems]
    assert said
    assert all(said)
