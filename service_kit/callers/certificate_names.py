"""Tells callers with certificates apart by the names in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
