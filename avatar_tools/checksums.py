"""Compares an avatar's files with the SHA-256 sums that were written with them."""

from __future__ import annotations

import re
from pathlib import Path

from avatar_kit.errors import shortened
from avatar_kit.limits import max_picture_bytes, max_sums_bytes
from avatar_kit.manifest import FRAMES_FOLDER, Manifest
from avatar_kit.safe_files import FileProblem, contained, read_bounded, sha256_of, size_of

_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def checksum_problems(folder: Path, manifest: Manifest) -> list[str]:
    """Problems of files whose content has changed, of an avatar in format version 1. Loading reports missing files."""
    problems: list[str] = []
    listed: dict[str, str] = {}
    for role in type(manifest.files).model_fields:
        entry = getattr(manifest.files, role)
        if entry is None:
            continue
        try:
            path = contained(folder, entry.path)
            if path.is_file() and sha256_of(path, manifest.most_bytes(role)) != entry.sha256:
                problems.append(f"{entry.path} has changed: its SHA-256 is not the one in the manifest")
            if role == "frame_checksums":
                listed = _listed(path, max_sums_bytes(manifest.frame_count))
        except FileProblem as problem:
            problems += problem.of(entry.path)
    return problems + _frame_problems(folder, listed, max_picture_bytes(manifest.width, manifest.height))


def _listed(path: Path, max_bytes: int) -> dict[str, str]:
    """Sums by file name, from a file in the format of sha256sum."""
    lines = read_bounded(path, max_bytes).decode("utf-8", "replace").splitlines()
    matches = [_LINE.fullmatch(line) for line in lines]
    if not all(matches):
        raise FileProblem("has a line that is not a SHA-256 and a name")
    return {match[2]: match[1] for match in matches if match}


def _frame_problems(folder: Path, listed: dict[str, str], max_bytes: int) -> list[str]:
    if not listed:
        return []
    problems = []
    there = sorted(path for path in (folder / FRAMES_FOLDER).glob("frame_*") if path.is_file())
    for path in there:
        name = f"{FRAMES_FOLDER}/{path.name}"
        if name not in listed:
            problems.append(f"{name} has no checksum")
        elif size_of(path) <= max_bytes and sha256_of(path) != listed[name]:
            problems.append(f"{name} has changed: its SHA-256 is not the one that was written with it")
    return shortened(problems)
