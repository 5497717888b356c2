"""Reads the settings of a service once: defaults, YAML file, environment, --set, later ones winning.

Keys are checked here, against the class's schema, values by pydantic. Every problem is reported, not the first alone. Entries of
a map are addressed by id, which may hold dots and dashes: `--set models.my-avatar.v2.preload=true`,
`LIPSYNC_MODELS__my-avatar.v2__PRELOAD=true`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from service_kit.collected import Collected, shown
from service_kit.schema import Entries, Group, Leaf, Node, schema_of
from service_kit.sections import ServiceSettings
from service_kit.sources import Given, SourceError, from_environment, from_file, from_override

S = TypeVar("S", bound=ServiceSettings)

REQUIRED = "required"


class SettingsError(Exception):
    """The configuration cannot be used. `problems` has one sentence each: key, given value, its source, what is accepted."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """One key for the documentation. Ids of maps stand in `key` as `<id>`; `default` is JSON, or "required"."""

    key: str
    type: str
    default: str
    description: str


def load_settings(
    cls: type[S], *, config: Path | None, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> S:
    """The settings from `config`, `environ` (None: the process's own) and `overrides` ("section.key=value").

    Raises SettingsError with every problem. Accepted keys without effect are told in `.warnings` of the result.
    """
    schema = schema_of(cls)
    collected = Collected(schema, cls.meaningless)
    _collect(collected, schema, config, overrides, os.environ if environ is None else environ)
    try:
        settings = cls.model_validate(collected.tree())
    except ValidationError as error:
        raise SettingsError([*collected.problems, *_value_problems(error, schema, collected)]) from None
    if collected.problems:
        raise SettingsError(collected.problems)
    settings._warnings = tuple(collected.warnings)
    return settings


def describe(cls: type[ServiceSettings]) -> list[KeyDescription]:
    """Every key of a settings class, in order; entries of maps as `models.<id>.key`. docs/configuration.md is made from it."""
    schema = schema_of(cls)
    without_meaning = set(cls.meaningless)
    rows = _describe(schema, "", _defaults(schema))
    return [row for row in rows if row.key.replace("<id>", "*") not in without_meaning]


def effective(settings: ServiceSettings) -> dict[str, Any]:
    """All dotted keys with the values in force, as JSON types, secrets masked. Logged when a service starts."""
    return dict(_flat(schema_of(type(settings)), "", settings.model_dump(mode="json")))


def _collect(
    collected: Collected, schema: Group, config: Path | None, overrides: Sequence[str], environ: Mapping[str, str]
) -> None:
    def add(read: Callable[[], Given]) -> None:
        try:
            collected.add(read())
        except SourceError as error:
            collected.problems.append(str(error))

    if config is not None:
        add(partial(from_file, config))
    for given in from_environment(environ, schema):
        collected.add(given)
    for override in overrides:
        add(partial(from_override, override, schema))


def _value_problems(error: ValidationError, schema: Group, collected: Collected) -> list[str]:
    """One sentence a key, however many alternatives pydantic tried for it."""
    problems: dict[str, str] = {}
    for details in error.errors(include_url=False):
        path, leaf = _place(schema, details["loc"])
        dotted = ".".join(path)
        given = collected.value_at(path)
        what = "nothing" if given is None else shown(given.value, leaf)
        source = "" if given is None else f" ({given.source})"
        problems.setdefault(dotted, f"{dotted or 'the configuration'}: {what} given{source}; {_wanted(details, leaf)}")
    return list(problems.values())


def _place(schema: Group, location: tuple[int | str, ...]) -> tuple[tuple[str, ...], Leaf | None]:
    """The canonical path that pydantic's location lies at or below. Below a leaf are indices and names of alternatives."""
    path: list[str] = []
    node: Node = schema
    for part in location:
        match node:
            case Group() if part in node.names:
                path.append(node.names[str(part)])
                node = node.fields[path[-1]]
            case Entries() if str(part) != "[key]":
                path.append(str(part))
                node = node.value
            case _:
                break
    return tuple(path), node if isinstance(node, Leaf) else None


def _wanted(details: ErrorDetails, leaf: Leaf | None) -> str:
    """A validator of ours says itself what it wants; of the rest the schema knows it."""
    own = details.get("ctx", {}).get("error")
    if details["type"] in {"value_error", "assertion_error"} and own is not None:
        return str(own)
    return f"accepted: {leaf.accepted}" if leaf is not None else details["msg"]


def _describe(group: Group, prefix: str, defaults: Mapping[str, Any]) -> Iterator[KeyDescription]:
    for name, node in group.fields.items():
        field = group.model.model_fields[name]
        default = defaults.get(name, REQUIRED)
        yield from _describe_node(node, f"{prefix}{name}", default, " ".join((field.description or "").split()))


def _describe_node(node: Node, key: str, default: Any, description: str) -> Iterator[KeyDescription]:
    match node:
        case Leaf():
            text = REQUIRED if default is REQUIRED else json.dumps(default, ensure_ascii=False)
            yield KeyDescription(key, node.accepted, text, description)
        case Group():
            yield from _describe(node, f"{key}.", default if isinstance(default, Mapping) else _defaults(node))
        case Entries():
            yield from _describe_node(node.value, f"{key}.<id>", REQUIRED, description)


def _defaults(group: Group) -> dict[str, Any]:
    """What a section holds when nothing is given, as JSON types; required keys are absent."""
    defaults: dict[str, Any] = group.model.model_construct().model_dump(mode="json")
    return defaults


def _flat(node: Node, key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Leaf) or not value:
        yield key, value
        return
    for name, member in value.items():
        below = node.fields[name] if isinstance(node, Group) else node.value
        yield from _flat(below, f"{key}.{name}" if key else name, member)
