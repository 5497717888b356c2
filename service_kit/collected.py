"""Values from all sources laid over each other, under canonical keys, with what is wrong about the keys themselves."""

from __future__ import annotations

import difflib
import json
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from service_kit.schema import Entries, Group, Leaf, Node, leaves
from service_kit.sources import ENVIRONMENT_PREFIX, LEVEL_SEPARATOR, Given

Path = tuple[str, ...]

MAX_SHOWN_CHARS = 100

# Does not walk through all of what a YAML file can make of aliases.
_shown = reprlib.Repr()
_shown.maxlevel = 3
_shown.maxstring = _shown.maxother = MAX_SHOWN_CHARS


@dataclass(frozen=True, slots=True)
class Value:
    """One key's value and where it came from."""

    value: Any
    source: str


def shown(value: object, leaf: Leaf | None) -> str:
    """A given value for a message: short, and never a secret."""
    if leaf is not None and leaf.secret:
        return "a hidden value"
    text = json.dumps(value) if value is None or isinstance(value, bool) else _shown.repr(value)
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."


class Collected:
    """`add` the sources in order, later ones winning; then `problems`, `warnings` and `tree` tell the result."""

    def __init__(self, schema: Group, meaningless: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self._schema = schema
        self._meaningless = {tuple(pattern.split(".")): reason for pattern, reason in meaningless.items()}
        self._without_effect: dict[Path, list[str]] = {}
        self._values: dict[Path, Value] = {}
        self._entries: dict[Path, None] = {}  # entries of maps, which count also without a key
        self._given_names: dict[tuple[str, Path], str] = {}

    @property
    def warnings(self) -> list[str]:
        """One sentence for each accepted key that does nothing, however often it was given."""
        return [_without_effect(paths, self._meaningless[pattern]) for pattern, paths in self._without_effect.items()]

    def add(self, given: Given) -> None:
        """Lays one value or tree over what is there."""
        self._add_below(self._schema, (), given.keys, given.value, given.source)

    def value_at(self, path: Path) -> Value | None:
        """What was given for a canonical path."""
        return self._values.get(path)

    def tree(self) -> dict[str, Any]:
        """The values as pydantic wants them."""
        top: dict[str, Any] = {}
        for path in self._entries:
            self._branch(top, path)
        for path, given in self._values.items():
            branch = self._branch(top, path[:-1])
            branch[self._input_name(path)] = given.value
        return top

    def _add_below(self, node: Node, path: Path, keys: Path, value: Any, source: str) -> None:
        if self._is_meaningless(path):
            return
        if keys:
            self._add_member(node, path, keys[0], keys[1:], value, source)
        elif isinstance(node, Leaf):
            self._add_value(node, path, value, source)
        elif isinstance(value, Mapping):
            for key, member in value.items():
                self._add_member(node, path, str(key), (), member, source)
        elif value is not None:  # a section all of whose keys are commented out is null
            self.problems.append(f"{_dotted(path)}: {shown(value, None)} given ({source}); {_members(node)}")

    def _add_member(self, node: Node, path: Path, key: str, keys: Path, value: Any, source: str) -> None:
        match node:
            case Entries():
                self._entries[(*path, key)] = None
                self._add_below(node.value, (*path, key), keys, value, source)
            case Group() if key in node.names:
                name = node.names[key]
                first = self._given_names.setdefault((source, (*path, name)), key)
                if first != key:
                    self.problems.append(
                        f"{_dotted((*path, first))} and {_dotted((*path, key))} are the same key: give one ({source})"
                    )
                self._add_below(node.fields[name], (*path, name), keys, value, source)
            case _:
                self._add_unknown((*path, key, *keys), value, source)

    def _add_value(self, leaf: Leaf, path: Path, value: Any, source: str) -> None:
        if leaf.is_number and isinstance(value, bool):
            self.problems.append(f"{_dotted(path)}: {shown(value, leaf)} given ({source}); accepted: {leaf.accepted}")
            return
        self._values[path] = Value(value, source)

    def _is_meaningless(self, path: Path) -> bool:
        """Whether `path` has no meaning for us, which is then noted for one warning."""
        for pattern in self._meaningless:
            if len(pattern) == len(path) and _begins(pattern, path):
                given_so_far = self._without_effect.setdefault(pattern, [])
                if _dotted(path) not in given_so_far:
                    given_so_far.append(_dotted(path))
                return True
        return False

    def _add_unknown(self, path: Path, value: Any, source: str) -> None:
        if self._is_meaningless(path):
            return
        if isinstance(value, Mapping) and any(_begins(pattern, path) for pattern in self._meaningless):
            for key, member in value.items():
                self._add_unknown((*path, str(key)), member, source)
            return
        nearest = _nearest(path, self._schema)
        hint = ""
        if nearest:
            spelling = ENVIRONMENT_PREFIX + LEVEL_SEPARATOR.join(nearest).upper() if source.startswith("environment") else ""
            hint = f"; did you mean {_dotted(nearest)}{f' ({spelling})' if spelling else ''}?"
        self.problems.append(f"{_dotted(path)}: unknown key ({source}){hint}")

    def _branch(self, top: dict[str, Any], path: Path) -> dict[str, Any]:
        for end in range(1, len(path) + 1):
            top = top.setdefault(self._input_name(path[:end]), {})
        return top

    def _input_name(self, path: Path) -> str:
        node: Node = self._schema
        for name in path[:-1]:
            node = _member(node, name)
        return node.input_names[path[-1]] if isinstance(node, Group) else path[-1]


def _begins(pattern: Path, path: Path) -> bool:
    """Whether `path` is the pattern, or a section that the pattern lies in."""
    return len(path) <= len(pattern) and all(part in {"*", given} for part, given in zip(pattern, path, strict=False))


def _without_effect(paths: list[str], reason: str) -> str:
    more = f" and {len(paths) - 1} more like it" if len(paths) > 1 else ""
    return f"{paths[0]}{more}: no effect here; {reason}"


def _member(node: Node, name: str) -> Node:
    match node:
        case Group():
            return node.fields[name]
        case Entries():
            return node.value
        case Leaf():
            raise KeyError(name)


def _dotted(path: Path) -> str:
    """A path for a message. Keys come from files, so they are bounded."""
    return ".".join(path)[:200] or "the configuration"


def _members(node: Node) -> str:
    if isinstance(node, Group):
        return f"accepted: a section with the keys {', '.join(node.fields)}"
    return "accepted: a map from ids to their keys"


def _nearest(path: Path, schema: Group) -> Path | None:
    """The known key that `path` was probably meant to be."""
    known: dict[str, Path] = {}
    for candidate in _candidates(schema, path):
        # "server_port" shall find server.port, so separators do not count.
        known.setdefault("_".join(candidate).lower(), candidate)
    matches = difflib.get_close_matches("_".join(path).lower()[:200], known, n=1, cutoff=0.7)
    if matches:
        return known[matches[0]]
    same_name = [candidate for candidate in known.values() if candidate[-1] == path[-1].lower()]
    return same_name[0] if same_name else None


def _candidates(schema: Group, path: Path) -> Iterator[Path]:
    """All sections and keys; of entries of maps, which may have any id, the keys, with the id that `path` has there."""
    for dotted, _ in leaves(schema):
        parts = tuple(dotted.split("."))
        if "<id>" not in parts:
            yield from (parts[:end] for end in range(1, len(parts) + 1))
        elif len(path) == len(parts):
            yield tuple(given if part == "<id>" else part for part, given in zip(parts, path, strict=True))
