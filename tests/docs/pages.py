"""The documents: their blocks, their mentions of commands, their links."""

from __future__ import annotations

import re
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
README = TREE / "README.md"
API = TREE / "docs" / "api.md"
SESSIONS = TREE / "docs" / "sessions.md"
CLIENT = TREE / "docs" / "client.md"
CLIENTS = TREE / "docs" / "clients.md"
MESSAGES = TREE / "docs" / "messages.md"
ARCHITECTURE = TREE / "docs" / "architecture.md"
PAGES = (README, *sorted((TREE / "docs").glob("*.md")))

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language; "" for those without."""
    return [text for name, text in _BLOCK.findall(page.read_text()) if name == language]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _BLOCK.sub("", page.read_text())


def code_spans(page: Path) -> list[str]:
    """Texts between backticks within a line."""
    return _CODE.findall(prose(page))


def links(page: Path) -> list[str]:
    return _LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """The names that headings get on the usual hosts."""
    headings = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(prose(page)))
    return {heading.replace(" ", "-") for heading in headings}


def commands(page: Path, program: str) -> list[str]:
    """The lines of blocks that run `program`, comments left out."""
    lines = (line.partition("  #")[0].strip() for block in blocks(page, "") for line in block.splitlines())
    return [line for line in lines if re.match(rf"(\.venv/bin/)?{program} ", line)]
