"""The form of API keys, and the one credential that a call may carry."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_kit.callers.credentials import MAX_CREDENTIAL_CHARS, credential_in
from service_kit.callers.keys import key_id_of, new_key
from service_kit.errors import Unauthenticated


def test_a_key_has_the_form_that_scanners_know() -> None:
    key = new_key()
    assert re.fullmatch(r"ls_live_[0-9A-Za-z]{10}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}", key.text)
    assert key_id_of(key.text) == key.id
    assert new_key() != key


@given(st.data())
def test_a_mistyped_key_is_none(data: st.DataObject) -> None:
    text = new_key().text
    place = data.draw(st.integers(0, len(text) - 1))
    typed = data.draw(st.characters(codec="utf-8").filter(lambda character: character != text[place]))
    assert key_id_of(text[:place] + typed + text[place + 1 :]) is None
    assert key_id_of(text[:place]) is None
    assert key_id_of(text + typed) is None


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert key_id_of(text) is None
    assert key_id_of(f"ls_live_{text}") is None


@pytest.mark.parametrize(
    "pairs",
    [
        [("authorization", "Bearer abc")],
        [("Authorization", "bearer  abc")],
        [("x-api-key", "abc"), ("x-request-id", "1")],
        [("X-API-Key", "abc")],
    ],
)
def test_a_credential_is_found(pairs: list[tuple[str, str]]) -> None:
    assert credential_in(pairs) == "abc"


@pytest.mark.parametrize(
    "pairs",
    [
        [("authorization", "Bearer abc"), ("authorization", "Bearer abc")],
        [("authorization", "Bearer abc"), ("AUTHORIZATION", "Bearer def")],
        [("authorization", "Bearer abc"), ("x-api-key", "abc")],
        [("x-api-key", "abc"), ("x-api-key", "def")],
        [("authorization", "Basic YWJj")],
        [("authorization", "abc")],
        [("authorization", "Bearerabc")],
        [("authorization", "Bearer ")],
        [("authorization", "Bearer a b")],
        [("authorization", "Bearer a,Bearer b")],
        [("x-api-key", "")],
        [("x-api-key", "abc\n")],
        [("x-api-key", "äbc")],
        [("x-api-key", b"abc")],
        [("x-api-key", "a" * (MAX_CREDENTIAL_CHARS + 1))],
    ],
)
def test_what_is_no_single_credential_is_refused(pairs: list[tuple[str, str | bytes]]) -> None:
    with pytest.raises(Unauthenticated):
        credential_in(pairs)


@given(st.lists(st.tuples(st.sampled_from(["authorization", "x-api-key", "x-other"]), st.text() | st.binary())))
def test_any_metadata_gives_one_credential_none_or_a_refusal(pairs: list[tuple[str, str | bytes]]) -> None:
    try:
        found = credential_in(pairs)
    except Unauthenticated:
        return
    carrying = [value for key, value in pairs if key != "x-other"]
    assert len(carrying) == (found is not None)
