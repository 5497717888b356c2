"""What is wrong with an avatar, as the error that a caller sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from avatar_kit.errors import AvatarNotFound, BrokenAvatar, InvalidAvatarId
from service_kit.errors import FailedPrecondition, InvalidRequest, NotFound, Violation


@contextmanager
def as_service_errors() -> Iterator[None]:
    """Turns avatar_kit's errors into InvalidRequest, NotFound and FailedPrecondition."""
    try:
        yield
    except InvalidAvatarId as error:
        raise InvalidRequest([Violation("model_id", str(error))]) from error
    except AvatarNotFound as error:
        raise NotFound(str(error)) from error
    except BrokenAvatar as error:
        raise FailedPrecondition(str(error)) from error
