"""Writes the client's blocking face from its asyncio one: `python -m tools.blocking_client lipsync_client/blocking.py`.

The two differ only in the words below, and in how they send, which `aio_calls` and `blocking_calls` hold.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "lipsync_client" / "aio.py"
HEAD = '"""The blocking face of the client. Generated from `aio`, which is the one to change; then `make client`."""'
WORDS = (
    (r'\A"""[^\n]*', HEAD),
    (r"\bAsyncGenerator\[(\w+), None\]", r"Generator[\1, None, None]"),
    (r"\bAsyncGenerator\b", "Generator"),
    (r"\bclass AsyncClient\b", "class Client"),
    (r"\baio_calls\b", "blocking_calls"),
    (r"\baclosing\b", "closing"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\b(async|await) ", ""),
)


def blocking_face() -> str:
    """Returns the text of `lipsync_client/blocking.py`."""
    text = SOURCE.read_text(encoding="utf-8")
    for found, instead in WORDS:
        text = re.sub(found, instead, text)
    for arguments in (["check", "--quiet", "--select=I", "--fix"], ["format"]):
        ruff = [sys.executable, "-m", "ruff", *arguments, "--stdin-filename", str(SOURCE.with_name("blocking.py")), "-"]
        text = subprocess.run(ruff, input=text, stdout=subprocess.PIPE, text=True, check=True).stdout  # noqa: S603 - our own tool
    return text


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(blocking_face(), encoding="utf-8")
