"""Ends a sentence about an avatar that does not exist with those that do."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import grpc

from lipsync_cli.failures import CliError, answered
from lipsync_client import Client, LipsyncError

MOST_NAMED = 10


def refused(client: Client, server: str, avatar: str, error: LipsyncError) -> CliError:
    """Returns the error of a call for an avatar. If the server does not know it, the error names those that it has."""
    text = answered(server, error)
    return CliError(text + there_are(avatar, _known_to(client)) if error.code is grpc.StatusCode.NOT_FOUND else text)


def there_are(asked: str, known: Sequence[str]) -> str:
    """Returns the end of the sentence: the one that was probably meant, or the first ones. Nothing where there are none."""
    if near := difflib.get_close_matches(asked, known, 1):
        return f"; did you mean {near[0]!r}?"
    if not known:
        return ""
    more = ", ..." if len(known) > MOST_NAMED else ""
    return f"; there {'is' if len(known) == 1 else 'are'} {', '.join(known[:MOST_NAMED])}{more}"


def _known_to(client: Client) -> list[str]:
    try:
        return [avatar.id for avatar in client.list_avatars()]
    except LipsyncError:  # its caller may not ask, or it went away meanwhile: the first error counts
        return []
