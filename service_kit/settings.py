"""Reads the settings of a service once: defaults, YAML file, environment, --set, later ones winning.

pydantic checks the values. This module merges the sources and reports all problems at once, in sentences with the key, the given
value, its source and the accepted values.
"""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from service_kit.near_keys import near_keys
from service_kit.schema import Node, accepted, is_secret, member, members, schema_of, types
from service_kit.service_settings import ServiceSettings
from service_kit.sources import Source, SourceError, from_environment, from_file, from_override, variable

S = TypeVar("S", bound=ServiceSettings)
Keys = tuple[str, ...]

MAX_SHOWN_CHARS = 100

# Shows only a part of the huge values that aliases in a YAML file can make.
_shown = reprlib.Repr()
_shown.maxlevel = 3
_shown.maxstring = _shown.maxother = MAX_SHOWN_CHARS


class SettingsError(Exception):
    """The configuration cannot be used. `problems` has one sentence each: key, given value, source, accepted values."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def load_settings(
    cls: type[S], *, config: Path | None, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> S:
    """Returns the settings from `config`, `environ` (None: the process's own) and `overrides` ("section.key=value").

    Raises SettingsError with every problem. `.warnings` of the result names accepted keys without effect.
    """
    merged = _MergedConfig(cls)
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


def effective(settings: ServiceSettings) -> dict[str, Any]:
    """Returns all dotted keys with the values in force, as JSON types, secrets masked."""

    def flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
        if not isinstance(value, dict) or not value:
            yield key, value
            return
        for name, below in value.items():
            yield from flat(below, f"{key}.{name}" if key else name)

    return dict(flat(settings.model_dump(mode="json"), ""))


def chosen(settings: ServiceSettings) -> dict[str, Any]:
    """Returns those of the `effective` settings that are not the defaults."""
    usual = effective(type(settings)())
    return {key: value for key, value in effective(settings).items() if key not in usual or value != usual[key]}


class _MergedConfig:
    """Merges sources in order, later ones winning, into the `tree` for pydantic. Collects `problems` and `warnings`."""

    def __init__(self, cls: type[ServiceSettings]) -> None:
        self.schema = schema_of(cls)
        self.tree: dict[str, Any] = {}
        self.problems: list[str] = []
        self.warnings: dict[str, str] = {}
        self._meaningless = cls.meaningless
        self._given: dict[Keys, tuple[Any, str]] = {}

    def add(self, sources: Iterable[Source]) -> None:
        """Merges the values of sources; they win over the earlier ones."""
        try:
            for tree, name in sources:
                self._merge(self.tree, self.schema, (), tree, name)
        except SourceError as error:
            self.problems.append(str(error))

    def sentences(self, error: ValidationError) -> list[str]:
        """Returns one sentence a key, however many alternatives pydantic tried for it."""
        sentences: dict[Keys, str] = {}
        for details in error.errors(include_url=False):
            path, node = self._place(details["loc"])
            sentences.setdefault(path, self._sentence(path, node, details))
        return list(sentences.values())

    def _merge(self, target: dict[str, Any], node: Node, path: Keys, given: Any, source: str) -> None:
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
                self._merge(target.setdefault(name, {}), below, here, value, source)
            elif isinstance(value, bool) and types(below) & {"integer", "number"}:  # Python counts them as 1 and 0
                self.problems.append(_wrong(here, below, value, source))
            else:
                target[name] = value
                self._given[here] = value, source

    def _place(self, location: tuple[int | str, ...]) -> tuple[Keys, Node]:
        """Returns the key of pydantic's location, which may go on with indices and names of alternatives."""
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
    """Returns the sentence about a value that is not accepted. It shortens values and hides secrets."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else _shown.repr(value)
    shown = "a hidden value" if is_secret(node) else text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."
    given = f"{shown} given ({source}); " if source else ""
    return f"{_dotted(path)}: {given}{wanted or f'accepted: {accepted(node)}'}"


def _dotted(path: Keys) -> str:
    """Returns a path for a message. Keys come from files, so their length is bounded."""
    return ".".join(path)[:200] or "the configuration"


def _hint(path: Keys, schema: Node, source: str) -> str:
    """Suggests known keys that are near to `path`, in the spelling of its source."""

    def spelled(key: Keys) -> str:
        return _dotted(key) + (f" ({variable(key)})" if source.startswith("environment") else "")

    near = near_keys(path, schema)
    return f"; did you mean {' or '.join(map(spelled, near))}?" if near else ""
