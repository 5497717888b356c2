"""What is wrong with an avatar, as the error that a caller sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from avatar_kit.errors import AvatarNotFound, AvatarReplaced, BrokenAvatar, InvalidAvatarId
from service_kit.errors import Aborted, FailedPrecondition, InvalidRequest, NotFound, Violation


class FilesReplaced(Aborted):
    """The avatar's files are not those that the caller, or the loaded avatar, has."""


@contextmanager
def as_service_errors() -> Iterator[None]:
    """Turns avatar_kit's errors into InvalidRequest, NotFound, FailedPrecondition and FilesReplaced."""
    try:
        yield
    except InvalidAvatarId as error:
        raise InvalidRequest([Violation("model_id", str(error))]) from error
    except AvatarNotFound as error:
        raise NotFound(str(error)) from error
    except BrokenAvatar as error:
        raise FailedPrecondition(str(error)) from error
    except AvatarReplaced as error:
        raise FilesReplaced(str(error)) from error
