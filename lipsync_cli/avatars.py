"""Lists and reports for the `lipsync avatar` commands, and the reading of their options."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import AvatarError, AvatarNotFound
from avatar_kit.ids import check_avatar_id
from avatar_kit.model_entry import ModelEntry
from avatar_tools.importing.options import Part
from avatar_tools.verify import Report
from lipsync_cli.failures import CliError
from lipsync_cli.near_names import there_are

COLUMNS = ("id", ">frames", ">size", ">length", "loop", "paste", "idle mouth", "state")


@dataclass(frozen=True)
class Listed:
    """One avatar of a list. A broken one has only `id` and `error`."""

    id: str
    frames: int = 0
    width: int = 0
    height: int = 0
    fps: float = 0.0
    loop: str = ""
    paste: str = ""
    idle_mouth: str = ""
    error: str = ""

    def row(self) -> tuple[str, ...]:
        """Returns a row of COLUMNS."""
        if self.error:
            return (self.id, *[""] * (len(COLUMNS) - 2), self.error)
        size, seconds = f"{self.width}x{self.height}", f"{self.frames / self.fps:.1f} s"
        return (self.id, str(self.frames), size, seconds, self.loop, self.paste, self.idle_mouth, "good")


def listed(models_root: Path) -> list[Listed]:
    """Lists the avatars under `models_root`, sorted by id. Raises CliError when there is no such folder."""
    if not models_root.is_dir():
        raise CliError(f"{models_root} is not a folder; name the folder of the avatars with --models-root")
    catalog = AvatarCatalog(models_root)
    return [_listed(catalog, avatar_id) for avatar_id in catalog.ids()]


def report_json(avatar_id: str, report: Report) -> str:
    """Writes the report of `verify` for programs."""
    return json.dumps({"id": avatar_id, "ok": report.ok, **asdict(report)}, indent=2)


def report_text(avatar_id: str, report: Report) -> str:
    """Writes the report of `verify` for people."""
    facts = (f"{name}: {value}" for name, value in report.facts.items())
    warnings = (f"warning: {warning}" for warning in report.warnings)
    problems = (f"problem: {problem}" for problem in report.problems)
    verdict = f"{avatar_id} {'can be served' if report.ok else 'cannot be served'}"
    return "\n".join([*facts, *warnings, *problems, verdict])


def folder_of(models_root: Path, avatar_id: str) -> Path:
    """Returns the folder of an avatar, whole or broken. Raises InvalidAvatarId, AvatarNotFound."""
    folder = models_root / check_avatar_id(avatar_id)
    if not folder.is_dir():
        known = there_are(avatar_id, AvatarCatalog(models_root).ids())
        raise AvatarNotFound(f"there is no avatar {avatar_id!r} in {models_root}{known}")
    return folder


def read_setting(key: str, text: str | None, *, option: str) -> Any:
    """Reads the text of an option as the setting `key` of an avatar (see ModelEntry). Raises CliError that names the option."""
    if text is None:
        return None
    try:
        return getattr(ModelEntry.model_validate({key: text}), key)
    except ValidationError as error:
        raise CliError(f"{option}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def read_part(text: str | None) -> Part | None:
    """Reads the text of --frames. Raises CliError."""
    if text is None:
        return None
    try:
        return Part.parse(text)
    except ValueError as error:
        raise CliError(f"--frames {text!r:.60}: {error}") from None


def _listed(catalog: AvatarCatalog, avatar_id: str) -> Listed:
    try:
        avatar = catalog.get(avatar_id)
    except AvatarError as error:
        return Listed(avatar_id, error=error.caller_text)
    return Listed(
        avatar_id,
        frames=avatar.frame_count,
        width=avatar.width,
        height=avatar.height,
        fps=avatar.fps,
        loop=avatar.loop.value,
        paste=avatar.paste.value,
        idle_mouth=avatar.idle_mouth.value,
    )
