"""Serves /ws: accepts a socket, reads the first message, and holds the session that it begins."""

from __future__ import annotations

import asyncio

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from gateway_service.earlier.socket import is_earlier
from gateway_service.identity.callers import STRANGER, caller_metadata
from gateway_service.parts import PARTS, GatewayParts
from gateway_service.socket_reader import SocketReader
from gateway_service.usage import Usage
from gateway_service.websocket.conversation import Conversation, internal_error
from gateway_service.websocket.ending import CLOSE_SECONDS, Ending, client_left, close_socket, invalid, refused
from gateway_service.websocket.messages import LONGEST_TEXT, Config, InvalidMessage, read_text
from service_kit import request_context
from service_kit.callers.caller import REVOKED, current
from service_kit.errors import ServiceError, Unauthenticated

PATH = "/ws"


def add_routes(application: web.Application) -> None:
    """Adds /ws."""
    application.router.add_get(PATH, serve_socket)


async def serve_socket(request: web.Request) -> web.WebSocketResponse:
    """Serves one socket to its end."""
    parts = request.app[PARTS]
    sockets = parts.settings.sockets
    socket = web.WebSocketResponse(
        autoping=False,  # the reader answers
        compress=False,  # JPEG does not get smaller
        heartbeat=sockets.ping_seconds,
        max_msg_size=_most_bytes(sockets.max_message_kb << 10) + 1,
        timeout=CLOSE_SECONDS,
    )
    await socket.prepare(request)
    with parts.metrics.sockets.track_inprogress():
        try:
            await _serve(parts, request, socket)
        except Unauthenticated as error:  # revoked meanwhile
            await close_socket(request, socket, refused(error))
        except Ending as ending:
            parts.metrics.ended(ending.name)
            await close_socket(request, socket, ending)
    return socket


def _most_bytes(limit: int) -> int:
    """Returns how long a message may be. That of a stranger is held before its ticket is read, so it is short."""
    return min(limit, LONGEST_TEXT) if current.get() is STRANGER else limit


async def _serve(parts: GatewayParts, request: web.Request, socket: web.WebSocketResponse) -> None:
    """Serves what the first message asks for. Raises Ending."""
    reader = SocketReader(socket)
    try:
        async with asyncio.timeout(parts.settings.sockets.first_message_seconds):
            first = await reader.next()
    except TimeoutError:
        raise Ending(WSCloseCode.POLICY_VIOLATION, "no first message came") from None
    if is_earlier(first):
        await parts.earlier.serve(request, socket, reader, first)
        return
    config = _config(first)
    await _admit(parts, request, config)
    with parts.callers.running():
        await _hold(parts, request, socket, reader, config)


async def _admit(parts: GatewayParts, request: web.Request, config: Config) -> None:
    """Asks who it is that sent the first message. Raises Ending."""
    try:
        caller = await parts.callers.of_first_message(request, config.ticket)
        caller.check_avatar(config.model_id)
    except ServiceError as error:
        raise refused(error) from None


def _config(first: WSMessage) -> Config:
    """Reads the message that begins a session. Raises Ending."""
    if first.type is WSMsgType.BINARY:
        raise invalid("config: send it first")
    if first.type is not WSMsgType.TEXT:
        raise client_left(first)
    try:
        message = read_text(first.data)
    except InvalidMessage as error:
        raise invalid(str(error)) from None
    if message.config is None:
        raise invalid("config: send it first")
    return message.config


async def _hold(
    parts: GatewayParts, request: web.Request, socket: web.WebSocketResponse, reader: SocketReader, config: Config
) -> None:
    """Holds a session, and notes what it used. Raises Ending."""
    request_context.avatar_id.set(config.model_id)
    usage = Usage(config.rate, parts.clock.now())
    ending = client_left()  # if this is cancelled
    try:
        async with parts.compositors.for_session() as client:
            named = client.with_metadata(
                request_id=request_context.request_id.get(), session_id=config.session_id, more=caller_metadata()
            )
            patience_s = parts.settings.compositing_server.resume_seconds
            try:
                # A browser that hears of a refusal at once can tell its user, and comes back by itself.
                live = named.session(
                    config.model_id,
                    resume_timeout=patience_s,
                    admission_timeout=0,
                    resume=config.resumed,
                    **config.options,
                )
            except ValueError as error:
                ending = invalid(f"config: {error}")
                raise ending from None
            request_context.session_id.set(live.session_id)
            async with live as session:
                secret = parts.holders.new_secret(request)
                with parts.sessions.running(
                    secret, session.session_id, rate=config.rate, is_paced=config.pacing == "REALTIME"
                ) as running:
                    ending = await Conversation(parts, request, socket, reader, config, session, running, usage).run()
                    raise ending
    except Ending:
        raise
    except Exception:
        ending = internal_error()
        raise ending from None
    finally:
        if current.get().is_revoked:
            ending = refused(Unauthenticated(REVOKED))
        message = ending.error.message if ending.error else ""
        usage.log_end(parts.clock.now(), ending.name, message)
