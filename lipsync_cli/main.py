"""The `lipsync` command line. Commands import what they need when they run, so that help appears at once."""

from __future__ import annotations

import signal
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal, NoReturn

import typer

from lipsync_cli.avatar_commands import app as avatar_app
from lipsync_cli.bench_commands import app as bench_app
from lipsync_cli.failures import EXIT_FAILED, EXIT_INTERRUPTED, Command, RootGroup, complain
from lipsync_cli.key_commands import app as key_app
from lipsync_cli.livekit_commands import app as livekit_app
from lipsync_cli.options import (
    DEFAULT_MODELS_ROOT,
    DEFAULT_SERVER,
    ApiKeyFile,
    ModelsRoot,
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
from lipsync_cli.session_commands import app as sessions_app
from lipsync_cli.session_commands import talk_command

app = typer.Typer(
    cls=RootGroup,
    help="Lip-sync serving: sound in, pictures of a talking person out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(avatar_app, name="avatar")
app.add_typer(bench_app, name="bench")
app.add_typer(sessions_app, name="sessions")
app.add_typer(key_app, name="key")
app.add_typer(livekit_app, name="livekit")
command = partial(app.command, cls=Command)
command("talk")(talk_command)


def _tell_version(is_wanted: bool) -> None:
    if is_wanted:
        from service_kit.version import product_version

        typer.echo(f"lipsync {product_version()}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version, and end.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """Takes the options of all commands; `failures` reads `debug`."""


@command("serve")
def serve_command(
    service: Annotated[
        Literal["inference", "compositing", "gateway", "all"],
        typer.Argument(help="The service to run; all: everything in one process."),
    ],
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="YAML file with settings.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Overrides file and environment; repeatable.")
    ] = None,
    until_stdin_closes: Annotated[bool, typer.Option("--until-stdin-closes", hidden=True)] = False,
) -> None:
    """Run a service until SIGTERM or Ctrl-C."""
    if service == "gateway":
        from gateway_service.polling import read_where_it_waits

        read_where_it_waits()  # before the settings, which import grpc
    from lipsync_cli.processes import end_with_stdin
    from service_kit.collector import collect_nothing_yet

    collect_nothing_yet()  # the imports below make most of what stays
    from service_kit.settings import load_settings

    if until_stdin_closes:
        end_with_stdin()
    name = "monolithic" if service == "all" else service
    settings_class = getattr(import_module(f"{name}_service.settings"), f"{name.capitalize()}Settings")
    settings = load_settings(settings_class, config=config, overrides=overrides or ())
    # Imported once the settings are known to be good: it imports the networks' runtime, which takes a second.
    raise typer.Exit(import_module(f"{name}_service.service").serve(settings))


@command("render")
def render_command(
    avatar: Annotated[str, typer.Option("--avatar", metavar="ID", help="The avatar that speaks.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.mp4", help="The film.")],
    audio: Annotated[Path | None, typer.Option("--audio", metavar="FILE", help="The speech: any audio or video file.")] = None,
    stored_features: Annotated[
        bool, typer.Option("--stored-features", help="Instead of --audio: repeat the avatar's own clip, without sound.")
    ] = False,
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, help="Length with --stored-features; default the whole clip once.")
    ] = None,
    server: Server = DEFAULT_SERVER,
    quality: Annotated[
        str | None, typer.Option("--quality", metavar="1-100|low|medium|high", help="JPEG quality; default the server's own.")
    ] = None,
    output: Annotated[
        Literal["jpeg", "h264"],
        typer.Option("--output", help="The form in which frames come; h264 goes into the film as it is, without --strip."),
    ] = "jpeg",
    strip: Annotated[
        Path | None, typer.Option("--strip", metavar="FILE.png", help="Also write a picture of frames over the clip.")
    ] = None,
    tls: Tls = False,
    ca: TlsAuthorities = None,
    cert: TlsCertificate = None,
    key: TlsKey = None,
    server_name: TlsServerName = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Let an avatar speak a recording, or its own clip by its stored features, and write a film."""
    from lipsync_cli.rendering import Job, render
    from lipsync_cli.screen import progress_bar, table

    if (audio is None) != stored_features:
        raise typer.BadParameter("give it, or --stored-features, and not both", param_hint="--audio")
    if frames is not None and not stored_features:
        raise typer.BadParameter("goes with --stored-features alone", param_hint="--frames")
    if output == "h264" and (stored_features or strip):
        raise typer.BadParameter("h264 goes with --audio, and without --strip", param_hint="--output")
    check_suffix(out, ".mp4", "--out")
    if strip is not None:
        check_suffix(strip, ".png", "--strip")
    job = Job(
        avatar=avatar,
        audio=audio,
        frames=frames,
        out=out,
        server=server,
        quality=parse_quality(quality),
        output=output,
        tls=tls_options(tls, ca=ca, certificate=cert, key=key, server_name=server_name),
        api_key=api_key(api_key_file),
        strip=strip,
    )
    with progress_bar() as report:
        rendered = render(job, report)
    table(("", ""), rendered.rows(), title=str(out))


@command("demo")
def demo_command(
    out_dir: Annotated[Path, typer.Option("--out-dir", metavar="DIR", help="The folder for demo.mp4 and demo.png.")] = Path(
        "out"
    ),
    models_root: ModelsRoot = DEFAULT_MODELS_ROOT,
) -> None:
    """Build the demo avatar if it is missing, start both services, render the shipped speech, stop both."""
    from lipsync_cli.demo import demonstrate
    from lipsync_cli.screen import table

    shown = demonstrate(models_root=models_root, out_dir=out_dir)
    table(("", ""), shown.rows(), title=f"{out_dir / 'demo.mp4'} and {out_dir / 'demo.png'}")


@command("doctor")
def doctor_command(models_root: ModelsRoot = DEFAULT_MODELS_ROOT) -> None:
    """Show what this machine can run, and what is missing. The exit code is 1 when something necessary is missing."""
    from lipsync_cli.doctor import State, examine
    from lipsync_cli.screen import table

    findings = list(examine(models_root))
    table(("", "state", "found", "what to do"), [(f.subject, f.state.value, f.found, f.advice) for f in findings])
    missing = [f.subject for f in findings if f.state is State.MISSING]
    if missing:
        complain(f"error: missing on this machine: {', '.join(missing)}")
        raise typer.Exit(EXIT_FAILED)


def main() -> NoReturn:
    """Runs the `lipsync` command."""
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # the terminal was closed; under `nohup` it stays ignored
        signal.signal(signal.SIGHUP, _terminate)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(0)


def _terminate(number: int, _frame: FrameType | None) -> None:
    """Unwinds the running command, so that it cleans up. A service replaces this by its own orderly end."""
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
