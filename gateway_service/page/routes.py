"""Serves the page: `/` and the files that it names, each with its type."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

FILES = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".flac": "audio/flac",
}


def add_routes(application: web.Application) -> None:
    """Adds `/` and `/page/NAME` for each file of the page; nothing else in the folder can be reached."""
    for path in sorted(FILES.iterdir()):
        if path.suffix in _TYPES:
            application.router.add_get("/" if path.name == "index.html" else f"/page/{path.name}", _serve(path))


def _serve(path: Path) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    # Browsers ask each time whether a file changed, and get it only then: modules of one version run together.
    headers = {"Content-Type": _TYPES[path.suffix], "Cache-Control": "no-cache"}

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.FileResponse(path, headers=headers)

    return answer
