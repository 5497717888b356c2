"""Finds all avatars that a service can serve: those under models_root and those in its settings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from avatar_kit.avatar import Avatar, load_avatar, outside_clip
from avatar_kit.errors import AvatarNotFound, AvatarReplaced, BrokenAvatar, as_broken_avatar
from avatar_kit.ids import check_avatar_id, is_avatar_id
from avatar_kit.legacy import configured, is_legacy, load_legacy
from avatar_kit.manifest import MANIFEST_NAME
from avatar_kit.model_entry import ModelEntry
from avatar_kit.safe_files import check_regular

AUDIO_ENCODER_NAME = "audio_encoder.onnx"


class AvatarCatalog:
    """Reads from disk at every call and keeps nothing, so avatars may come and go. Thread-safe."""

    def __init__(
        self, models_root: Path, entries: Mapping[str, ModelEntry] | None = None, *, audio_encoder: Path | None = None
    ) -> None:
        """`audio_encoder`: path of the shared one; default models_root/audio_encoder.onnx. Raises InvalidAvatarId."""
        self.models_root = models_root
        self._entries = {check_avatar_id(avatar_id): entry for avatar_id, entry in (entries or {}).items()}
        self._audio_encoder = audio_encoder or models_root / AUDIO_ENCODER_NAME

    @property
    def warning(self) -> str:
        """Says that the folder is missing, unless settings name avatars elsewhere; else nothing."""
        if self._entries or self.models_root.is_dir():
            return ""
        return f"models_root: there is no folder {self.models_root.absolute()}, so there are no avatars until there is"

    def ids(self) -> list[str]:
        """Lists every avatar's id, sorted. Does not read the avatars, so broken ones are included."""
        try:
            names = os.listdir(self.models_root)
        except OSError:
            names = []  # without models_root there are no avatars in it
        found = (name for name in names if is_avatar_id(name) and self._is_avatar(self.models_root / name))
        return sorted({*self._entries, *found})

    def has(self, avatar_id: str) -> bool:
        """Returns True if an avatar of that id exists, whole or broken."""
        return avatar_id in self._entries or (is_avatar_id(avatar_id) and self._is_avatar(self.models_root / avatar_id))

    @property
    def named(self) -> Iterable[str]:
        """Returns the ids that have an entry in the settings."""
        return self._entries.keys()

    def entry(self, avatar_id: str) -> ModelEntry:
        """Returns the settings of an avatar, or the defaults if it has no entry."""
        return self._entries.get(avatar_id) or ModelEntry()

    @as_broken_avatar()
    def get(self, avatar_id: str) -> Avatar:
        """Reads one avatar. This may take a second with a `source_video`, which is read through.

        Raises InvalidAvatarId, AvatarNotFound, BrokenAvatar with every problem found, or AvatarReplaced when its files are
        replaced again and again.
        """
        check_avatar_id(avatar_id)
        with suppress(AvatarReplaced):
            return self._read(avatar_id)
        return self._read(avatar_id)

    def _read(self, avatar_id: str) -> Avatar:
        folder = self.models_root / avatar_id
        entry = self._entries.get(avatar_id)
        if entry is None and not self._is_avatar(folder):
            raise AvatarNotFound(f"no avatar has the id {avatar_id!r}")
        if not _has_manifest(folder):
            return load_legacy(self.models_root, avatar_id, entry)
        avatar = load_avatar(folder)
        return settled(avatar, entry, self.models_root) if entry else avatar

    def audio_encoder_path(self, avatar: Avatar) -> Path:
        """Returns the avatar's own audio encoder, else the shared one. Raises BrokenAvatar if there is none."""
        return avatar.audio_encoder_path or self.shared_encoder_path("the avatar has no audio encoder of its own, and ")

    def shared_encoder_path(self, because: str = "") -> Path:
        """Returns the audio encoder of avatars without their own. Raises BrokenAvatar; its text begins with `because`."""
        with as_broken_avatar(f"{because}{self._audio_encoder.name}"):
            check_regular(self._audio_encoder)
        return self._audio_encoder

    def shown(self, path: Path) -> str:
        """Returns a path that callers may see: relative to models_root, or only the name of a file elsewhere."""
        if path.is_relative_to(self.models_root):
            return path.relative_to(self.models_root).as_posix()
        root, path = self.models_root.resolve(), path.resolve()
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name

    def _is_avatar(self, folder: Path) -> bool:
        """Returns True for an avatar's folder or a link to one. A link may lead anywhere: it is the operator's choice."""
        return _has_manifest(folder) or is_legacy(folder)


def settled(avatar: Avatar, entry: ModelEntry, models_root: Path) -> Avatar:
    """Applies the settings of an avatar to one of format version 1.

    Raises BrokenAvatar when the settings name other files than its manifest: one of the two is a mistake.
    """
    there = {
        "model_path": avatar.network_path,
        "background_dir": avatar.frames.place,
        "crop_rects_path": avatar.rects_path,
        "features_path": avatar.features_path,
    }
    if avatar.video:
        there["source_video"] = avatar.frames.place
    problems = []
    for key, path in there.items():
        named: Path | None = getattr(entry, key)
        if named is not None and (path is None or (models_root / named).resolve() != path.resolve()):
            problems.append(f"{key} in the settings names another file than the avatar's {MANIFEST_NAME}: remove one of them")
    if entry.num_frames not in {None, avatar.frame_count}:
        problems.append(f"num_frames is {entry.num_frames} in the settings, but the avatar has {avatar.frame_count} frames")
    problems += [f"{problem} (in the settings)" for problem in outside_clip(entry.reference, entry.idle, avatar.frame_count)]
    if problems:
        raise BrokenAvatar(problems)
    return configured(avatar, entry, models_root)


def _has_manifest(folder: Path) -> bool:
    return os.path.lexists(folder / MANIFEST_NAME)
