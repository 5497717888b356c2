"""Reads the settings of a service once: defaults, YAML file, environment, --set, later ones winning.

pydantic checks the values. This lays the sources over each other, and tells all problems, not the first alone, in sentences that
name key, given value, source and accepted values.
"""

from __future__ import annotations

import difflib
import json
import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from service_kit.schema import ID, Node, accepted, is_secret, keys, member, members, schema_of, types
from service_kit.sections import ServiceSettings
from service_kit.sources import Given, SourceError, from_environment, from_file, from_override, variable

S = TypeVar("S", bound=ServiceSettings)
Keys = tuple[str, ...]

REQUIRED = "required"
MAX_SHOWN_CHARS = 100

# Does not walk through all of what a YAML file can make of aliases.
_shown = reprlib.Repr()
_shown.maxlevel = 3
_shown.maxstring = _shown.maxother = MAX_SHOWN_CHARS


class SettingsError(Exception):
    """The configuration cannot be used. `problems` has one sentence each: key, given value, its source, accepted values."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """One key for the documentation. Ids of maps are `<id>` in `key`; `default` is JSON, or "required"."""

    key: str
    type: str
    default: str
    description: str


def load_settings(
    cls: type[S], *, config: Path | None, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> S:
    """The settings from `config`, `environ` (None: the process's own) and `overrides` ("section.key=value").

    Raises SettingsError with every problem. `.warnings` of the result names accepted keys without effect.
    """
    merged = _Merged(cls)
    if config is not None:
        merged.add(from_file(config))
    merged.add(from_environment(os.environ if environ is None else environ, merged.schema))
    for override in overrides:
        merged.add(from_override(override, merged.schema))
    try:
        settings = cls.model_validate(merged.tree)
    except ValidationError as error:
        raise SettingsError([*merged.problems, *merged.sentences(error)]) from None
    if merged.problems:
        raise SettingsError(merged.problems)
    settings._warnings = tuple(merged.warnings.values())
    return settings


def describe(cls: type[ServiceSettings]) -> list[KeyDescription]:
    """Every key of a settings class, in order; entries of maps as `models.<id>.key`. docs/configuration.md is made from it."""
    return [
        KeyDescription(
            ".".join(path),
            accepted(node),
            json.dumps(node["default"], ensure_ascii=False) if "default" in node else REQUIRED,
            " ".join(node.get("description", "").split()),
        )
        for path, node in keys(schema_of(cls))
        if not members(node) and ".".join(path) not in cls.meaningless
    ]


def effective(settings: ServiceSettings) -> dict[str, Any]:
    """All dotted keys with the values in force, as JSON types, secrets masked. Logged when a service starts."""

    def flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
        if not isinstance(value, dict) or not value:
            yield key, value
            return
        for name, below in value.items():
            yield from flat(below, f"{key}.{name}" if key else name)

    return dict(flat(settings.model_dump(mode="json"), ""))


class _Merged:
    """`add` the sources in order, later ones winning; then `tree` is for pydantic, with `problems` and `warnings` beside it."""

    def __init__(self, cls: type[ServiceSettings]) -> None:
        self.schema = schema_of(cls)
        self.tree: dict[str, Any] = {}
        self.problems: list[str] = []
        self.warnings: dict[str, str] = {}
        self._meaningless = cls.meaningless
        self._given: dict[Keys, tuple[Any, str]] = {}

    def add(self, source: Iterable[Given]) -> None:
        """Lays the values of a source over those that are there."""
        try:
            for tree, words in source:
                self._lay(self.tree, self.schema, (), tree, words)
        except SourceError as error:
            self.problems.append(str(error))

    def sentences(self, error: ValidationError) -> list[str]:
        """One sentence a key, however many alternatives pydantic tried for it."""
        sentences: dict[Keys, str] = {}
        for details in error.errors(include_url=False):
            path, node = self._place(details["loc"])
            sentences.setdefault(path, self._sentence(path, node, details))
        return list(sentences.values())

    def _lay(self, target: dict[str, Any], node: Node, path: Keys, given: Any, source: str) -> None:
        if given is None:  # a section all of whose keys are commented out
            return
        if not isinstance(given, Mapping):
            self.problems.append(_wrong(path, node, given, source))
            return
        for key, value in given.items():
            name = node.get("names", {}).get(key, key)
            here, below = (*path, name), member(node, name)
            if name != key and name in given:
                self.problems.append(f"{_dotted(here)} and {_dotted((*path, key))} are the same key: give one ({source})")
            elif reason := self._meaningless.get(".".join(here)):
                self.warnings[_dotted(here)] = f"{_dotted(here)}: no effect here; {reason}"
            elif below is None:
                self.problems.append(f"{_dotted(here)}: unknown key ({source}){_hint(here, self.schema, source)}")
            elif members(below):
                self._lay(target.setdefault(name, {}), below, here, value, source)
            elif isinstance(value, bool) and types(below) & {"integer", "number"}:  # Python counts them as 1 and 0
                self.problems.append(_wrong(here, below, value, source))
            else:
                target[name] = value
                self._given[here] = value, source

    def _place(self, location: tuple[int | str, ...]) -> tuple[Keys, Node]:
        """The key that pydantic's location is at or below: below values there are indices and names of alternatives."""
        path: Keys = ()
        node = self.schema
        for part in map(str, location):
            below = member(node, part)
            if below is None or part == "[key]":
                break
            path += (node.get("names", {}).get(part, part),)
            node = below
        return path, node

    def _sentence(self, path: Keys, node: Node, details: ErrorDetails) -> str:
        value, source = self._given.get(path, (None, ""))
        own = details.get("ctx", {}).get("error")
        return _wrong(path, node, value, source, str(own) if own else details["msg"] if not source else "")


def _wrong(path: Keys, node: Node, value: object, source: str, wanted: str = "") -> str:
    """The sentence about a value that is not accepted. Values are shortened, and secrets are not told."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else _shown.repr(value)
    shown = "a hidden value" if is_secret(node) else text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."
    given = f"{shown} given ({source}); " if source else ""
    return f"{_dotted(path)}: {given}{wanted or f'accepted: {accepted(node)}'}"


def _dotted(path: Keys) -> str:
    """A path for a message. Keys come from files, so they are bounded."""
    return ".".join(path)[:200] or "the configuration"


def _hint(path: Keys, schema: Node, source: str) -> str:
    """The known section or key that `path` was probably meant to be, in the spelling of its source."""
    known: dict[str, Keys] = {}
    for candidate, _ in keys(schema):
        if ID not in candidate or len(candidate) == len(path):
            meant = tuple(path[place] if part == ID else part for place, part in enumerate(candidate))
            # "server_port" shall find server.port, so separators do not count.
            known.setdefault("_".join(meant).lower(), meant)
    close = difflib.get_close_matches("_".join(path).lower()[:200], known, n=1, cutoff=0.7)
    same_name = [text for text, meant in known.items() if meant[-1] == path[-1].lower()]
    for nearest in (*close, *same_name):
        spelled = f" ({variable(known[nearest])})" if source.startswith("environment") else ""
        return f"; did you mean {_dotted(known[nearest])}{spelled}?"
    return ""
