"""Which request the running code serves: set by the first interceptor, read by log lines and by calls to other services.

A task inherits these when it is created, a thread pool does not: hand work over with `contextvars.copy_context().run`, or with
`asyncio.to_thread`, which does so itself.
"""

from __future__ import annotations

import re
import uuid
from contextvars import ContextVar

REQUEST_ID_KEY = "x-request-id"
SESSION_ID_KEY = "x-session-id"
AVATAR_ID_KEY = "x-avatar-id"

request_id: ContextVar[str] = ContextVar("request_id", default="")
session_id: ContextVar[str] = ContextVar("session_id", default="")
avatar_id: ContextVar[str] = ContextVar("avatar_id", default="")
# Whether info lines about this request are written; see logging.sample_rate.
sampled: ContextVar[bool] = ContextVar("sampled", default=True)

# Ids come from callers and go into logs and headers: nothing in them may break a line or a parser.
_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")


def new_request_id() -> str:
    """A fresh id: 32 hexadecimal digits."""
    return uuid.uuid4().hex


def sane_id(text: str) -> bool:
    """Whether a caller's id may be taken over: 1 to 128 letters, digits and ._:/+=@- and no other character."""
    return _SANE_ID.fullmatch(text) is not None


def outgoing_metadata() -> tuple[tuple[str, str], ...]:
    """The metadata by which the next service knows this request: what is set of request id, session id and avatar id."""
    known = ((REQUEST_ID_KEY, request_id.get()), (SESSION_ID_KEY, session_id.get()), (AVATAR_ID_KEY, avatar_id.get()))
    return tuple((key, value) for key, value in known if value)
