"""The `lipsync avatar` commands."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from lipsync_cli.failures import EXIT_FAILED, Command
from lipsync_cli.options import DEFAULT_MODELS_ROOT, ModelsRoot, check_suffix

app = typer.Typer(help="Build, check and show avatars.", no_args_is_help=True)
command = partial(app.command, cls=Command)

AvatarId = Annotated[str, typer.Argument(metavar="ID", help="The avatar's id.")]
NewId = Annotated[str, typer.Option("--id", metavar="ID", help="The new avatar's id.")]
Replace = Annotated[bool, typer.Option("--replace", help="Replace the avatar that has this id.")]


@command("demo")
def demo_command(models_root: ModelsRoot = DEFAULT_MODELS_ROOT, avatar_id: NewId = "demo", replace: Replace = False) -> None:
    """Build the drawn person of the demo."""
    from avatar_kit.demo import build_demo
    from lipsync_cli.screen import progress_bar

    with progress_bar("frames") as report:
        avatar = build_demo(models_root, avatar_id, replace=replace, progress=report)
    typer.echo(f"{avatar.root}: {avatar.frame_count} frames of {avatar.width}x{avatar.height}")


@command("benchmark")
def benchmark_command(
    models_root: ModelsRoot = DEFAULT_MODELS_ROOT,
    avatar_id: NewId = "benchmark",
    network: Annotated[
        Literal["full", "free"],
        typer.Option("--network", help="The full-size network with random weights, or one that costs nothing."),
    ] = "full",
    replace: Replace = False,
) -> None:
    """Build an avatar to measure with: the full-size network, random weights."""
    from avatar_kit.benchmark_avatar import build_benchmark
    from lipsync_cli.screen import progress_bar

    with progress_bar("frames") as report:
        avatar = build_benchmark(models_root, avatar_id, network=network, replace=replace, progress=report)
    typer.echo(f"{avatar.root}: {avatar.frame_count} frames of {avatar.width}x{avatar.height}")


@command("list")
def list_command(
    models_root: ModelsRoot = DEFAULT_MODELS_ROOT,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List the avatars of a folder, also broken ones with the reason."""
    from lipsync_cli.avatars import json_text, listed, rows
    from lipsync_cli.screen import table

    avatars = listed(models_root)
    if as_json:
        typer.echo(json_text(avatars))
    elif avatars:
        table(("id", ">frames", ">size", ">length", "loop", "paste", "state"), rows(avatars))
    else:
        typer.echo(f"there are no avatars in {models_root}")


@command("verify")
def verify_command(avatar_id: AvatarId, models_root: ModelsRoot = DEFAULT_MODELS_ROOT) -> None:
    """Check everything about an avatar. Exit code 1 when it cannot be served."""
    from avatar_kit.verify import verify_avatar
    from lipsync_cli.avatars import folder_of
    from lipsync_cli.screen import progress_bar

    folder = folder_of(models_root, avatar_id)
    with progress_bar("frames") as progress:
        report = verify_avatar(folder, progress=progress)
    for name, value in report.facts.items():
        typer.echo(f"{name}: {value}")
    for warning in report.warnings:
        typer.echo(f"warning: {warning}")
    for problem in report.problems:
        typer.echo(f"problem: {problem}")
    typer.echo(f"{avatar_id} {'can be served' if report.ok else 'cannot be served'}")
    if not report.ok:
        raise typer.Exit(EXIT_FAILED)


@command("inspect")
def inspect_command(
    avatar_id: AvatarId,
    models_root: ModelsRoot = DEFAULT_MODELS_ROOT,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.png", help="Where the contact sheet goes; without, ID.png here.")
    ] = None,
) -> None:
    """Sum up an avatar in words and on a contact sheet."""
    from avatar_kit.catalog import AvatarCatalog
    from avatar_kit.inspect import contact_sheet, summary
    from lipsync_cli.files import write_png

    avatar = AvatarCatalog(models_root).get(avatar_id)
    sheet = out or Path(f"{avatar_id}.png")
    check_suffix(sheet, ".png", "--out")
    write_png(sheet, contact_sheet(avatar))
    typer.echo(f"{summary(avatar)}contact sheet: {sheet}")
