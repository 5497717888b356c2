"""Lists and ends the live sessions of a server, for `lipsync sessions`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from lipsync_cli.failures import CliError, answered
from lipsync_client import Client, LipsyncError, RunningSession, TlsOptions

COLUMNS = ("server", "session", "avatar", "", ">running", ">spoken", ">frames", ">late", ">stalls", ">ahead", "in time")

Answer = TypeVar("Answer")


def listed(server: str, tls: TlsOptions | None, api_key: str | None = None) -> list[tuple[str, ...]]:
    """Returns a row of COLUMNS for each session, the oldest first. Raises CliError."""
    return [_row(server, session) for session in _ask(server, tls, api_key, Client.list_sessions)]


def ended(server: str, session_id: str, tls: TlsOptions | None, api_key: str | None = None) -> int:
    """Ends the sessions of this id, and returns their number. Raises CliError."""
    return _ask(server, tls, api_key, lambda client: client.end_session(session_id))


def _row(server: str, session: RunningSession) -> tuple[str, ...]:
    return (
        server,
        session.id,
        session.avatar,
        "speaks" if session.speaking else "idle",
        _duration(session.running_ms),
        _duration(session.speech_ms),
        str(session.frames),
        str(session.late_frames),
        str(session.stalls),
        f"{session.buffered_ms / 1000:.1f} s",
        "yes" if session.meets_realtime else "no",
    )


def _duration(ms: int) -> str:
    minutes, seconds = divmod(ms // 1000, 60)
    return f"{minutes}:{seconds:02}"


def _ask(server: str, tls: TlsOptions | None, api_key: str | None, question: Callable[[Client], Answer]) -> Answer:
    try:
        with Client(server, tls=tls, api_key=api_key) as client:
            return question(client)
    except ValueError as error:
        raise CliError(f"TLS: {error}") from None
    except LipsyncError as error:
        raise CliError(answered(server, error)) from error
