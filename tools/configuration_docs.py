"""Writes docs/configuration.md from the settings classes: `python -m tools.configuration_docs docs/configuration.md`."""

from __future__ import annotations

import ast
import inspect
import json
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import core_schema

from gateway_service.settings import GatewaySettings
from lipsync_adapters.livekit.settings import LivekitSettings
from monolithic_service.settings import SETTINGS
from service_kit.schema import Generator, accepted, keys, members, schema_of
from service_kit.service_settings import ServiceSettings

_INTRODUCTION = """\
# Configuration

This page is made from the code by `make docs`; a test fails when the two differ.

A service takes its settings from its defaults, the file given with `--config`, environment variables, and `--set`; later ones
win. It reads them once, at start. An unknown key, or a value that is not accepted, ends the start with a sentence for each
problem; for an unknown key, the sentence suggests known ones that are near. The first line of the log names the settings that are
not the defaults; with `logging.level=debug` a second line names all.

| where | how `server.port` is written | how `models.my-avatar.preload` is written |
|---|---|---|
| file, YAML | `server: {port: ":6001"}` | `models: {my-avatar: {preload: true}}` |
| environment | `LIPSYNC_SERVER__PORT=:6001` | `LIPSYNC_MODELS__my-avatar__PRELOAD=true` |
| command line | `--set server.port=:6001` | `--set models.my-avatar.preload=true` |

Ids may contain dots and dashes, in a variable's name also `__`: the key of an avatar is the part after the last separator.

`deploy/config/inference.yaml`, `deploy/config/compositing.yaml` and `deploy/config/gateway.yaml` show every key with its default.
"""

_ALL = """\
`lipsync serve all` has the keys of both services, except `inference_server`. A key of both, such as `limits.max_batch_size`,
holds for both. It has the gateway's keys behind `gateway.`, such as `gateway.speech.voice`, but for `server`, `tls`, `auth`,
`logging`, `compositing_server.url` and `compositing_server.api_key_file`. These are different:
"""

_GATEWAY_PREFIX = "gateway."
_MODELS_PREFIX = "models."
REQUIRED = "required"


class KeyDescription(NamedTuple):
    """One key. Ids of maps are `<id>` in `key`; `default` is JSON, or "required"."""

    key: str
    type: str
    default: str
    description: str


class _Documented(Generator):
    """Adds the docstrings of keys. Services do without: reading their own sources would delay each start."""

    def model_schema(self, schema: core_schema.ModelSchema) -> dict[str, Any]:
        made = super().model_schema(schema)
        told = {name: text for base in reversed(schema["cls"].__mro__) for name, text in _docstrings(base).items()}
        for name, property_schema in made["properties"].items():
            property_schema["description"] = told.get(name, "")
        return made


def _docstrings(cls: type) -> Mapping[str, str]:
    """Returns the text after each attribute of a class of ours, by name."""
    if cls.__module__.partition(".")[0] in {"builtins", "pydantic", "typing"}:
        return {}
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        attribute.target.id: inspect.cleandoc(text.value.value)
        for attribute, text in pairwise(body.body)
        if isinstance(attribute, ast.AnnAssign) and isinstance(attribute.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def describe(cls: type[ServiceSettings]) -> list[KeyDescription]:
    """Returns every key of a settings class, in order; entries of maps as `models.<id>.key`."""
    return [
        KeyDescription(
            ".".join(path),
            accepted(node),
            json.dumps(node["default"], ensure_ascii=False) if "default" in node else REQUIRED,
            " ".join(node.get("description", "").split()),
        )
        for path, node in keys(schema_of(cls, _Documented))
        if not members(node) and ".".join(path) not in cls.meaningless
    ]


def configuration_page() -> str:
    """The whole page, Markdown."""
    inference, compositing, everything = (describe(SETTINGS[name]) for name in ("inference", "compositing", "all"))
    gateway = describe(GatewaySettings)
    shared = [row for row in inference if row in compositing]
    keys_of_models = [row for row in shared if row.key.startswith(_MODELS_PREFIX)]
    of_both = [row for row in shared if row not in keys_of_models]
    parts = [
        _INTRODUCTION,
        _chapter("All services", [row for row in of_both if row in gateway]),
        _chapter("Inference and compositing", [row for row in of_both if row not in gateway]),
        _chapter("Inference service", [row for row in inference if row not in shared], SETTINGS["inference"]),
        _chapter("Compositing service", [row for row in compositing if row not in shared], SETTINGS["compositing"]),
        _chapter("Gateway", [row for row in gateway if row not in shared], GatewaySettings),
        _chapter("LiveKit worker", [row for row in describe(LivekitSettings) if row not in shared], LivekitSettings),
        _chapter(
            "Everything in one process",
            [row for row in everything if row not in inference and row not in compositing and not _is_one_of(row, gateway)],
            SETTINGS["all"],
            introduction=_ALL,
        ),
        _chapter("Single avatars", keys_of_models),
    ]
    return "\n".join(parts)


def _chapter(
    title: str, rows: Sequence[KeyDescription], settings: type[ServiceSettings] | None = None, *, introduction: str = ""
) -> str:
    lines = [f"## {title}\n", *filter(None, [introduction])]
    for section, its_rows in groupby(rows, key=_section_of):
        lines += [f"### {section}\n"] if section else []
        lines += [*_table(its_rows), ""]
    if settings and settings.meaningless:
        lines.append("Accepted for old files' sake, with a warning and without effect:\n")
        lines += [f"- `{key}`: {reason}." for key, reason in settings.meaningless.items()]
        lines.append("")
    return "\n".join(lines)


def _is_one_of(row: KeyDescription, gateway: Sequence[KeyDescription]) -> bool:
    """Tells if a key of all is `gateway.` and a key of the gateway."""
    return any(row == own._replace(key=f"{_GATEWAY_PREFIX}{own.key}") for own in gateway)


def _section_of(row: KeyDescription) -> str:
    """The key without its last part; empty for keys that stand in no section."""
    return row.key.rpartition(".")[0]


def _table(rows: Iterable[KeyDescription]) -> Iterable[str]:
    yield "| key | accepted | default | what it does |"
    yield "|---|---|---|---|"
    for row in rows:
        yield "| " + " | ".join(map(_cell, (f"`{row.key}`", row.type, f"`{row.default}`", row.description))) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: Sequence[str]) -> int:
    """Writes the page to the path given, or to stdout without one."""
    if len(arguments) > 1:
        print("usage: python -m tools.configuration_docs [FILE]", file=sys.stderr)  # noqa: T201
        return 2
    if arguments:
        path = Path(arguments[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(configuration_page(), encoding="utf-8")
    else:
        sys.stdout.write(configuration_page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
