"""`lipsync avatar`: build, check and show avatars on disk."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import AvatarError, AvatarNotFound
from avatar_kit.geometry import Mask
from avatar_kit.ids import check_avatar_id
from avatar_kit.reference_frame import Reference
from avatar_kit.timeline import FrameRange
from avatar_tools.verify import Report
from lipsync_cli.failures import CliError


@dataclass(frozen=True)
class Listed:
    """One line of the list; of a broken avatar only `id` and `error` say something."""

    id: str
    frames: int = 0
    width: int = 0
    height: int = 0
    fps: float = 0.0
    loop: str = ""
    paste: str = ""
    error: str = ""


def listed(models_root: Path) -> list[Listed]:
    """Every avatar under `models_root`, sorted by id. Raises CliError when there is no such folder."""
    if not models_root.is_dir():
        raise CliError(f"{models_root} is not a folder; name the folder of the avatars with --models-root")
    catalog = AvatarCatalog(models_root)
    return [_listed(catalog, avatar_id) for avatar_id in catalog.ids()]


def json_text(avatars: list[Listed]) -> str:
    """The list for programs."""
    return json.dumps([asdict(avatar) for avatar in avatars], indent=2)


def report_json(avatar_id: str, report: Report) -> str:
    """What verifying found, for programs."""
    return json.dumps({"id": avatar_id, "ok": report.ok, **asdict(report)}, indent=2)


def report_text(avatar_id: str, report: Report) -> str:
    """The same for people."""
    facts = (f"{name}: {value}" for name, value in report.facts.items())
    warnings = (f"warning: {warning}" for warning in report.warnings)
    problems = (f"problem: {problem}" for problem in report.problems)
    verdict = f"{avatar_id} {'can be served' if report.ok else 'cannot be served'}"
    return "\n".join([*facts, *warnings, *problems, verdict])


def rows(avatars: list[Listed]) -> list[tuple[str, ...]]:
    """The list for people: id, frames, size, seconds, loop, paste, state."""
    return [_row(avatar) for avatar in avatars]


def folder_of(models_root: Path, avatar_id: str) -> Path:
    """The folder of an avatar, whole or broken. Raises InvalidAvatarId, AvatarNotFound."""
    folder = models_root / check_avatar_id(avatar_id)
    if not folder.is_dir():
        raise AvatarNotFound(f"there is no avatar {avatar_id!r} in {models_root}")
    return folder


def parse_mask(text: str | None) -> Mask | None:
    """A mask as the command line gives it: x,y,width,height. Raises CliError."""
    if text is None:
        return None
    try:
        x, y, width, height = (int(number) for number in text.split(","))
    except ValueError:
        raise CliError(f"--mask {text[:40]!a}: expected four whole numbers, x,y,width,height") from None
    try:
        return Mask(x, y, width, height)
    except ValueError as error:
        raise CliError(f"--mask: {error}") from None


def parse_reference(text: str) -> Reference:
    """current or fixed:INDEX. Raises CliError."""
    try:
        return Reference.parse(text)
    except ValueError as error:
        raise CliError(f"--reference {text[:40]!a}: {error}") from None


def parse_idle(text: str | None) -> FrameRange | None:
    """A range of frames as the command line gives it: first,last. Raises CliError."""
    if text is None:
        return None
    try:
        return FrameRange.parse(text)
    except ValueError as error:
        raise CliError(f"--idle {text[:40]!a}: {error}") from None


def _listed(catalog: AvatarCatalog, avatar_id: str) -> Listed:
    try:
        avatar = catalog.get(avatar_id)
    except AvatarError as error:
        return Listed(avatar_id, error=str(error))
    return Listed(avatar_id, avatar.frame_count, avatar.width, avatar.height, avatar.fps, avatar.loop.value, avatar.paste.value)


def _row(avatar: Listed) -> tuple[str, ...]:
    if avatar.error:
        return (avatar.id, "", "", "", "", "", avatar.error)
    seconds = f"{avatar.frames / avatar.fps:.1f} s"
    return (avatar.id, str(avatar.frames), f"{avatar.width}x{avatar.height}", seconds, avatar.loop, avatar.paste, "good")
