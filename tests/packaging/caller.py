"""Calls what the client can, where nothing but the client is installed, and writes what came back: caller.py SERVER."""

import asyncio
import hashlib
import json
import sys

import google.protobuf
import numpy as np

from lipsync_client import AsyncClient, Client, Frame, LipsyncError


def digest(frames):
    return hashlib.sha256(b"".join(frames)).hexdigest()


async def awaited(server, sound):
    async with AsyncClient(server) as client:
        return [frame async for frame in client.frames("demo", sound)]


def talked(client, sound):
    with client.session("demo", pacing="fast") as session:
        session.push(sound[:8000])
        session.close()
        return [event.picture for event in session if isinstance(event, Frame)]


async def talked_awaited(server, sound):
    async with AsyncClient(server) as client, client.session("demo", pacing="fast") as session:
        await session.push(sound[:8000])
        await session.close()
        return [event.picture async for event in session if isinstance(event, Frame)]


def main(server):
    sound = np.sin(np.arange(16_000) / 9).astype(np.float32)
    with Client(server) as client:
        client.load("demo")
        told = {
            "healthy": client.health().inference_healthy,
            "avatars": [avatar.id for avatar in client.list_avatars()],
            "loaded": [avatar.id for avatar in client.stats().avatars],
            "composite": digest(client.composite("demo", sound, batch_size=5).frames),
            "frames": digest(client.frames("demo", sound)),
            "idle": digest(client.idle("demo", 5).frames),
            "awaited": digest(asyncio.run(awaited(server, sound))),
            "talked": digest(talked(client, sound)),
            "talked, awaited": digest(asyncio.run(talked_awaited(server, sound))),
        }
        try:
            client.idle("nobody", 1)
        except LipsyncError as error:
            told["refusal"] = str(error)
        client.unload("demo")
    return told


if __name__ == "__main__":
    print(json.dumps({"protobuf": google.protobuf.__version__, "told": main(sys.argv[1])}))
