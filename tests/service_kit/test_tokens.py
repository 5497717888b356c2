"""Tokens of an issuer whose public keys are in a file: good ones, and what is refused."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from service_kit.callers.authority import Authority
from service_kit.callers.caller import Scope
from service_kit.callers.key_file import KeyFile, changing
from service_kit.listening import StartError

from .issued_tokens import AUDIENCE, BOTH, OTHER, RSA, Checked, claims, coded, section, signed, signed_with_curve, unsigned


@pytest.fixture(scope="module")
def jwks_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("jwks") / "jwks.json"
    path.write_text(BOTH)
    return path


@pytest.fixture
def checked(jwks_file: Path) -> Checked:
    return Checked(section(jwks_file=jwks_file))


async def test_a_token_gives_its_caller(checked: Checked) -> None:
    caller = await checked.caller(signed(claims(avatars=["anna-*"])))
    assert (caller.name, caller.scopes, caller.avatars) == ("alice", {Scope.INFER, Scope.READ}, ("anna-*",))
    assert (await checked.caller(signed_with_curve(claims()))).avatars == ("*",)
    assert (await checked.caller(signed(claims(scope=None, scp=["read", "openid", 5])))).scopes == {Scope.READ}
    assert (await checked.caller(signed(claims(scope=None)))).scopes == set()
    assert (await checked.caller(signed(claims(aud=["another", AUDIENCE])))).name == "alice"


async def test_a_token_may_hold_the_limits_of_its_caller(checked: Checked) -> None:
    limits = {"sessions": 4, "loads_per_hour": None}
    assert dict((await checked.caller(signed(claims(limits=limits)))).limits) == limits
    assert (await checked.caller(signed(claims()))).limits == ()
    for wrong in ([], "sessions=4", {"sessions": -1}, {"sessions": 0.5}, {"sesions": 4}, {"names": "*"}):
        assert "form" in await checked.refusal(signed(claims(limits=wrong)))


async def test_scopes_may_have_a_prefix(jwks_file: Path) -> None:
    checked = Checked(section(jwks_file=jwks_file, scope_prefix="lipsync:"))
    assert (await checked.caller(signed(claims(scope="lipsync:infer admin lipsync:root")))).scopes == {Scope.INFER}


async def test_expiry_allows_for_clocks_that_differ(jwks_file: Path) -> None:
    checked = Checked(section(jwks_file=jwks_file, leeway_seconds=60))
    await checked.caller(signed(claims(exp=time.time() - 30)))
    assert await checked.refusal(signed(claims(exp=time.time() - 90))) == "the token has expired"


PEM = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def with_public_key_as_secret(secret: bytes, kid: str = "r1") -> str:
    """The classic confusion: the public key, which everybody has, as the secret of HS256."""
    text = unsigned({"alg": "HS256", "kid": kid}, claims())
    return f"{text}.{coded(hmac.digest(secret, text.encode(), hashlib.sha256))}"


@pytest.mark.parametrize(
    "token",
    [
        signed(claims(), key=OTHER),
        signed(claims(), kid="nobody"),
        signed(claims(), kid=None),
        signed(claims(), kid=["r1"]),
        signed(claims(), kid="../../etc/passwd"),
        signed(claims(), kid="r" * 1000),
        signed(claims(), alg="none"),
        signed(claims(), alg="RS512"),
        signed(claims(), alg="ES256"),
        signed(claims(), crit=["b64"], b64=False),
        signed(claims(), kid="e1"),
        f"{unsigned({'alg': 'none', 'kid': 'r1'}, claims())}.",
        f"{unsigned({'alg': 'nOnE', 'kid': 'r1'}, claims())}.",
        with_public_key_as_secret(PEM),
        with_public_key_as_secret(b"s" * 32, "s1"),
        signed(claims(iss="https://evil.example")),
        signed(claims(iss=None)),
        signed(claims(aud="another")),
        signed(claims(aud=None)),
        signed(claims(aud=[])),
        signed(claims(exp=None)),
        signed(claims(exp="never")),
        signed(claims(exp=float("inf"))),
        signed(claims(nbf=time.time() + 3600)),
        signed(claims(sub=None)),
        signed(claims(sub="")),
        signed(claims(sub=5)),
        signed(claims(sub="a\nb")),
        signed(claims(sub="a" * 200)),
        signed(claims(avatars="demo")),
        signed(claims(avatars=["a/b"])),
        signed(claims(avatars={})),
        signed(claims()) + "A",
        signed(claims())[:-8],
        signed(claims()).replace(".", "..", 1),
        "a.b.c",
        "....",
        "eyJhbGciOiJSUzI1NiIsImtpZCI6InIxIn0.e30.",
        signed(claims(padding="x" * 9000)),
    ],
    ids=range(39),
)
async def test_what_is_no_good_token_is_refused(checked: Checked, token: str) -> None:
    message = await checked.refusal(token)
    assert "alice" not in message
    assert token not in message


@given(st.text("abcABC012.-_=", max_size=200) | st.binary(max_size=60).map(lambda data: ".".join([coded(data)] * 3)))
def test_any_text_is_refused(jwks_file: Path, text: str) -> None:
    asyncio.run(Checked(section(jwks_file=jwks_file)).refusal(text))


VALUES = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text())


@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jku", "jwk", "x5u"]), VALUES))
def test_any_header_is_refused_without_the_key(jwks_file: Path, header: dict[str, Any]) -> None:
    asyncio.run(Checked(section(jwks_file=jwks_file)).refusal(signed(claims(), key=OTHER, **header)))


async def test_a_revoked_caller_has_no_good_token(jwks_file: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    with changing(keys) as held:
        held[0] = KeyFile(revoked_callers=("alice",))
    given = section(jwks_file=jwks_file).model_copy(update={"keys_file": keys})
    assert "revoked" in await Checked(given).refusal(signed(claims()))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"audience": None}, "audience"),
        ({"issuer": None}, "issuer"),
        ({}, "jwks_url"),
        ({"jwks_url": "https://a.example/jwks", "jwks_file": "/nowhere"}, "jwks_url"),
        ({"jwks_file": "/nowhere"}, "jwks_file"),
    ],
)
def test_a_section_that_is_not_whole_ends_the_start(given: dict[str, Any], said: str) -> None:
    with pytest.raises(StartError, match=rf"auth\.jwt\.{said}"):
        Authority(section(**given))


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"keys": []}', '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', '{"keys": [5]}', "[" * 99_999],
    ids=range(7),
)
def test_a_file_without_public_keys_ends_the_start(tmp_path: Path, content: str) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(content)
    with pytest.raises(StartError, match=r"auth\.jwt\.jwks_file"):
        Authority(section(jwks_file=path))


@pytest.mark.parametrize(
    "url", ["http://issuer.example/jwks", "file:///etc/passwd", "ftp://a.example/", "https:///jwks", "jwks", ""]
)
def test_only_https_is_asked(url: str) -> None:
    with pytest.raises(ValueError, match="jwks_url"):
        section(jwks_url=url)
