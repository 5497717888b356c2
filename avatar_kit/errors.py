"""What can be wrong with an avatar. The messages may reach callers: they name files relative to the avatar, never full paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

MOST_SHOWN = 10  # an avatar with 5000 bad frames is described by the first few


class AvatarError(Exception):
    """Base of the family. `problems` has one sentence for each thing that is wrong; `str()` joins them.

    `status` is the name of the gRPC status that a service answers with.
    """

    status: ClassVar[str] = "FAILED_PRECONDITION"

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("; ".join(self.problems))

    @property
    def caller_text(self) -> str:
        """The first problems, short enough for a status."""
        return "; ".join(shortened(self.problems))


class InvalidAvatarId(AvatarError, ValueError):
    """The text can not be the id of any avatar. Also a ValueError, so that settings validate with it."""

    status = "INVALID_ARGUMENT"


class AvatarNotFound(AvatarError):
    """A well-formed id that no avatar bears."""

    status = "NOT_FOUND"


class AvatarExists(AvatarError):
    """An avatar of this id is there and was not to be replaced."""


class AvatarReplaced(AvatarError):
    """The avatar's files are no longer those that it was loaded from. Loaded again, it serves the ones that are there now."""

    status = "ABORTED"


class BrokenAvatar(AvatarError):
    """The avatar is there, but its files can not be served until somebody mends them."""


def one_line(text: str) -> str:
    """The text with what can not be seen written as an escape: a file's name may hold anything, also what terminals obey."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def shortened(problems: Sequence[str], limit: int = MOST_SHOWN) -> list[str]:
    """The first `limit` problems, and how many more there are."""
    if len(problems) <= limit:
        return list(problems)
    return [*problems[:limit], f"and {len(problems) - limit} more like these"]
