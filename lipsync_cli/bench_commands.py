"""The `lipsync bench` commands."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

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
    tls_options,
)

if TYPE_CHECKING:  # commands import what they need when they run
    from lipsync_cli.load.running import Target
    from lipsync_cli.load.session import Talking


class BenchGroup(TyperGroup):
    """Takes names of benchmarks, and options, for those of its command `suite`."""

    default_command = "suite"

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override,unused-ignore]  # typer's own click
        if not args or args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [self.default_command, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=BenchGroup,
    help="Measure: `bench [NAME]...` this machine by the benchmarks of the source tree, `bench stream` any deployment.",
)
command = partial(app.command, cls=Command)


@command(BenchGroup.default_command)
def suite_command(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", show_default=False)] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write figures and machine.")] = None,
) -> None:
    """Measure compositor, services, interpreters, live, overload, h264, gateway, webrtc, adapters, network, avatars, gpu, audio,
    memory, start, listing, import.

    Without a name: all.

    `bench NAME` is the same as `bench suite NAME`. Needs the source tree.
    """
    from lipsync_cli.benching import benchmark_suite
    from lipsync_cli.screen import table

    suite = benchmark_suite()
    results = suite.run(names or (), lambda name: typer.echo(f"measuring {name} ...", err=True))
    table(suite.COLUMNS, [row for result in results for row in result.rows()])
    _write_json(json_file, suite.report(results))
    failed = [result for result in results if result.error]
    for result in failed:
        complain(f"error: {result.name} failed: {result.error}")
    if failed:
        raise typer.Exit(EXIT_FAILED)


@command("stream")
def stream_command(
    avatar: Annotated[list[str], typer.Option("--avatar", metavar="ID", help="Sessions show it; several: in turn.")],
    server: Server = DEFAULT_SERVER,
    sessions: Annotated[int, typer.Option("--sessions", min=1, help="Number of sessions; of --ramp, the first to try.")] = 8,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="From the start of the last session on.")] = 10.0,
    ahead: Annotated[float, typer.Option("--ahead", min=0, help="Push sound so many seconds ahead.")] = 0.5,
    pause: Annotated[float, typer.Option("--pause", min=0, help="Seconds of rest after each utterance.")] = 1.0,
    audio: Annotated[
        Path | None, typer.Option("--audio", metavar="FILE", help="Speech: any audio or video file; default the demo's.")
    ] = None,
    output: Annotated[Literal["jpeg", "h264"], typer.Option("--output", help="The form in which frames come.")] = "jpeg",
    idle: Annotated[bool, typer.Option("--idle", help="Sessions that rest: no sound.")] = False,
    half_rate: Annotated[
        bool, typer.Option("--allow-half-rate", help="Let an overloaded server repeat every second mouth.")
    ] = False,
    ramp: Annotated[bool, typer.Option("--ramp", help="Find how many sessions fit.")] = False,
    most: Annotated[int, typer.Option("--most", min=1, help="Of --ramp: try no more sessions.")] = 4096,
    fast: Annotated[bool, typer.Option("--fast", help="Instead: the first frame of one session without a clock.")] = False,
    server_pid: Annotated[
        list[int] | None,
        typer.Option("--server-pid", metavar="PID", help="Measure a local process's processor time; repeatable."),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write everything measured.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE.svg", help="Also draw it.")] = None,
    tls: Tls = False,
    ca: TlsAuthorities = None,
    cert: TlsCertificate = None,
    key: TlsKey = None,
    server_name: TlsServerName = None,
    api_key_file: ApiKeyFile = None,
) -> None:
    """Load a deployment with live sessions that speak, and tell which it kept in real time."""
    from lipsync_cli.load.running import Target
    from lipsync_cli.load.session import Talking

    if fast and (ramp or idle):
        raise typer.BadParameter("goes with neither --ramp nor --idle", param_hint="--fast")
    if plot is not None:
        check_suffix(plot, ".svg", "--plot")
    settings = {"server": server, "avatars": avatar, "seconds": seconds, "output": output}
    if not fast:
        settings |= {"idle": idle} if idle else {"ahead_s": ahead, "pause_s": pause}
    tls_used = tls_options(tls, ca=ca, certificate=cert, key=key, server_name=server_name)
    target = Target(server, avatar, tls_used, server_pid or (), api_key(api_key_file), output)
    talking = Talking([] if idle else _utterances(audio), ahead, pause, allow_half_rate=half_rate)
    if fast:
        report, drawn = _first_frames(target, talking, seconds)
    elif ramp:
        report, drawn = _ramp(target, talking, min(sessions, most), most, seconds)
    else:
        report, drawn = _one_run(target, talking, sessions, seconds)
    from lipsync_cli.load.report import with_origin

    _write_json(json_file, with_origin(report, settings))
    if plot is not None:
        _write(plot, drawn)


Drawn = tuple[dict[str, Any], str]
"""The content of the JSON file, and the plot."""


def _one_run(target: Target, talking: Talking, sessions: int, seconds: float) -> Drawn:
    from lipsync_cli.load.report import run_plot, run_report, run_rows
    from lipsync_cli.load.running import load
    from lipsync_cli.screen import table

    run = asyncio.run(load(target, talking, count=sessions, seconds=seconds))
    table(("", ""), run_rows(run))
    return run_report(run), run_plot(run)


def _ramp(target: Target, talking: Talking, first: int, most: int, seconds: float) -> Drawn:
    from lipsync_cli.load.report import RAMP_COLUMNS, error_rows, ramp_plot, ramp_report, ramp_rows
    from lipsync_cli.load.running import find_fitting
    from lipsync_cli.screen import table

    def show(count: int) -> None:
        typer.echo(f"{count} {'session' if count == 1 else 'sessions'} for {seconds:g} s ...", err=True)

    found = asyncio.run(find_fitting(target, talking, first=first, most=most, seconds=seconds, show=show))
    title = f"{found.fits} {'session fits' if found.fits == 1 else 'sessions fit'}"
    table(RAMP_COLUMNS, ramp_rows(found), title=title)
    if failures := [row for run in found.runs for row in error_rows(run)]:
        table(("", ""), failures[-1:])
    return ramp_report(found), ramp_plot(found)


def _first_frames(target: Target, talking: Talking, seconds: float) -> Drawn:
    from lipsync_cli.load.first_frame import time_first_frames
    from lipsync_cli.load.report import first_frame_plot, first_frame_report, first_frame_rows
    from lipsync_cli.screen import table

    found = asyncio.run(time_first_frames(target, talking.utterances, seconds=seconds))
    table(("", ""), first_frame_rows(found))
    return first_frame_report(found), first_frame_plot(found)


def _utterances(audio: Path | None) -> list[Any]:
    """Reads the speech of a file, or the one that is shipped with the demo."""
    from lipsync_cli.load.speaking import shipped_speech, utterances
    from lipsync_cli.recording import opened_recording

    with opened_recording(audio or shipped_speech()) as recording:
        for warning in recording.warnings:
            complain(f"warning: {warning}")
        return utterances(recording.speech())


def _write_json(path: Path | None, content: Any) -> None:
    if path is not None:
        _write(path, json.dumps(content, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    from lipsync_cli.files import replacing

    with replacing(path) as partial_file:
        partial_file.write_text(text, encoding="utf-8")
