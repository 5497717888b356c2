"""Errors about avatars. Their messages may reach callers, so they name files relative to the avatar, never by full path."""

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
    """Base class of the errors about avatars.

    `problems` has one printable sentence for each problem, of at most `LONGEST_PROBLEM` characters; `str()` joins them.
    `status` is the name of the gRPC status that a service answers with.
    """

    status: ClassVar[str] = "FAILED_PRECONDITION"

    def __init__(self, problems: str | Sequence[str]) -> None:
        given = (problems,) if isinstance(problems, str) else problems
        self.problems: tuple[str, ...] = tuple(cut(one_line(problem), LONGEST_PROBLEM) for problem in given)
        super().__init__("; ".join(self.problems))

    @property
    def caller_text(self) -> str:
        """Returns the first problems, short enough for a status."""
        return "; ".join(shortened(self.problems))


class InvalidAvatarId(AvatarError, ValueError):
    """The text cannot be an avatar's id. Also a ValueError, so that pydantic reports it for settings."""

    status = "INVALID_ARGUMENT"


class AvatarNotFound(AvatarError):
    """The id is well-formed, but no avatar has it."""

    status = "NOT_FOUND"


class AvatarExists(AvatarError):
    """An avatar of this id exists and must not be replaced."""


class AvatarReplaced(AvatarError):
    """The avatar's files were replaced after it was loaded. Loading it again serves the new ones."""

    status = "ABORTED"


class BrokenAvatar(AvatarError):
    """The avatar exists, but its files cannot be served until they are repaired."""


@contextmanager
def as_broken_avatar(what: str = "its files") -> Iterator[None]:
    """Raises BrokenAvatar instead of any other error in the block; for code that reads an avatar's files.

    The files come from anywhere and may hold anything. This is the one place that contains the errors they cause. `what`: the
    file, as messages name it. For an unexpected error the message gives only its type, because its text may be of any length
    and name folders of this machine; the log has the rest.
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
    """Formats a value from a file for messages: one printable line of at most `limit` characters. Never raises."""
    try:
        return cut(repr(value), limit)
    except Exception:  # a number with more digits than Python prints, or lists nested without end
        return f"a {type(value).__name__} too long to show"


def cut(text: str, limit: int) -> str:
    """Cuts the text to `limit` characters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def one_line(text: str) -> str:
    """Escapes unprintable characters: a file name may contain terminal control sequences."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def shortened(problems: Sequence[str]) -> list[str]:
    """Returns the first MOST_SHOWN problems, and a line with the number of the others."""
    if len(problems) <= MOST_SHOWN:
        return list(problems)
    return [*problems[:MOST_SHOWN], f"and {len(problems) - MOST_SHOWN} more like these"]
