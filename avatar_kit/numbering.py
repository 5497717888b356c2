"""Orders numbered pictures and rectangles, and finds missing numbers."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from avatar_kit.errors import shortened
from avatar_kit.safe_files import FileProblem, stays_in

MAX_FRAMES = 1_000_000  # the most that six digits can number: eleven hours

_FRAME_NAME = re.compile(r"(?:frame_)?([0-9]{1,9})\.(?:jpe?g|png)", re.IGNORECASE | re.ASCII)


def is_frame_name(name: str) -> bool:
    """Returns True for the name of a picture file: frame_000012.jpg, frame_0012.png, 12.jpg."""
    return _FRAME_NAME.fullmatch(name) is not None


def numbered_frames(folder: Path, *, first: Sequence[int] = (0, 1), inside: Path | None = None) -> list[Path]:
    """Lists the picture files in a folder, ordered by the number in their names: frame_000012.jpg, frame_0012.png, 12.jpg.

    Numbers must run without a gap from one of `first`. With `inside`, symbolic links must not lead out of that folder. Other
    files are ignored. The list may be empty. Raises FileProblem.
    """
    if inside is not None and not stays_in(inside, folder):
        raise FileProblem("leads out of the avatar's folder")
    named: dict[int, list[os.DirEntry[str]]] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if match := _FRAME_NAME.fullmatch(entry.name):
                    named.setdefault(int(match[1]), []).append(entry)
    except FileNotFoundError:
        raise FileProblem("is missing") from None
    except NotADirectoryError:
        raise FileProblem("is not a folder") from None
    except OSError as error:
        raise FileProblem(f"cannot be listed: {error.strerror}") from None
    _check(named, first, inside)
    return [folder / named[number][0].name for number in sorted(named)]


def numbering_problems(numbers: Sequence[int], *, first: Sequence[int] = (0, 1)) -> list[str]:
    """Says which numbers are missing between one of `first` and the last of `numbers`; empty if none is."""
    ordered = sorted(set(numbers))
    # One number before the beginning, so that a gap there is named like any other.
    before = ordered if not ordered or ordered[0] in first else [first[0] - 1, *ordered]
    # Only the ends of each gap are looked at: a stray number may be a billion past the last.
    gaps = [(low + 1, high - 1) for low, high in itertools.pairwise(before) if high - low > 1]
    return shortened([f"frame {low} is missing" if low == high else f"frames {low} to {high} are missing" for low, high in gaps])


def _check(named: dict[int, list[os.DirEntry[str]]], first: Sequence[int], inside: Path | None) -> None:
    if len(named) > MAX_FRAMES:
        raise FileProblem(f"has {len(named)} frames, more than the {MAX_FRAMES} allowed")
    twice = [
        f"frame {number} is there more than once: {' and '.join(sorted(entry.name for entry in entries))}"
        for number, entries in sorted(named.items())
        if len(entries) > 1
    ]
    links = [entry for entries in named.values() for entry in entries if entry.is_symlink()]
    outside = [
        f"{link.name} leads out of the avatar's folder" for link in links if inside and not stays_in(inside, Path(link.path))
    ]
    problems = [*shortened(twice), *shortened(outside), *numbering_problems(list(named), first=first)]
    if problems:
        raise FileProblem(problems)
