"""Lets calls of a gRPC server in: who calls, and may that caller call this method? Ends the streams of revoked callers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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

    async def admit(self, path: str, metadata: Pairs, names: Sequence[str] | None = None) -> Caller | None:
        """Returns the caller of a method. `names`: those in the certificate; None: they are not known yet.

        Returns None where they are needed. Raises Unauthenticated or PermissionDenied.
        """
        scope = self._scopes.get(path, Scope.ADMIN)
        try:
            if names is None and self._authority.asks_certificate(metadata):
                return None
            caller = await self._authority.identify(metadata, names or ())
        except ServiceError:
            if scope is None:  # an open method may tell more to those who may read
                return NOBODY
            raise
        if scope is not None:
            caller.check(scope)
        return caller
