"""Reads the sources of settings: a YAML file, environment variables, --set. Each becomes a tree of values, not yet checked.

YAML follows its version 1.2, with fewer surprises than PyYAML has by default: only true, false, null and numbers are not text
(no "yes", no dates, no 7 for 007, no 3661 for 1:01:01), keys are always text, and a key given twice is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from service_kit.schema import ID, Node, is_map, member, members, types

_PREFIX = "LIPSYNC_"
_SEPARATOR = "__"
# Of clients, which may run beside a service.
_NO_SETTINGS = {"LIPSYNC_API_KEY"}
MAX_FILE_BYTES = 1 << 20

# Kubernetes puts such variables into every container of a namespace that has a service named "lipsync".
_SERVICE_LINK = re.compile(r"[A-Z0-9_]*(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_SERVICE_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")

# A tree of values, and the name of its source for messages.
Source = tuple[Any, str]


class SourceError(Exception):
    """A source cannot be read. The sentence says which one and why."""


class _Loader(yaml.SafeLoader):
    """Reads one document, with the differences that the module names."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's name, filled below

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
            if key.tag != "tag:yaml.org,2002:merge":
                key.tag = "tag:yaml.org,2002:str"
        return node


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def from_file(path: Path) -> Iterator[Source]:
    """Reads the configuration file. Raises SourceError."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SourceError(f"{path}: the configuration file cannot be read: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise SourceError(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB, which no configuration file is")
    try:
        yield _parsed(content), f"in {path}"
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from None


def from_environment(environ: Mapping[str, str], schema: Node) -> Iterator[Source]:
    """Reads variables such as LIPSYNC_SERVER__PORT. Keys may be in any case, ids of maps not. An empty value means not given."""
    for name, text in sorted(environ.items()):
        is_link = _SERVICE_LINK.fullmatch(name) or (name.endswith("_PORT") and _SERVICE_LINK_VALUE.match(text))
        if name.startswith(_PREFIX) and text and not is_link and name not in _NO_SETTINGS:
            yield _tree(name.removeprefix(_PREFIX), text, _SEPARATOR, schema), f"environment variable {name[:100]}"


def variable(path: tuple[str, ...]) -> str:
    """Returns the environment variable of a key."""
    return _PREFIX + _SEPARATOR.join(path).upper()


def from_override(override: str, schema: Node) -> Iterator[Source]:
    """Reads --set section.key=value. Raises SourceError without "="."""
    path, equals, text = override.partition("=")
    path = path.strip()
    if not equals or not path:
        raise SourceError(f"--set {override[:100]}: write it as --set section.key=value")
    yield _tree(path, text, ".", schema), f"--set {path[:100]}"


def _tree(path: str, text: str, separator: str, schema: Node) -> Any:
    """Returns the value that `text` means, below the keys that `path` means.

    Ids of maps may contain separators: the key of an entry follows the last one, unless the value is a map for a whole entry.
    """
    try:
        value = _parsed(text)
    except SourceError:
        value = text  # fails validation where text is not accepted
    fold = str.lower if separator == _SEPARATOR else str  # variables are upper case, keys are not
    keys: list[str] = []
    node: Node | None = schema
    while path:
        if node is not None and is_map(node):
            entry = members(node)[ID]
            key, _, rest = path.rpartition(separator)
            if not key or not members(entry) or (isinstance(value, dict) and not member(entry, fold(rest))):
                key, rest = path, ""
        else:
            key, _, rest = path.partition(separator)
            key = fold(key)
        keys.append(key)
        node, path = member(node, key), rest
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if node is not None and types(node) <= {"string", "null"} and not is_quoted:
        value = None if "null" in types(node) and text in {"", "~", "null"} else text
    for key in reversed(keys):
        value = {key: value}
    return value


def _parsed(text: str | bytes) -> Any:
    """Returns the value of YAML text. Raises SourceError, which names the mistake and its line."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise SourceError(f"{line}{error.problem or error.context}") from None
    except RecursionError:
        raise SourceError("nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise SourceError(f"not YAML: {error}".partition("\n")[0]) from None
