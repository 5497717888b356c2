"""The commands of live sessions: `lipsync talk` and `lipsync sessions`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from lipsync_cli.failures import EXIT_FAILED, Command, complain
from lipsync_cli.options import (
    DEFAULT_SERVER,
    ApiKeyFile,
    Server,
    Tls,
    TlsAuthorities,
    TlsCertificate,
    TlsKey,
    TlsServerName,
    api_key,
    check_suffix,
    parse_quality,
    tls_options,
)

app = typer.Typer(help="Show and end the live sessions of a server.", no_args_is_help=True)
command = partial(app.command, cls=Command)

Servers = Annotated[
    list[str] | None,
    typer.Option("--server", metavar="HOST:PORT", help=f"A compositing service; repeatable; default {DEFAULT_SERVER}."),
]


def talk_command(
    avatar: Annotated[str, typer.Option("--avatar", metavar="ID", help="The avatar that speaks.")],
    audio: Annotated[
        str, typer.Option("--audio", metavar="FILE|-|mic", help="A file, WAV or raw int16 from standard input, or a microphone.")
    ],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.mp4", help="Also write the film.")] = None,
    server: Server = DEFAULT_SERVER,
    quality: Annotated[
        str | None,
        typer.Option(
            "--quality",
            metavar="1-100|low|medium|high",
            help="JPEG quality, from which that of H.264 follows; default the server's own.",
        ),
    ] = None,
    output: Annotated[Literal["jpeg", "h264"], typer.Option("--output", help="The form in which frames come.")] = "jpeg",
    idle: Annotated[
        Literal["avatar", "rest", "stored", "none"], typer.Option("--idle", help="The picture while nobody speaks.")
    ] = "avatar",
    look_ahead: Annotated[
        int, typer.Option("--look-ahead", metavar="FRAMES", min=6, max=12, help="12 is exact; each less saves 40 ms.")
    ] = 12,
    cushion: Annotated[
        int, typer.Option("--cushion", metavar="MS", min=0, max=2000, help="Sound to wait for before a frame, against stalls.")
    ] = 0,
    half_rate: Annotated[
        bool, typer.Option("--allow-half-rate", help="Let an overloaded server repeat every second mouth.")
    ] = False,
    rate: Annotated[int, typer.Option("--rate", metavar="HZ", min=1, help="Of raw sound from standard input.")] = 16_000,
    session_id: Annotated[str, typer.Option("--session-id", metavar="ID", help="The session's id; default a new one.")] = "",
    tls: Tls = False,
    ca: TlsAuthorities = None,
    cert: TlsCertificate = None,
    key: TlsKey = None,
    server_name: TlsServerName = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Let an avatar speak live: stream sound in real time, and show how the frames come back."""
    from lipsync_cli.screen import live_figures, table
    from lipsync_cli.talking import TalkJob, talk
    from lipsync_client import SessionOptions

    if out is not None:
        check_suffix(out, ".mp4", "--out")
    job = TalkJob(
        avatar=avatar,
        audio=audio,
        options=SessionOptions(
            quality=parse_quality(quality),
            output=output,
            idle=idle,
            look_ahead_frames=look_ahead,
            cushion_ms=cushion,
            allow_half_rate=half_rate,
        ),
        out=out,
        server=server,
        tls=tls_options(tls, ca=ca, certificate=cert, key=key, server_name=server_name),
        api_key=api_key(api_key_file),
        raw_rate_hz=rate,
        session_id=session_id,
    )
    with live_figures(avatar) as show:
        figures = talk(job, show)
    table(("", ""), figures.rows(), title=str(out) if out else avatar)


@command("list")
def list_command(
    servers: Servers = None,
    tls: Tls = False,
    ca: TlsAuthorities = None,
    cert: TlsCertificate = None,
    key: TlsKey = None,
    server_name: TlsServerName = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """List the sessions of each server: who speaks, for how long, how late."""
    from lipsync_cli.screen import table
    from lipsync_cli.sessions import COLUMNS, listed

    options = tls_options(tls, ca=ca, certificate=cert, key=key, server_name=server_name)
    rows = [row for server in servers or [DEFAULT_SERVER] for row in listed(server, options, api_key(api_key_file))]
    if rows:
        table(COLUMNS, rows)
    else:
        typer.echo("no sessions")


@command("end")
def end_command(
    session_id: Annotated[str, typer.Argument(metavar="ID", help="The session's id.")],
    servers: Servers = None,
    tls: Tls = False,
    ca: TlsAuthorities = None,
    cert: TlsCertificate = None,
    key: TlsKey = None,
    server_name: TlsServerName = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """End a session at once. Its client sees CANCELLED, and ours does not resume. The exit code is 1 if there is none."""
    from lipsync_cli.sessions import ended

    options = tls_options(tls, ca=ca, certificate=cert, key=key, server_name=server_name)
    count = sum(ended(server, session_id, options, api_key(api_key_file)) for server in servers or [DEFAULT_SERVER])
    if not count:
        complain(f"error: there is no session {session_id!r}")
        raise typer.Exit(EXIT_FAILED)
    typer.echo(f"ended {session_id}")
