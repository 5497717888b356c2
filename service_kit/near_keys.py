"""Finds the known keys that an unknown one was probably meant to be; none rather than one that has little to do with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from service_kit.schema import ID, Node, keys, member, members

Keys = tuple[str, ...]

# Shares of equal letters: more where the sections differ too, less of a short name, of which one letter is much.
SIMILAR, VERY_SIMILAR = 0.75, 0.85
SHORT_CHARS, SIMILAR_SHORT = 3, 0.66
# Of more places than these, none is the likely one.
MOST_PLACES = 3
MAX_COMPARED_CHARS = 200


def near_keys(path: Keys, schema: Node) -> Sequence[Keys]:
    """Returns what `path` may be meant to be, at most MOST_PLACES keys. Its last name is unknown; the others are of a section."""
    wanted = tuple(name.lower()[:MAX_COMPARED_CHARS] for name in path)
    return next((found for found in _by_likeness(path[:-1], wanted, schema) if 0 < len(found) <= MOST_PLACES), ())


def _by_likeness(section: Keys, wanted: Keys, schema: Node) -> Iterator[list[Keys]]:
    """Yields the keys that are like `wanted` in some way, the most telling way first."""
    name, whole = wanted[-1], "_".join(wanted)
    elsewhere = [key for key, _ in keys(schema) if ID not in key]  # any id would be like any name
    joined = {"_".join(key): key for key in elsewhere}  # so that "server_port" finds server.port
    siblings = list(members(_node(section, schema)))
    yield [joined[whole]] if whole in joined else []
    yield [(*section, each) for each in _close(name, siblings, SIMILAR_SHORT if len(name) <= SHORT_CHARS else SIMILAR)]
    yield [(*section, each) for each in siblings if _extends(each, name) or _extends(name, each)]
    if "_" in name:  # a single word says little of another section
        yield [key for key in elsewhere if _close(name, key[-1:], VERY_SIMILAR)]
    if not section:
        yield [key for key in elsewhere if len(key) == 2 and key[-1] == name]
        yield [joined[text] for text in _close(name, list(joined), VERY_SIMILAR)]


def _close(name: str, known: Sequence[str], share: float) -> list[str]:
    """Returns the closest one, if any."""
    return difflib.get_close_matches(name, known, 1, share)


def _extends(long: str, short: str) -> bool:
    """Tells if a name is another one with further words, as drain_seconds is drain and grpc_port is port."""
    return long.startswith(f"{short}_") or long.endswith(f"_{short}")


def _node(section: Keys, schema: Node) -> Node:
    for name in section:
        schema = member(schema, name) or {}
    return schema
