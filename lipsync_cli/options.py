"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:  # commands import it when they run
    from lipsync_client import Quality, TlsOptions

DEFAULT_MODELS_ROOT = Path("models")
DEFAULT_SERVER = "localhost:50052"

ModelsRoot = Annotated[Path, typer.Option("--models-root", metavar="DIR", help="The folder of the avatars.")]

Server = Annotated[str, typer.Option("--server", metavar="HOST:PORT", help="The compositing service.")]

Tls = Annotated[bool, typer.Option("--tls", help="Connect with TLS; the next four options imply it.")]
TlsAuthorities = Annotated[
    Path | None,
    typer.Option("--ca", metavar="FILE", help="Authorities that sign the server's certificate, PEM; default the public ones."),
]
TlsCertificate = Annotated[
    Path | None, typer.Option("--cert", metavar="FILE", help="The client's certificate, PEM, for servers that ask for one.")
]
TlsKey = Annotated[Path | None, typer.Option("--key", metavar="FILE", help="Its private key, PEM.")]
TlsServerName = Annotated[
    str | None, typer.Option("--server-name", metavar="NAME", help="The name in the server's certificate, if not the host.")
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option("--api-key-file", metavar="FILE", help="A file with an API key; default the variable LIPSYNC_API_KEY."),
]


def api_key(file: Path | None) -> str | None:
    """Returns the API key in a file or in the environment, neither of which a list of processes shows. Raises BadParameter."""
    from lipsync_client.headers import checked_key

    try:
        text = os.environ.get("LIPSYNC_API_KEY", "") if file is None else file.read_text("ascii")
        checked_key(text.strip())
    except (OSError, ValueError):
        where = "LIPSYNC_API_KEY" if file is None else str(file)
        raise typer.BadParameter(f"{where} does not hold one API key and nothing else", param_hint="--api-key-file") from None
    return text.strip() or None


def tls_options(
    tls: bool, *, ca: Path | None, certificate: Path | None, key: Path | None, server_name: str | None
) -> TlsOptions | None:
    """Reads the options for TLS. None means plaintext."""
    from lipsync_client import TlsOptions

    given = TlsOptions(ca_file=ca, certificate_file=certificate, key_file=key, server_name=server_name)
    return given if tls or given != TlsOptions() else None


def parse_quality(text: str | None) -> Quality | None:
    """Reads a number or the name of a preset. Raises BadParameter."""
    from lipsync_client.requests import check_output

    quality = cast("Quality | None", int(text) if text and text.isdecimal() else text)
    try:
        check_output(quality, "jpeg")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--quality") from None
    return quality


def check_suffix(path: Path, suffix: str, option: str) -> None:
    """Raises BadParameter for a file whose name does not fit its content."""
    if path.suffix.lower() != suffix:
        raise typer.BadParameter(f"{path} does not end in {suffix}", param_hint=option)
