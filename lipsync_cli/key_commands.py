"""The commands of API keys: `lipsync key`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lipsync_cli.failures import Command, complain

app = typer.Typer(help="Make, list and revoke the API keys of callers.", no_args_is_help=True)
command = partial(app.command, cls=Command)

KeysFile = Annotated[
    Path, typer.Option("--file", metavar="FILE", help="The services' auth.keys_file; it holds digests of keys, not the keys.")
]
DEFAULT_FILE = Path("keys.json")
COLUMNS = ("id", "caller", "scopes", "avatars", "limits", "created", "expires")


@command("create")
def create_command(
    caller: Annotated[str, typer.Argument(metavar="CALLER", help="The name of who calls: in logs, metrics and limits.")],
    file: KeysFile = DEFAULT_FILE,
    scopes: Annotated[
        list[str] | None, typer.Option("--scope", metavar="SCOPE", help="infer, read, admin, delegate; default infer and read.")
    ] = None,
    avatars: Annotated[
        list[str] | None, typer.Option("--avatar", metavar="PATTERN", help="Avatars that may be used, with * and ?; default all.")
    ] = None,
    limits: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="NAME=NUMBER", help="A quota of this caller, as sessions=4, or sessions=none."),
    ] = None,
    days: Annotated[
        float | None, typer.Option("--days", min=0, max=36_500, help="The key expires after so long; default never.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the key into a new file that only you can read.")
    ] = None,
) -> None:
    """Make a key and print it, once: nobody can show it again. A caller has two live ones at most."""
    from lipsync_cli.keys import create, new_secret_file

    valid = None if days is None else timedelta(days=days)
    with new_secret_file(out) as write:
        created = create(file, caller, scopes=scopes, avatars=avatars, valid=valid, limits=limits)
        write(created.text)
    where = f"{out} holds the key itself" if out else "Keep what follows, the key itself"
    complain(f"{file} has the key {created.id} of {caller}. {where}: it is shown this once.")
    if out is None:
        typer.echo(created.text)


@command("list")
def list_command(file: KeysFile = DEFAULT_FILE) -> None:
    """List the keys, without what would let one call."""
    from lipsync_cli.keys import listed
    from lipsync_cli.screen import table

    rows = listed(file, datetime.now(UTC))
    if rows:
        table(COLUMNS, rows)
    else:
        typer.echo("no keys")


@command("revoke")
def revoke_command(
    key_id: Annotated[str, typer.Argument(metavar="[ID]", help="The id of a key.")] = "",
    caller: Annotated[
        str, typer.Option("--caller", metavar="CALLER", help="Instead: all keys of a caller, and any other credential of theirs.")
    ] = "",
    file: KeysFile = DEFAULT_FILE,
) -> None:
    """Revoke a key, or a caller. The services that read the file refuse it, and end its sessions, within ten seconds."""
    from lipsync_cli.keys import revoke_caller, revoke_key

    if bool(key_id) == bool(caller):
        raise typer.BadParameter("give it, or --caller, and not both", param_hint="ID")
    if caller:
        revoke_caller(file, caller)
    else:
        revoke_key(file, key_id)
    typer.echo(f"revoked {caller or key_id}")


@command("services")
def services_command(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIRECTORY", help="Gets a folder for each service, and known/keys.json, their auth.keys_file."),
    ],
    shared_limits: Annotated[
        bool, typer.Option("--shared-limits", help="Also make a password for a Valkey server, and the file of its users.")
    ] = False,
) -> None:
    """Make the keys by which the services of a deployment know each other. What is there already stays."""
    from lipsync_cli.service_keys import make_service_keys

    made = make_service_keys(directory, shared_limits=shared_limits)
    for path in made:
        typer.echo(f"made {path}")
    if not made:
        typer.echo(f"everything is in {directory} already")
