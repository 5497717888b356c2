from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from avatar_kit.errors import AvatarError, InvalidAvatarId
from avatar_kit.ids import AvatarId, check_avatar_id, is_avatar_id


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True))
def test_every_id_of_the_rule_is_accepted(text: str) -> None:
    assert check_avatar_id(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc",
        "a\\b",
        "a b",
        "-a",
        "_a",
        ".hidden",
        "a\n",
        "\na",
        "a\0",
        "é",
        "a" * 65,
        "x" * 10_000,
        "٣",
        "a:b",
    ],
    ids=repr,
)
def test_what_is_no_id_is_refused_without_echoing_it_at_length(text: str) -> None:
    assert not is_avatar_id(text)
    with pytest.raises(InvalidAvatarId) as caught:
        check_avatar_id(text)
    assert isinstance(caught.value, AvatarError)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["é", "٣", "ädam", "a b", "名前"])
def test_what_can_be_seen_is_shown_as_it_is(text: str) -> None:
    with pytest.raises(InvalidAvatarId, match=f"^'{text}' is not an avatar id"):
        check_avatar_id(text)


@given(st.text())
def test_an_accepted_id_is_one_plain_component_of_a_path(text: str) -> None:
    if is_avatar_id(text):
        assert text not in {"", ".", ".."}
        assert not set(text) & set("/\\\0:")
        assert len(text) <= 64


def test_settings_report_a_bad_id_as_a_value() -> None:
    with pytest.raises(ValidationError, match="not an avatar id"):
        TypeAdapter(AvatarId).validate_python("../x")
