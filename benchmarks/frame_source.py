"""A compositing service that hands out stored frames: `python -m benchmarks.frame_source`, until its standard input closes.

Each session gets 25 frames a second, whatever it sends. After its end each JPEG carries the time at which it was written.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import cv2
import grpc.aio
import numpy as np

from lipsync_cli.processes import end_with_stdin
from shared_proto import compositing_pb2 as pb
from shared_proto.timing import FRAME_RATE

NAME = "frames"
WIDTH, HEIGHT, PICTURES, QUALITY = 1280, 720, 24, 75
BLOB = 48  # pixels
STAMP_BYTES = 8
PERIOD_S = 1 / FRAME_RATE


def stored_frames() -> list[bytes]:
    """Returns JPEG files of about the size of an avatar's, 65 kB."""
    generator = np.random.default_rng(3)
    frames = []
    for _ in range(PICTURES):
        coarse = generator.integers(0, 255, (HEIGHT // BLOB, WIDTH // BLOB, 3), np.uint8)
        picture = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        frames.append(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes())
    return frames


def stamped(jpeg: bytes) -> bytes:
    """Appends the time of now."""
    return jpeg + time.monotonic_ns().to_bytes(STAMP_BYTES, "little")


def age_ms(picture: bytes | memoryview) -> float:
    """Returns the time since a picture was stamped."""
    return (time.monotonic_ns() - int.from_bytes(picture[-STAMP_BYTES:], "little")) / 1e6


class FrameSource:
    """Answers sessions and health checks."""

    def __init__(self) -> None:
        self._frames = stored_frames()

    async def health(self, request: pb.HealthRequest, context: Any) -> pb.HealthResponse:
        """Says that all is well."""
        return pb.HealthResponse(healthy=True, inference_server_healthy=True, version="0")

    async def stream(self, request_iterator: AsyncIterator[pb.SessionRequest], context: Any) -> AsyncIterator[pb.SessionEvent]:
        """Sends frames on a clock of the session's own."""
        await anext(request_iterator)
        yield pb.SessionEvent(
            started=pb.SessionStarted(
                session_id="s",
                fps=FRAME_RATE,
                width=WIDTH,
                height=HEIGHT,
                look_ahead_ms=480,
                max_buffered_ms=5000,
                output_format=pb.FORMAT_JPEG,
            )
        )
        start_s = time.monotonic()
        number = 0
        while True:
            frame = pb.SessionFrame(
                number=number,
                pts_us=number * 1_000_000 // FRAME_RATE,
                position=number,
                next_position=number + 1,
                frame_index=number % PICTURES,
                segment=-1,
                audio_us=-1,
                picture=stamped(self._frames[number % PICTURES]),
            )
            yield pb.SessionEvent(frames=pb.SessionFrames(frames=[frame]))
            number += 1
            await asyncio.sleep(max(0.0, start_s + number * PERIOD_S - time.monotonic()))


async def serve() -> None:
    """Serves on a free port of loopback and prints the ready line."""
    source = FrameSource()
    methods = {
        "Health": grpc.unary_unary_rpc_method_handler(
            source.health, pb.HealthRequest.FromString, pb.HealthResponse.SerializeToString
        ),
        "StreamComposite": grpc.stream_stream_rpc_method_handler(
            source.stream, pb.SessionRequest.FromString, pb.SessionEvent.SerializeToString
        ),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("compositing.CompositingService", methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready {NAME} 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    end_with_stdin()
    asyncio.run(serve())
