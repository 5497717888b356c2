"""A caller, and what it may do. The interceptor or the middleware sets `current`; handlers ask it."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from service_kit.errors import PermissionDenied

ANONYMOUS = "anonymous"
REVOKED = "this caller was revoked"
"""The message with which a caller is refused whose name was revoked. Gateways know it among those about their own key."""


Limits = tuple[tuple[str, float | None], ...]


class Scope(StrEnum):
    """A kind of work that a caller may ask for."""

    INFER = "infer"
    """Frames and sessions."""
    READ = "read"
    """Lists of avatars and of the caller's own sessions."""
    ADMIN = "admin"
    """Loading, unloading, statistics, and the sessions of others."""
    DELEGATE = "delegate"
    """Calling in the name of others, as a gateway does. What they may do, it answers for."""


ALL_SCOPES = frozenset(Scope)


@dataclass(frozen=True, slots=True)
class Caller:
    """One who calls. `avatars`: patterns of the ids that it may use, with `*` and `?`. `key_id` is empty without an API key.

    `limits` are those of its credential, by the keys of a quota; they go before what the settings say. None: no limit.
    """

    name: str
    scopes: frozenset[Scope]
    avatars: tuple[str, ...] = ("*",)
    key_id: str = ""
    limits: Limits = ()
    stands: Callable[[Caller], bool] = field(default=lambda _: True, compare=False, repr=False)
    """Tells if the caller was not revoked meanwhile."""

    @property
    def is_revoked(self) -> bool:
        """True once the key or the caller was revoked. A credential that only expires revokes nothing."""
        return not self.stands(self)

    @property
    def is_known(self) -> bool:
        """False for a stranger: one who has not said who it is, where callers are asked."""
        return bool(self.scopes) and self.name != ANONYMOUS

    def may(self, scope: Scope) -> bool:
        """Tells if the caller has a scope."""
        return scope in self.scopes

    def may_use(self, avatar_id: str) -> bool:
        """Tells if the caller may use an avatar."""
        return "*" in self.avatars or any(fnmatchcase(avatar_id, pattern) for pattern in self.avatars)

    def check(self, scope: Scope) -> None:
        """Raises PermissionDenied for a scope that the caller does not have."""
        if scope not in self.scopes:
            raise PermissionDenied(f"this caller may not do that: it needs the scope {scope.value}")

    def check_avatar(self, avatar_id: str) -> None:
        """Raises PermissionDenied for an avatar that the caller may not use, the same whether it exists or not."""
        if not self.may_use(avatar_id):
            raise PermissionDenied("this caller may not use this avatar")


EVERYBODY = Caller("", ALL_SCOPES)
"""The caller while nobody is asked for a credential."""

current: ContextVar[Caller] = ContextVar("caller", default=EVERYBODY)
"""The caller of the running code's request."""


def check_avatar(avatar_id: str) -> None:
    """Raises PermissionDenied for an avatar that the running code's caller may not use."""
    current.get().check_avatar(avatar_id)
