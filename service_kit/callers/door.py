"""Lets calls of a gRPC server in: who calls, and may that caller call this method? Ends the streams of revoked callers."""

from __future__ import annotations

from collections.abc import Mapping

from service_kit.callers.authority import Authority, Pairs
from service_kit.callers.caller import Caller, Scope
from service_kit.callers.revoking import RunningWork
from service_kit.errors import ServiceError

Scopes = Mapping[str, Scope | None]
"""The scope that each method needs, by its path, "/package.Service/Method"; None: it is open to all."""

NOBODY = Caller("", frozenset(), avatars=())


class Door:
    """Checks calls. A method that `scopes` does not name needs the scope admin."""

    def __init__(self, authority: Authority, scopes: Scopes) -> None:
        self._authority = authority
        self._scopes = scopes
        self.streams = RunningWork(authority)

    async def admit(self, path: str, metadata: Pairs) -> Caller:
        """Returns the caller of a method. Raises Unauthenticated or PermissionDenied."""
        scope = self._scopes.get(path, Scope.ADMIN)
        if scope is None:
            return await self._at_an_open_method(metadata)
        caller = await self._authority.identify(metadata)
        caller.check(scope)
        return caller

    async def _at_an_open_method(self, metadata: Pairs) -> Caller:
        """Returns the caller as far as it is known: an open method may tell more to those who may read."""
        try:
            return await self._authority.identify(metadata)
        except ServiceError:
            return NOBODY
