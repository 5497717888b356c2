"""Where settings come from: a YAML file, environment variables, --set. Each gives paths of keys with values, not yet checked.

YAML is read with fewer surprises than PyYAML has by default: only true, false, null and numbers are other than text (no "yes",
no dates, no 7 for 007, no 3661 for 1:01:01), keys are always text, and a key given twice is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from service_kit.schema import Entries, Group, Leaf, Node

ENVIRONMENT_PREFIX = "LIPSYNC_"
LEVEL_SEPARATOR = "__"
MAX_FILE_BYTES = 1 << 20

# Kubernetes puts such variables into every container of a namespace that has a service named "lipsync".
_SERVICE_LINK = re.compile(r"[A-Z0-9_]*(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_SERVICE_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")


@dataclass(frozen=True, slots=True)
class Given:
    """One value, or a tree of them, and where it stands. `keys` leads to it from the top; empty: the whole configuration."""

    keys: tuple[str, ...]
    value: Any
    source: str


class SourceError(Exception):
    """A source cannot be read; the sentence says which and why."""


class _Loader(yaml.SafeLoader):
    """Reads one document; see the module's text for the differences."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's name, filled below

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.problems: list[str] = []

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.problems.append(f"line {key.start_mark.line + 1}: a key must be plain text")
                continue
            if key.tag != "tag:yaml.org,2002:merge":
                key.tag = "tag:yaml.org,2002:str"
            if key.value in seen:
                self.problems.append(f"line {key.start_mark.line + 1}: the key {key.value} is given twice")
            seen.add(key.value)
        return node


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def parse_yaml(text: str) -> Any:
    """The value that YAML text means; SourceError says what is wrong and in which line."""
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        value = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        if loader is not None and loader.problems:
            raise SourceError("; ".join(loader.problems)) from None
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise SourceError(f"{line}not YAML: {error.problem or error.context}") from None
    except RecursionError:
        raise SourceError("not YAML that can be read: nested too deeply") from None
    except (yaml.YAMLError, ValueError):
        raise SourceError("not YAML: it has characters that YAML does not allow") from None
    finally:
        if loader is not None:
            loader.dispose()
    if loader.problems:
        raise SourceError("; ".join(loader.problems))
    return value


def from_file(path: Path) -> Given:
    """The configuration file as one tree."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SourceError(f"{path}: the configuration file cannot be read: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise SourceError(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB, which no configuration file is")
    try:
        return Given((), parse_yaml(content.decode("utf-8-sig")), f"in {path}")
    except UnicodeDecodeError:
        raise SourceError(f"{path}: not UTF-8 text") from None
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from None


def from_environment(environ: Mapping[str, str], schema: Group) -> Iterator[Given]:
    """LIPSYNC_SERVER__PORT and the like. Keys in any case, ids of maps as they are written; empty means not given."""
    for name, text in sorted(environ.items()):
        if not name.startswith(ENVIRONMENT_PREFIX) or not text or _is_service_link(name, text):
            continue
        yield _given(name.removeprefix(ENVIRONMENT_PREFIX), text, LEVEL_SEPARATOR, schema, f"environment variable {name[:100]}")


def from_override(override: str, schema: Group) -> Given:
    """--set section.key=value; SourceError for one without "="."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise SourceError(f"--set {override[:100]}: write it as --set section.key=value")
    return _given(key, text, ".", schema, f"--set {key[:100]}")


def _is_service_link(name: str, text: str) -> bool:
    return _SERVICE_LINK.fullmatch(name) is not None or (name.endswith("_PORT") and _SERVICE_LINK_VALUE.match(text) is not None)


def _given(path: str, text: str, separator: str, schema: Group, source: str) -> Given:
    keys, node = _resolve(schema, path, separator, has_tree=_is_tree(text))
    return Given(keys, _value(text, node), source)


def _value(text: str, node: Node | None) -> Any:
    """`text` as the key's type wants it: as it stands, or as YAML; what is not YAML stands for itself and fails validation."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if isinstance(node, Leaf) and node.is_text and not quoted:
        return None if type(None) in node.kinds and text in {"", "~", "null"} else text
    try:
        return parse_yaml(text)
    except SourceError:
        return text


def _is_tree(text: str) -> bool:
    try:
        return isinstance(parse_yaml(text), dict)
    except SourceError:
        return False


def _resolve(node: Node, path: str, separator: str, *, has_tree: bool) -> tuple[tuple[str, ...], Node | None]:
    """The keys that `path` means, and what stands there; None when no key is known there."""
    if not path:
        return (), node
    match node:
        case Group():
            head, _, tail = path.partition(separator)
            name = node.names.get(_key(head, separator))
            if name is None:
                return tuple(_key(part, separator) for part in path.split(separator)), None
            below, found = _resolve(node.fields[name], tail, separator, has_tree=has_tree)
            return (name, *below), found
        case Entries():
            return _resolve_entry(node, path, separator, has_tree=has_tree)
        case Leaf():
            return tuple(path.split(separator)), None


def _resolve_entry(entries: Entries, path: str, separator: str, *, has_tree: bool) -> tuple[tuple[str, ...], Node | None]:
    """The id of an entry may hold the separator: it is what is left when the shortest tail that is a key is taken off."""
    end = path.rfind(separator)
    while end > 0:
        below, found = _resolve(entries.value, path[end + len(separator) :], separator, has_tree=has_tree)
        if isinstance(found, Leaf) or (has_tree and found is not None):
            return (path[:end], *below), found
        # One character further left, not one separator: an id may end with what separators are made of.
        end = path.rfind(separator, 0, end + len(separator) - 1)
    name, _, key = path.rpartition(separator)
    if has_tree or isinstance(entries.value, Leaf) or not name:
        return (path,), entries.value
    return (name, _key(key, separator)), None


def _key(part: str, separator: str) -> str:
    """Environment variables are written in capitals, and no key has any."""
    return part.lower() if separator == LEVEL_SEPARATOR else part
