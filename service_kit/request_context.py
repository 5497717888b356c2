"""Identifies the request that the running code serves. The interceptor sets it; log lines and calls to other services read it.

A new task inherits it, a thread pool does not: pass work on with `contextvars.copy_context().run`, or with `asyncio.to_thread`,
which does so itself.
"""

from __future__ import annotations

import re
import uuid
import zlib
from collections.abc import Mapping
from contextvars import ContextVar

REQUEST_ID_KEY = "x-request-id"
SESSION_ID_KEY = "x-session-id"
AVATAR_ID_KEY = "x-avatar-id"
TRACEPARENT_KEY = "traceparent"

request_id: ContextVar[str] = ContextVar("request_id", default="")
session_id: ContextVar[str] = ContextVar("session_id", default="")
avatar_id: ContextVar[str] = ContextVar("avatar_id", default="")
# The place in a trace, as W3C Trace Context writes it; `service_kit.tracing` sets it anew for each span.
traceparent: ContextVar[str] = ContextVar("traceparent", default="")
# The ids that travel with a request, by their keys in the metadata.
IDS = {REQUEST_ID_KEY: request_id, SESSION_ID_KEY: session_id, AVATAR_ID_KEY: avatar_id, TRACEPARENT_KEY: traceparent}
# True where info lines about this request are written; see logging.sample_rate.
sampled: ContextVar[bool] = ContextVar("sampled", default=True)

# Callers' ids are copied into logs and headers: nothing in them may break a line or a parser.
_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")


def new_request_id() -> str:
    """Returns a fresh id: 32 hexadecimal digits."""
    return uuid.uuid4().hex


def sane_id(text: str) -> bool:
    """Returns True for a caller's id that may be used: 1 to 128 letters, digits and ._:/+=@- alone."""
    return _SANE_ID.fullmatch(text) is not None


def take_over(ids: Mapping[str, str], *, sample_rate: int) -> str:
    """Sets the ids of the running code's request to those of `ids`, by their keys in the metadata, that are sane.

    Returns the request id, a fresh one if there is none. Info lines are written for one request of `sample_rate`.
    """
    for key, variable in IDS.items():
        value = ids.get(key, "")
        variable.set(value if sane_id(value) else "")
    identified = request_id.get() or new_request_id()
    request_id.set(identified)
    sampled.set(sample_rate == 1 or zlib.crc32(identified.encode()) % sample_rate == 0)
    return identified


def outgoing_metadata() -> tuple[tuple[str, str], ...]:
    """Returns metadata for a call to the next service: the ids that are set."""
    return tuple((key, value) for key, variable in IDS.items() if (value := variable.get()))
