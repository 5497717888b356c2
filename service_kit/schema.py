"""The keys that a settings class knows, as a tree: what the loader checks against and what the documentation lists.

pydantic validates values; this says which keys there are, under which names, and what each accepts, in the words that both error
messages and documentation use.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, Union, get_args, get_origin

import annotated_types
from pydantic import AliasChoices, BaseModel, BeforeValidator, PlainValidator, SecretBytes, SecretStr, WrapValidator
from pydantic.fields import FieldInfo

# Where YAML's own types are meant; all other fields take the text of an environment variable or of --set as it is.
_YAML_TYPES = {bool, int, float, list, tuple, dict, set, frozenset}
# With one of these a field reads forms of its own, which its description tells.
_OWN_FORM = (BeforeValidator, PlainValidator, WrapValidator)
_PLAIN = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    SecretStr: "secret text",
    SecretBytes: "secret text",
    Path: "path",
    type(None): "null",
}


@dataclass(frozen=True, slots=True)
class Leaf:
    """A key with a value. `accepted` says in words what may be given."""

    accepted: str
    kinds: frozenset[object]  # the plain types among the alternatives, None's included
    secret: bool

    @property
    def is_text(self) -> bool:
        """Whether the text of --set or of an environment variable is the value, rather than YAML for it."""
        return not self.kinds & _YAML_TYPES and not any(map(_is_map, self.kinds))

    @property
    def is_number(self) -> bool:
        """Whether true and false are mistakes here, although Python counts them as 1 and 0."""
        return bool(self.kinds & {int, float}) and bool not in self.kinds


@dataclass(frozen=True, slots=True)
class Group:
    """A section. `names` leads from every accepted name to the canonical one, `input_names` on to the one that pydantic wants."""

    fields: Mapping[str, Node]
    names: Mapping[str, str]
    input_names: Mapping[str, str]
    model: type[BaseModel]


@dataclass(frozen=True, slots=True)
class Entries:
    """A map whose keys are ids that the configuration chooses."""

    value: Node


Node = Leaf | Group | Entries


@lru_cache
def schema_of(model: type[BaseModel]) -> Group:
    """The tree of keys of a settings class."""
    fields: dict[str, Node] = {}
    names: dict[str, str] = {}
    input_names: dict[str, str] = {}
    by_name = bool(model.model_config.get("validate_by_name") or model.model_config.get("populate_by_name"))
    for name, field in model.model_fields.items():
        fields[name] = _node(field.annotation, tuple(field.metadata))
        aliases = _aliases(field)
        names.update(dict.fromkeys((name, *aliases), name))
        input_names[name] = name if by_name or not aliases else aliases[0]
    return Group(fields, names, input_names, model)


def leaves(node: Node, prefix: str = "") -> Iterator[tuple[str, Leaf]]:
    """Every key below `node`, dotted; the id of a map's entry appears as `<id>`."""
    match node:
        case Leaf():
            yield prefix, node
        case Group():
            for name, below in node.fields.items():
                yield from leaves(below, f"{prefix}.{name}" if prefix else name)
        case Entries():
            yield from leaves(node.value, f"{prefix}.<id>")


def _aliases(field: FieldInfo) -> tuple[str, ...]:
    alias = field.validation_alias or field.alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return tuple(choice for choice in choices if isinstance(choice, str))


def _node(annotation: Any, metadata: tuple[object, ...]) -> Node:
    annotation, metadata = _bare(annotation, metadata)
    section = _only_section(annotation)
    if section is not None:
        return schema_of(section)
    if get_origin(annotation) is dict:
        return Entries(_node(get_args(annotation)[1], ()))
    kinds = frozenset(_kinds(annotation))
    return Leaf(_in_words(annotation, metadata), kinds, bool(kinds & {SecretStr, SecretBytes}))


def _bare(annotation: Any, metadata: tuple[object, ...]) -> tuple[Any, tuple[object, ...]]:
    """Takes Annotated and NewType off."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            metadata = (
                *(part for each in more for part in (each.metadata if isinstance(each, FieldInfo) else [each])),
                *metadata,
            )
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        else:
            return annotation, metadata


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in {Union, types.UnionType} else (annotation,)


def _only_section(annotation: Any) -> type[BaseModel] | None:
    """The section that `annotation` is, also where it may be null."""
    found = [each for each in _alternatives(annotation) if each is not type(None)]
    if len(found) == 1 and isinstance(found[0], type) and issubclass(found[0], BaseModel):
        return found[0]
    return None


def _kinds(annotation: Any) -> Iterator[object]:
    for alternative in _alternatives(annotation):
        bare, _ = _bare(alternative, ())
        if get_origin(bare) in {Union, types.UnionType}:
            yield from _kinds(bare)
        elif get_origin(bare) is Literal:
            yield from (type(value) for value in get_args(bare))
        else:
            yield get_origin(bare) or bare


def _in_words(annotation: Any, metadata: tuple[object, ...]) -> str:
    bare, metadata = _bare(annotation, metadata)
    alternatives = _alternatives(bare)
    if len(alternatives) > 1:
        return ", or ".join(_in_words(alternative, metadata) for alternative in alternatives)
    if get_origin(bare) is Literal:
        return _choice(get_args(bare))
    if isinstance(bare, type) and issubclass(bare, enum.Enum):
        return _choice([member.value for member in bare])
    if get_origin(bare) in {list, tuple, set, frozenset}:
        return f"list of {_in_words(get_args(bare)[0], ())}"
    if _is_map(bare) and not any(isinstance(each, _OWN_FORM) for each in metadata):
        return f"map with the keys {', '.join(each.name for each in dataclasses.fields(bare))}"
    plain = _PLAIN.get(bare) or getattr(bare, "ACCEPTED", None) or getattr(bare, "__name__", str(bare))
    return f"{plain}{_range(metadata)}" if bare in {int, float} else str(plain)


def _is_map(kind: Any) -> bool:
    """Whether YAML writes such values as maps: dataclasses, other than those that say themselves what text they accept."""
    return dataclasses.is_dataclass(kind) and not hasattr(kind, "ACCEPTED")


def _choice(values: Sequence[object]) -> str:
    words = [json.dumps(value) if isinstance(value, bool) else str(value) for value in values]
    return words[0] if len(words) == 1 else f"one of {', '.join(words)}"


def _range(metadata: tuple[object, ...]) -> str:
    """ " from 1 to 9", " above 0, at most 5", " at least 0" or nothing."""
    lower = upper = ""
    for each in metadata:
        match each:
            case annotated_types.Ge():
                lower = f"at least {each.ge}"
            case annotated_types.Gt():
                lower = f"above {each.gt}"
            case annotated_types.Le():
                upper = f"at most {each.le}"
            case annotated_types.Lt():
                upper = f"below {each.lt}"
    if lower.startswith("at least") and upper.startswith("at most"):
        return f" from {lower.removeprefix('at least ')} to {upper.removeprefix('at most ')}"
    return f" {', '.join(filter(None, (lower, upper)))}" if lower or upper else ""
