"""Asks a lip-sync worker for avatars, over HTTP."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import aiohttp
from livekit.agents import APIConnectionError, APIConnectOptions, APIStatusError, utils

from .log import logger

_LONGEST_WAIT_S = 30.0


@dataclass(frozen=True)
class LaunchedAvatar:
    """An avatar that has joined a room."""

    id: str
    """Names it to the worker."""
    avatar: str


class WorkerAPI:
    """One worker, or the load balancer before several."""

    def __init__(self, url: str, api_key: str | None, options: APIConnectOptions) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._options = options

    async def launch(self, *, room: str, url: str, token: str, avatar: str | None, request: str) -> LaunchedAvatar:
        """Lets an avatar join a room. Asking twice with one `request` finds the same.

        Raises APIStatusError for a refusal, APIConnectionError when no attempt had an answer.
        """
        body = {"room_name": room, "url": url, "token": token, **({"avatar": avatar} if avatar else {})}
        answer = await self._ask("POST", "/launch", body, {"Idempotency-Key": request})
        return LaunchedAvatar(str(answer["id"]), str(answer["avatar"]))

    async def end(self, avatar_id: str) -> None:
        """Lets an avatar leave; one that has left already is fine."""
        await self._ask("DELETE", f"/rooms/{avatar_id}", None, {})

    async def _ask(self, method: str, path: str, body: Any, headers: dict[str, str]) -> dict[str, Any]:
        for attempt in range(self._options.max_retry + 1):
            wait_s = self._options._interval_for_retry(attempt)
            try:
                async with utils.http_context.http_session().request(
                    method,
                    self._url + path,
                    json=body,
                    headers={**self._headers, **headers},
                    timeout=aiohttp.ClientTimeout(total=self._options.timeout),
                ) as response:
                    answer = await _content(response)
                    if response.status < 300:
                        return answer
                    error: Exception = APIStatusError(
                        str(answer.get("detail") or response.reason),
                        status_code=response.status,
                        retryable=response.status == 503,
                    )
                    if response.status != 503:
                        raise error
                    wait_s = max(wait_s, _seconds(response.headers.get("Retry-After")))
            except (TimeoutError, aiohttp.ClientError) as failure:
                error = APIConnectionError(f"the lip-sync worker does not answer: {type(failure).__name__}")
            if attempt < self._options.max_retry:
                logger.warning("asking the lip-sync worker again: %s", error, extra={"attempt": attempt + 1})
                await asyncio.sleep(min(wait_s, _LONGEST_WAIT_S))
        raise error


async def _content(response: aiohttp.ClientResponse) -> dict[str, Any]:
    try:
        content = await response.json(content_type=None)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isdigit() else 0.0
