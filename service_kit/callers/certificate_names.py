"""Names callers: by the names in their certificates, where nothing else tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from service_kit.callers.caller import current
from service_kit.errors import PermissionDenied

if TYPE_CHECKING:
    import grpc.aio

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in the stubs alone

_MAX_SHOWN_CHARS = 200


def names_in(certificate: Mapping[str, Any] | None) -> list[str]:
    """Returns the names in a client's certificate, as `ssl.SSLSocket.getpeercert` gives it; none without one.

    They are the alternative names. A certificate without any has its common name: a client may choose that as it likes, so it
    does not count beside names that the authority answers for.
    """
    if not certificate:
        return []
    alternative = [str(value) for _, value in certificate.get("subjectAltName", ())]
    common = [str(value) for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return alternative or common


def caller_of(context: Context) -> str:
    """Returns the caller's name; where nobody is asked for it, the first name in the certificate, or the address without one."""
    if name := current.get().name:
        return name
    return next(iter(names_of_peer(context)), "") or str(context.peer())


def names_of_peer(context: Context) -> list[str]:
    """Returns the names in the certificate of a gRPC client, whose signature TLS has checked; none without one."""
    identity = context.auth_context()
    # The authority answers for the alternative names. A client may choose any common name.
    encoded = identity.get("x509_subject_alternative_name") or identity.get("x509_common_name") or ()
    return [name.decode("utf-8", "replace") for name in encoded]


def check_peer(context: Context, allowed: frozenset[str]) -> None:
    """Raises PermissionDenied for a client whose certificate has none of the names."""
    names = names_of_peer(context)
    if allowed.isdisjoint(names):
        shown = ", ".join(names)[:_MAX_SHOWN_CHARS] or "none"
        raise PermissionDenied(f"this client's certificate has no name that may call this service; its names: {shown}")
