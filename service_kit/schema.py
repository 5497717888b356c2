"""The keys of a settings class, as a tree made from pydantic's own JSON schema.

A node is a section, a map from ids to nodes, or a value. Sections have `names`: each older name of a key with the present one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from pydantic import AliasChoices, BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

Node = Mapping[str, Any]

ID = "<id>"
# Words for types and formats whose own name is unclear.
_WORDS = {
    "boolean": "true or false",
    "integer": "whole number",
    "ipv4network": "IPv4 network",
    "ipv6network": "IPv6 network",
    "password": "secret text",
    "string": "text",
}
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


class Generator(GenerateJsonSchema):
    """Adds the older names of keys, and `ACCEPTED` of types that are written as text."""

    def model_schema(self, schema: core_schema.ModelSchema) -> dict[str, Any]:
        aliases = {name: field.validation_alias for name, field in schema["cls"].model_fields.items()}
        choices = {name: alias.choices for name, alias in aliases.items() if isinstance(alias, AliasChoices)}
        names = {alias: name for name in choices for alias in choices[name]}
        return super().model_schema(schema) | {"names": names}

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> dict[str, Any]:
        accepted = getattr(schema["cls"], "ACCEPTED", None)
        return {"type": "string", "accepted": accepted} if accepted else super().dataclass_schema(schema)


@lru_cache
def schema_of(cls: type[BaseModel], generator: type[Generator] = Generator) -> Node:
    """Returns the tree of the keys of a settings class."""
    schema = cls.model_json_schema(by_alias=False, schema_generator=generator)
    resolved: Node = _resolved(schema, schema.get("$defs", {}))
    return resolved


def members(node: Node) -> Mapping[str, Node]:
    """Returns the nodes below a section, by name; the one below a map, as `<id>`; none below a value."""
    if is_map(node):
        return {ID: {"description": node.get("description", ""), **node["additionalProperties"]}}
    return node["properties"] if "names" in node else {}


def member(node: Node | None, name: str) -> Node | None:
    """Returns the node below `node` with this name or older name; None if there is none."""
    below = members(node or {})
    return below.get(ID) or below.get((node or {}).get("names", {}).get(name, name))


def keys(node: Node, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Node]]:
    """Yields every node below `node` with its path, sections and maps before their members."""
    for name, below in members(node).items():
        yield (*prefix, name), below
        yield from keys(below, (*prefix, name))


def is_map(node: Node) -> bool:
    """Returns True for a node whose keys are ids that the configuration chooses."""
    return isinstance(node.get("additionalProperties"), Mapping)


def is_secret(node: Node) -> bool:
    """Returns True for a key whose value no message may show."""
    return node.get("format") == "password" or any(map(is_secret, node.get("anyOf", ())))


def types(node: Node) -> set[str]:
    """Returns the JSON types that a value may have."""
    return set().union(*map(types, node["anyOf"])) if "anyOf" in node else {node.get("type", "object")}


def accepted(node: Node) -> str:
    """Returns the accepted values in words, for messages and documentation."""
    match node:
        case {"accepted": words}:
            pass
        case {"anyOf": choices}:
            words = ", or ".join(map(accepted, choices))
        case {"const": value}:
            words = value
        case {"enum": values}:
            words = f"one of {', '.join(map(str, values))}"
        case {"items": items}:
            words = f"list of {accepted(items)}"
        case {"properties": properties}:
            words = f"{'a section' if 'names' in node else 'map'} with the keys {', '.join(properties)}"
        case {"additionalProperties": _}:
            words = "a map from ids to their keys"
        case {"minimum": lower, "maximum": upper, "type": kind}:
            words = f"{_WORDS.get(kind, kind)} from {lower} to {upper}"
        case _:
            kind = node.get("format", node.get("type", "anything"))
            bounds = ", ".join(f"{words} {node[bound]}" for bound, words in _BOUNDS.items() if bound in node)
            words = f"{_WORDS.get(kind, kind)} {bounds}".rstrip()
    return str(words)


def _resolved(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Returns the schema with every `$ref` replaced by its target, and a section's default passed to its keys."""
    if isinstance(schema, list):
        return [_resolved(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]] | {key: schema[key] for key in schema if key != "$ref"}
    if "names" in schema and "default" in schema:
        handed_down = {name: below | {"default": schema["default"][name]} for name, below in schema["properties"].items()}
        schema = schema | {"properties": handed_down}
    return {key: _resolved(value, definitions) for key, value in schema.items() if key != "$defs"}
