"""Finds secrets in what processes have written: by their shapes, so that no test need tell which ones it has made."""

from __future__ import annotations

import re

SHAPES = {
    "an API key": re.compile(r"ls_live_[0-9A-Za-z]{10}_[0-9A-Za-z]{20,}"),
    # Also the ticket of a gateway: JSON in base64, a dot, and a signature.
    "a token or a ticket": re.compile(r"eyJ[\w-]{20,}=*\.[\w-]{20,}"),
    # SHA-1 in base64.
    "a password for TURN": re.compile(r"(?<![\w+/])[A-Za-z0-9+/]{27}=(?![\w=])"),
    "the secret of a session or of a viewer": re.compile(r"/(?:sessions|whep)/[\w-]{32}(?![\w-])"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY"),
    "a password in an address": re.compile(r"\w+://[^\s/:@]*:[^\s/@]+@"),
}


def secrets_in(text: str) -> list[str]:
    """The kinds of secrets in a text, without the secrets."""
    return [name for name, shape in SHAPES.items() if shape.search(text)]
