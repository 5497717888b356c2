"""Checks avatar ids. An id becomes a folder's name, so it must not be able to form a path."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from avatar_kit.errors import InvalidAvatarId, shown

MAX_ID_LENGTH = 64
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHOWN_LENGTH = 60


def is_avatar_id(text: str) -> bool:
    """Returns True if `text` can be an id."""
    return _ID.fullmatch(text) is not None


def check_avatar_id(text: str) -> str:
    """Returns `text`; raises InvalidAvatarId if it cannot be an id. The message never repeats a long text."""
    if is_avatar_id(text):
        return text
    rule = f"1 to {MAX_ID_LENGTH} of A-Z a-z 0-9 . _ -, the first a letter or digit"
    if not text:
        raise InvalidAvatarId(f"the avatar id is empty; allowed: {rule}")
    more = f" ({len(text)} characters)" if len(text) > _SHOWN_LENGTH else ""
    raise InvalidAvatarId(f"{shown(text, _SHOWN_LENGTH)}{more} is not an avatar id; allowed: {rule}")


AvatarId = Annotated[str, AfterValidator(check_avatar_id)]
"""Type for settings: pydantic reports a bad id like any other bad value."""
