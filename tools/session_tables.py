"""Writes the tables of a session's states into docs/sessions.md: `python -m tools.session_tables docs/sessions.md`.

The tables are those that the code runs by, `compositing_service.sessions.tables`. The text between the markers is replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from compositing_service.sessions.tables import INPUT, SHOW, Message, Turn

BEGIN, END = "<!-- states: begin -->", "<!-- states: end -->"

State = TypeVar("State", bound=StrEnum)
Event = TypeVar("Event", bound=StrEnum)


def with_tables(page: str) -> str:
    """Returns the page with the tables of now. Raises ValueError unless it has each marker once, in order."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if page.count(BEGIN) != 1 or rest.count(END) != 1:
        raise ValueError(f"the page needs {BEGIN} and, after it, {END}, once each")
    messages = _table("message of the client", INPUT, Message)
    turns = _table("event", SHOW, Turn)
    return f"{before}{BEGIN}\nThe messages that may come:\n\n{messages}\n\nThe frames that are shown:\n\n{turns}\n{END}{after}"


def _table(kind: str, table: Mapping[State, Mapping[Event, State]], events: type[Event]) -> str:
    """Draws a row for each event and a column for each state, with the state that follows; empty: not allowed, or never."""
    rows: list[list[str]] = [[kind, *table], ["---"] * (1 + len(table))]
    rows += [[event, *(following.get(event, "") for following in table.values())] for event in events]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(with_tables(target.read_text(encoding="utf-8")), encoding="utf-8")
