"""Writes the client's blocking face from its asyncio one: `python -m tools.blocking_client lipsync_client`.

The two differ only in the words below, and in how they send, which `aio_calls` and `blocking_calls` hold.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "lipsync_client"
# What each module is generated from, and what it is.
MODULES = {
    "blocking.py": ("aio", "The blocking face of the client."),
    "blocking_session.py": ("aio_session", "A live session for threads."),
}
HEAD = '"""{title} Generated from `{source}`, which is the one to change; then `make client`."""'
WORDS = (
    (r"\bAsyncGenerator\[([\w.]+), None\]", r"Generator[\1, None, None]"),
    (r"\bAsyncGenerator\b", "Generator"),
    (r"\bclass AsyncClient\b", "class Client"),
    (r"\bAsyncSession\b", "Session"),
    (r"\baio_(calls|session)\b", r"blocking_\1"),
    (r"\baclosing\b", "closing"),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\b(async|await) ", ""),
)


def blocking_face(module: str) -> str:
    """Returns the text of a module of `lipsync_client`."""
    source, title = MODULES[module]
    text = (PACKAGE / f"{source}.py").read_text(encoding="utf-8")
    for found, instead in ((r'\A"""[^\n]*', HEAD.format(title=title, source=source)), *WORDS):
        text = re.sub(found, instead, text)
    for arguments in (["check", "--quiet", "--select=I", "--fix"], ["format"]):
        ruff = [sys.executable, "-m", "ruff", *arguments, "--stdin-filename", str(PACKAGE / module), "-"]
        text = subprocess.run(ruff, input=text, stdout=subprocess.PIPE, text=True, check=True).stdout  # noqa: S603 - our own tool
    return text


if __name__ == "__main__":
    for name in MODULES:
        Path(sys.argv[1], name).write_text(blocking_face(name), encoding="utf-8")
