"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:  # commands import it when they run
    from lipsync_client import TlsOptions

DEFAULT_MODELS_ROOT = Path("models")

ModelsRoot = Annotated[Path, typer.Option("--models-root", metavar="DIR", help="The folder of the avatars.")]


Tls = Annotated[bool, typer.Option("--tls", help="Connect with TLS; the next four options imply it.")]
TlsAuthorities = Annotated[
    Path | None,
    typer.Option("--ca", metavar="FILE", help="Who may have signed the server's certificate, PEM; else the public ones."),
]
TlsCertificate = Annotated[
    Path | None, typer.Option("--cert", metavar="FILE", help="Own certificate, PEM, for servers that ask for one.")
]
TlsKey = Annotated[Path | None, typer.Option("--key", metavar="FILE", help="Its private key, PEM.")]
TlsServerName = Annotated[
    str | None, typer.Option("--server-name", metavar="NAME", help="The name in the server's certificate, if not the host.")
]


def tls_options(
    tls: bool, *, ca: Path | None, certificate: Path | None, key: Path | None, server_name: str | None
) -> TlsOptions | None:
    """What the options for TLS ask for; None: plaintext."""
    from lipsync_client import TlsOptions

    given = TlsOptions(ca_file=ca, certificate_file=certificate, key_file=key, server_name=server_name)
    return given if tls or given != TlsOptions() else None


def check_suffix(path: Path, suffix: str, option: str) -> None:
    """Refuses a file whose name would say something else than it holds."""
    if path.suffix.lower() != suffix:
        raise typer.BadParameter(f"{path} does not end in {suffix}", param_hint=option)
