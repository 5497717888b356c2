"""What is wrong with an avatar, as the status that callers see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from avatar_kit.errors import AvatarNotFound, AvatarReplaced, BrokenAvatar, InvalidAvatarId, shortened
from service_kit.errors import Aborted, FailedPrecondition, InvalidRequest, NotFound, Violation


@contextmanager
def avatar_errors_as_status() -> Iterator[None]:
    """Turns avatar errors of its block into INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION or ABORTED."""
    try:
        yield
    except InvalidAvatarId as error:
        raise InvalidRequest([Violation("model_id", str(error))]) from error
    except AvatarNotFound as error:
        raise NotFound(str(error)) from error
    except BrokenAvatar as error:
        raise FailedPrecondition("; ".join(shortened(error.problems))) from error
    except AvatarReplaced as error:
        raise Aborted("; ".join(shortened(error.problems))) from error
