"""What can be wrong with an avatar. The messages may reach callers: they name files relative to the avatar, never full paths."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from avatar_kit.safe_files import FileProblem

MOST_SHOWN = 10  # an avatar with 5000 bad frames is described by the first few
LONGEST_PROBLEM = 500

log = logging.getLogger(__name__)


class AvatarError(Exception):
    """Base of the family.

    `problems` has one sentence for each thing that is wrong, printable and of at most `LONGEST_PROBLEM` characters; `str()` joins
    them. `status` is the name of the gRPC status that a service answers with.
    """

    status: ClassVar[str] = "FAILED_PRECONDITION"

    def __init__(self, problems: str | Sequence[str]) -> None:
        given = (problems,) if isinstance(problems, str) else problems
        self.problems: tuple[str, ...] = tuple(cut(one_line(problem), LONGEST_PROBLEM) for problem in given)
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


@contextmanager
def as_broken_avatar(what: str = "its files") -> Iterator[None]:
    """Raises BrokenAvatar in the place of whatever else the block raises; for code that reads an avatar's files.

    They come from anywhere and may hold anything, so this is the one place that ends what they do to their readers. `what`: the
    file, as messages name it. Of errors that nobody foresaw the message says no more than their kind, because their texts may be
    of any length and name folders of this machine; the log has the rest.
    """
    try:
        yield
    except AvatarError:
        raise
    except FileProblem as problem:
        raise BrokenAvatar(problem.of(what)) from None
    except MemoryError as error:
        raise BrokenAvatar(f"{what} cannot be read: there is not enough memory") from error
    except OSError as error:
        raise BrokenAvatar(f"{what} cannot be read: {error.strerror or type(error).__name__}") from error
    except Exception as error:
        log.info("%s cannot be read", what, exc_info=True)
        raise BrokenAvatar(f"{what} cannot be read: {type(error).__name__}") from error


def shown(value: object, limit: int = 60) -> str:
    """A value out of a file as messages show it: on one line, printable, at most `limit` characters. Never raises."""
    try:
        return cut(repr(value), limit)
    except Exception:  # a number of more digits than Python writes, lists in lists without end
        return f"a {type(value).__name__} too long to show"


def cut(text: str, limit: int) -> str:
    """The text, or its beginning."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def one_line(text: str) -> str:
    """The text with what can not be seen written as an escape: a file's name may hold anything, also what terminals obey."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def shortened(problems: Sequence[str], limit: int = MOST_SHOWN) -> list[str]:
    """The first `limit` problems, and how many more there are."""
    if len(problems) <= limit:
        return list(problems)
    return [*problems[:limit], f"and {len(problems) - limit} more like these"]
