"""`lipsync livekit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipsync_cli.failures import Command

app = typer.Typer(help="Avatars in LiveKit rooms.", no_args_is_help=True)


@app.command("serve", cls=Command)
def serve_command(
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="YAML file with settings.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Overrides file and environment; repeatable.")
    ] = None,
    until_stdin_closes: Annotated[bool, typer.Option("--until-stdin-closes", hidden=True)] = False,
) -> None:
    """Run the worker that lets avatars join rooms, until SIGTERM or Ctrl-C."""
    from lipsync_adapters.livekit.settings import LivekitSettings
    from lipsync_cli.processes import end_with_stdin
    from service_kit.settings import load_settings

    if until_stdin_closes:
        end_with_stdin()
    settings = load_settings(LivekitSettings, config=config, overrides=overrides or ())
    from lipsync_adapters.livekit.service import serve

    raise typer.Exit(serve(settings))
