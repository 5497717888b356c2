"""Which clients are served, by the names in the certificates that they present."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from service_kit.call_chain import Call, Context, Proceed
from service_kit.errors import PermissionDenied

ALTERNATIVE_NAMES, COMMON_NAME = "x509_subject_alternative_name", "x509_common_name"

MAX_SHOWN_CHARS = 200


class ClientNames:
    """Refuses calls of clients whose certificate bears none of the names. TLS has checked who signed it.

    Health checks and reflection pass, as their askers are many and learn nothing.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._allowed = frozenset(names)

    async def around(self, call: Call, proceed: Proceed) -> Any:
        """Runs the call of a client that may call."""
        if not call.method.is_infrastructure:
            self._check(call.context)
        return await proceed()

    def _check(self, context: Context) -> None:
        identity = context.auth_context()
        # Who signs certificates answers for the alternative names. The common name is what the client likes to be called.
        bytes_of_names = identity.get(ALTERNATIVE_NAMES) or identity.get(COMMON_NAME) or ()
        presented = [name.decode("utf-8", "replace") for name in bytes_of_names]
        if self._allowed.isdisjoint(presented):
            names = ", ".join(presented)[:MAX_SHOWN_CHARS] or "none"
            raise PermissionDenied(
                f"this client's certificate does not bear a name that may call this service; it bears: {names}"
            )
