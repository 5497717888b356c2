"""The `lipsync avatar` commands."""

from __future__ import annotations

import json
from dataclasses import asdict
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
def demo_command(
    models_root: ModelsRoot = DEFAULT_MODELS_ROOT,
    avatar_id: NewId = "demo",
    replace: Replace = False,
    if_empty: Annotated[bool, typer.Option("--if-empty", help="Do nothing where the folder holds something already.")] = False,
) -> None:
    """Build the demo avatar, a drawn person."""
    from avatar_tools.demo import build_demo
    from lipsync_cli.screen import progress_bar

    if if_empty and _holds_something(models_root):
        typer.echo(f"{models_root} holds something already: nothing was built")
        return
    with progress_bar() as report:
        avatar = build_demo(models_root, avatar_id, replace=replace, progress=report)
    typer.echo(f"{avatar.root}: {avatar.frame_count} frames of {avatar.width}x{avatar.height}")


@command("benchmark")
def benchmark_command(
    models_root: ModelsRoot = DEFAULT_MODELS_ROOT,
    avatar_id: NewId = "benchmark",
    network: Annotated[
        Literal["full", "free"],
        typer.Option("--network", help="The full-size network with random weights, or one that takes no time."),
    ] = "full",
    replace: Replace = False,
) -> None:
    """Build an avatar for benchmarks: the full-size network with random weights."""
    from avatar_tools.benchmark_avatar import build_benchmark
    from lipsync_cli.screen import progress_bar

    with progress_bar() as report:
        avatar = build_benchmark(models_root, avatar_id, network=network, replace=replace, progress=report)
    typer.echo(f"{avatar.root}: {avatar.frame_count} frames of {avatar.width}x{avatar.height}")


@command("import")
def import_command(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A folder in one of the known layouts, or a video.")],
    avatar_id: NewId,
    models_root: ModelsRoot = DEFAULT_MODELS_ROOT,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", metavar="FILE", help="The network: .onnx, .pth, or a folder of them.")
    ] = None,
    rectangles: Annotated[
        Path | None, typer.Option("--rectangles", metavar="FILE.json", help="A rectangle for each frame.")
    ] = None,
    landmarks: Annotated[
        Path | None, typer.Option("--landmarks", metavar="DIR|FILE.npy", help="A folder of .lms files, or an array.")
    ] = None,
    audio_encoder: Annotated[
        Path | None, typer.Option("--audio-encoder", metavar="FILE", help="The avatar's own: .onnx or .pth.")
    ] = None,
    smooth: Annotated[
        int | None, typer.Option("--smooth", metavar="N", help="Average the rectangles over N frames, odd; off by default.")
    ] = None,
    detector: Annotated[
        Path | None, typer.Option("--detector", metavar="FILE.onnx", help="Finds faces where landmarks are missing.")
    ] = None,
    landmarker: Annotated[
        Path | None, typer.Option("--landmarker", metavar="FILE.onnx", help="Finds the points of a face; with --detector.")
    ] = None,
    loop: Annotated[
        Literal["bounce", "forward"],
        typer.Option("--loop", help="After the last frame: back to the first frame by frame, or at once."),
    ] = "bounce",
    paste: Annotated[
        Literal["reference", "feather", "direct"],
        typer.Option("--paste", help="As in training, with a soft edge, or as the older servers did."),
    ] = "reference",
    mask: Annotated[
        str | None,
        typer.Option("--mask", metavar="X,Y,W,H", help="The part of 320x320 that training blackened; default 5,5,310,305."),
    ] = None,
    reference: Annotated[
        str,
        typer.Option(
            "--reference", metavar="current|fixed:INDEX", help="The open crop: each frame's own, or always that of one frame."
        ),
    ] = "current",
    idle: Annotated[
        str | None, typer.Option("--idle", metavar="FIRST,LAST", help="The frames to show without speech; default all.")
    ] = None,
    idle_mouth: Annotated[
        Literal["rest", "stored"],
        typer.Option("--idle-mouth", help="Without speech: the network's mouth for silence, or the frames as they are."),
    ] = "rest",
    frames: Annotated[
        str | None, typer.Option("--frames", metavar="A:B", help="Import frames A to B - 1 alone, counted from 0; also A: or :B.")
    ] = None,
    no_features: Annotated[bool, typer.Option("--no-features", help="Leave out the clip's stored features.")] = False,
    keep_video: Annotated[
        bool, typer.Option("--keep-video", help="Keep the video, which must run at 25 frames a second, instead of extracting it.")
    ] = False,
    replace: Replace = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan.")] = False,
) -> None:
    """Make an avatar from a training folder, a package, frames or a video."""
    from avatar_kit.errors import one_line
    from avatar_kit.geometry import Paste
    from avatar_kit.timeline import IdleMouth, Loop
    from avatar_tools.importing import ImportOptions, plan_import, run_import
    from lipsync_cli.avatars import read_part, read_setting
    from lipsync_cli.screen import progress_bar

    options = ImportOptions(
        source=source,
        avatar_id=avatar_id,
        models_root=models_root,
        checkpoint=checkpoint,
        rectangles=rectangles,
        landmarks=landmarks,
        audio_encoder=audio_encoder,
        smooth=smooth,
        detector=detector,
        landmarker=landmarker,
        loop=Loop(loop),
        paste=Paste(paste),
        mask=read_setting("mask", mask, option=f"--mask {mask!r:.60}"),
        reference_frame=read_setting("reference", reference, option=f"--reference {reference!r:.60}").frame,
        idle=read_setting("idle", idle, option=f"--idle {idle!r:.60}"),
        idle_mouth=IdleMouth(idle_mouth),
        part=read_part(frames),
        features=not no_features,
        keep_video=keep_video,
        replace=replace,
    )
    plan = plan_import(options)
    typer.echo(plan.text(), nl=False)
    if dry_run:
        typer.echo("nothing was written: this was a dry run")
        return
    with progress_bar() as report:
        imported = run_import(plan, report)
    for note in imported.notes:
        typer.echo(one_line(note))
    for warning in imported.warnings:
        typer.echo(f"warning: {one_line(warning)}")
    avatar = imported.avatar
    typer.echo(one_line(f"{avatar.root}: {avatar.frame_count} frames of {avatar.width}x{avatar.height}"))


@command("list")
def list_command(
    models_root: ModelsRoot = DEFAULT_MODELS_ROOT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the avatars of a folder, and why broken ones cannot be served."""
    from lipsync_cli.avatars import COLUMNS, listed
    from lipsync_cli.screen import table

    avatars = listed(models_root)
    if as_json:
        typer.echo(json.dumps([asdict(avatar) for avatar in avatars], indent=2))
    elif avatars:
        table(COLUMNS, [avatar.row() for avatar in avatars])
    else:
        typer.echo(f"there are no avatars in {models_root}")


@command("verify")
def verify_command(
    avatar_id: AvatarId,
    models_root: ModelsRoot = DEFAULT_MODELS_ROOT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check everything about an avatar. The exit code is 1 when it cannot be served."""
    from avatar_tools.verify import verify_avatar
    from lipsync_cli.avatars import folder_of, report_json, report_text
    from lipsync_cli.screen import progress_bar

    folder = folder_of(models_root, avatar_id)
    with progress_bar() as progress:
        report = verify_avatar(folder, progress=progress)
    typer.echo(report_json(avatar_id, report) if as_json else report_text(avatar_id, report))
    if not report.ok:
        raise typer.Exit(EXIT_FAILED)


@command("optimise")
def optimise_command(
    avatar_id: AvatarId,
    precision: Annotated[
        Literal["float16", "int8", "float32"],
        typer.Option("--precision", help="Of the variant; float32 goes back to the network that variants are made of."),
    ],
    models_root: ModelsRoot = DEFAULT_MODELS_ROOT,
    use: Annotated[bool, typer.Option("--use", help="Serve the variant, if it is close enough and not slower.")] = False,
) -> None:
    """Make a variant of an avatar's network in fewer bits, and measure it here. The exit code is 1 when --use is refused."""
    from lipsync_cli.avatars import folder_of
    from lipsync_cli.optimising import COLUMNS, go_back, optimise
    from lipsync_cli.screen import table

    folder_of(models_root, avatar_id)
    if precision == "float32":
        typer.echo(go_back(models_root, avatar_id))
        return
    typer.echo("calibrating and measuring: some minutes for the full-size network ...", err=True)
    done = optimise(models_root, avatar_id, precision, use=use)
    table(COLUMNS, done.rows)
    typer.echo(done.told)
    if done.is_refused:
        raise typer.Exit(EXIT_FAILED)


@command("inspect")
def inspect_command(
    avatar_id: AvatarId,
    models_root: ModelsRoot = DEFAULT_MODELS_ROOT,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The picture or film to write; default ID.png or ID-compared.mp4."),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            "--compare", metavar="SETTING=VALUE", help="Write a film instead: as it is, and with this setting; repeatable."
        ),
    ] = None,
    audio: Annotated[
        Path | None, typer.Option("--audio", metavar="FILE", help="The speech in the film; default the shipped speech.")
    ] = None,
) -> None:
    """Describe an avatar in words and on a contact sheet, or compare two settings of it in a film."""
    from lipsync_cli.avatars import folder_of

    folder_of(models_root, avatar_id)
    if compare:
        _compare(models_root, avatar_id, compare, audio, out or Path(f"{avatar_id}-compared.mp4"))
        return
    if audio is not None:
        raise typer.BadParameter("goes with --compare alone", param_hint="--audio")
    from avatar_kit.catalog import AvatarCatalog
    from avatar_tools.inspect import contact_sheet, summary
    from lipsync_cli.failures import sentence
    from lipsync_cli.files import write_png

    catalog = AvatarCatalog(models_root)
    avatar = catalog.get(avatar_id)
    sheet = out or Path(f"{avatar_id}.png")
    check_suffix(sheet, ".png", "--out")
    try:
        from lipsync_cli.loud_moment import loud_moment  # ONNX Runtime may be missing

        composite = loud_moment(avatar, catalog)
    except ImportError as error:
        composite = sentence(error)
    write_png(sheet, contact_sheet(avatar, composite))
    typer.echo(f"{summary(avatar)}contact sheet: {sheet}")


def _holds_something(folder: Path) -> bool:
    """Tells if there is more in it than hidden files and what a new file system brings."""
    return folder.exists() and any(path.name != "lost+found" and not path.name.startswith(".") for path in folder.iterdir())


def _compare(models_root: Path, avatar_id: str, settings: list[str], audio: Path | None, out: Path) -> None:
    from avatar_tools.demo import SPEECH_PATH
    from lipsync_cli.comparing import changed_entry, compare
    from lipsync_cli.screen import progress_bar

    check_suffix(out, ".mp4", "--out")
    with progress_bar() as report:
        frames, notes = compare(
            models_root, avatar_id, changed_entry(settings), audio=audio or SPEECH_PATH, out=out, report=report
        )
    for note in notes:
        typer.echo(note)
    typer.echo(f"{out}: {frames} frames")
