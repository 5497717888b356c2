"""The metadata that calls carry."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import grpc

from shared_proto.status_details import REQUEST_ID_KEY

AVATAR_KEY = "x-avatar-id"
SESSION_KEY = "x-session-id"
# Ids have at most 64 characters. The server refuses a much longer header before it can say what is wrong with it.
LONGEST_HEADER = 128

AUTHORIZATION_KEY = "authorization"

ApiKey = str | Callable[[], str] | None
Metadata = tuple[tuple[str, str | bytes], ...]


def new_id() -> str:
    """Makes an id for a request or a session, unlike any other."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Headers:
    """Metadata of one call, or the part of it that several calls share."""

    request_id: str = ""
    session_id: str = ""
    more: Metadata = ()
    avatar: str = ""
    credentials: grpc.CallCredentials | None = None
    api_key: ApiKey = field(default=None, repr=False)

    def of_call(self, avatar: str = "") -> Headers:
        """Returns those of one call. The avatar's id lets a load balancer keep an avatar where it is loaded."""
        return replace(self, avatar=avatar, request_id=self.request_id or new_id())

    def of_clip(self) -> Headers:
        """Returns those that the calls of one clip share."""
        return replace(self, session_id=self.session_id or new_id())

    def of_batch(self, avatar: str, first_frame: int) -> Headers:
        """Returns those of one call of a clip: a request id that the caller gave gets the first frame appended."""
        return replace(self, request_id=self.request_id and f"{self.request_id}/{first_frame}").of_call(avatar)

    def of_stream(self, avatar: str, number: int) -> Headers:
        """Returns those of one stream of a session: a request id that the caller gave gets the number of a later one appended."""
        later = self.request_id and number
        return replace(self, request_id=f"{self.request_id}/{number}" if later else self.request_id).of_call(avatar)

    def metadata(self) -> Metadata:
        """Returns the pairs for gRPC, without empty ones and those that no header can hold."""
        pairs = ((REQUEST_ID_KEY, self.request_id), (AVATAR_KEY, self.avatar), (SESSION_KEY, self.session_id))
        key = self.api_key() if callable(self.api_key) else self.api_key
        who = ((AUTHORIZATION_KEY, f"Bearer {key}"),) if key else ()
        return (*((key, value) for key, value in pairs if value and _fits_header(value)), *who, *self.more)


def checked_key(api_key: ApiKey) -> ApiKey:
    """Returns an API key that can be sent. Raises ValueError, which does not show it, for one with spaces or a line end."""
    if isinstance(api_key, str) and not re.fullmatch(r"[!-~]*", api_key):
        raise ValueError("the API key has characters that none has: is there a space or a line end?")
    return api_key


def _fits_header(value: str) -> bool:
    return len(value) <= LONGEST_HEADER and value.isascii() and value.isprintable()
