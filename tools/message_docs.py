"""Writes docs/messages.md from the comments of the .proto files: `python -m tools.message_docs docs/messages.md`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

NAMES = ("compositing.proto", "inference.proto", "monolithic.proto", "optimized_lipsyncsrv.proto")
PROTOS = [Path(__file__).parents[1] / "shared_proto" / name for name in NAMES]
INTRODUCTION = """\
# Messages

This page is made from the comments of [compositing.proto](../shared_proto/compositing.proto),
[inference.proto](../shared_proto/inference.proto) and, for clients of the earlier servers,
[monolithic.proto](../shared_proto/monolithic.proto) and
[optimized_lipsyncsrv.proto](../shared_proto/optimized_lipsyncsrv.proto) by `make docs`; a test fails when they differ.
[api.md](api.md) explains how to use them. Limits are the defaults; [configuration.md](configuration.md) names the keys.

In messages that the earlier servers had, fields up to number 15 are theirs and do not change; in fields from 16 up, zero means
what a client without them expects.
"""

_BLOCK = re.compile(r"^(service|message|enum) (\w+) \{(.*?)\}$", re.MULTILINE | re.DOTALL)
_COMMENTS = r"((?: +//[^\n]*\n)*) +"
_RPC = re.compile(_COMMENTS + r"rpc (\w+)\(((?:stream )?\w+)\) returns \(((?:stream )?\w+)\);")
_FIELD = re.compile(_COMMENTS + r"((?:repeated |optional )?\w+) (\w+) = (\d+);")
_VALUE = re.compile(_COMMENTS + r"(\w+) = (\d+);")


def messages_page() -> str:
    """Returns the whole page, Markdown."""
    return "\n".join([INTRODUCTION, *(_chapter(path.read_text(encoding="utf-8")) for path in PROTOS)])


def _chapter(proto: str) -> str:
    (package,) = re.findall(r"^package (\w+);", proto, re.MULTILINE)
    sections = []
    for kind, name, body in _BLOCK.findall(proto):
        heading = "##" if kind == "service" else "###"
        sections.append("\n".join([f"{heading} {package}.{name}\n", *_table(kind, body), ""]))
    return "\n".join(sections)


def _table(kind: str, body: str) -> Iterator[str]:
    """Yields the lines of the table of a service, an enum or a message."""
    if kind == "service":
        yield from ("| method | request | reply | meaning |", "|---|---|---|---|")
        for comment, name, request, reply in _RPC.findall(body):
            yield f"| `{name}` | {request} | {reply} | {_text(comment)} |"
    elif kind == "enum":
        yield from ("| value | no. | meaning |", "|---|---|---|")
        for comment, name, number in _VALUE.findall(body):
            yield f"| `{name}` | {number} | {_text(comment)} |"
    elif fields := _FIELD.findall(body):
        yield from ("| field | no. | type | meaning, limits, default |", "|---|---|---|---|")
        for comment, type_name, name, number in fields:
            yield f"| `{name}` | {number} | {type_name} | {_text(comment)} |"
    else:
        yield "No fields."


def _text(comment: str) -> str:
    """Joins the lines of a comment, and marks the names in it as code."""
    text = " ".join(line.strip().removeprefix("//").strip() for line in comment.splitlines())
    return re.sub(r"\b(?:[a-z]+_[a-z_]+|[A-Z]+_[A-Z_0-9]+)\b(?!/)", r"`\g<0>`", text)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(messages_page(), encoding="utf-8")
