"""One WebSocket of a browser, which is one live session."""

from __future__ import annotations

import json

from aiohttp import web

from gateway_service.earlier.socket import is_earlier
from gateway_service.parts import PARTS
from gateway_service.websocket.frames import frame_message
from lipsync_client import Frame, Started


def add_routes(application: web.Application) -> None:
    """Adds /ws."""
    application.router.add_get("/ws", serve_socket)


async def serve_socket(request: web.Request) -> web.WebSocketResponse:
    """Begins a session with the first message, and sends its frames."""
    parts = request.app[PARTS]
    socket = web.WebSocketResponse(compress=False, heartbeat=parts.settings.sockets.ping_seconds)
    with parts.server.calls.admit():
        await socket.prepare(request)
        first = await socket.receive()
        if is_earlier(first):
            await parts.earlier.serve(request, socket, first)
            return socket
        config = json.loads(first.data)["config"]
        async with parts.compositors.for_session() as client, client.session(config["model_id"]) as session:
            with parts.sessions.running(session.session_id) as running:
                async for event in session:
                    if isinstance(event, Frame):
                        running.show(event)
                        await socket.send_bytes(frame_message(event))
                    elif isinstance(event, Started):
                        await socket.send_json(
                            {"started": {"session_id": event.session_id, "secret": running.secret, "width": event.width}}
                        )
    return socket
