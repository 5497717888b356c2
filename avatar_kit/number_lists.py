"""Parses short lists of whole numbers from YAML, a command line or an environment variable."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"\s*-?\d{1,9}\s*", re.ASCII)


def whole_numbers(value: object, count: int) -> list[int] | None:
    """Returns the `count` numbers of `[1, 2]`, `"1,2"` or `"[1, 2]"`; None for anything else."""
    if isinstance(value, str):
        parts = value.strip().removeprefix("[").removesuffix("]").split(",")
        value = [int(part) for part in parts] if all(map(_NUMBER.fullmatch, parts)) else None
    if isinstance(value, list) and len(value) == count and all(type(number) is int for number in value):
        return value
    return None
