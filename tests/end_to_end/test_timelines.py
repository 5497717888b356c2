"""The background of each position, up to the last that a request can name, and the picture around the mouth."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from avatar_kit.avatar import load_avatar
from shared_proto import compositing_pb2 as pb

from . import reference
from .avatars import HEIGHT, WIDTH, background, rect
from .conftest import CALL_S, Duo

LAST = 2**31 - 1
SILENCE = bytes(4 * 640)


def walk(kind: str, frame_count: int) -> itertools.cycle[int]:
    """One step after the other, as a person would count."""
    there = list(range(frame_count))
    return itertools.cycle(there + there[-2:0:-1] if kind == "bounce" else there)


def at(kind: str, frame_count: int, position: int) -> int:
    turn = 2 * (frame_count - 1) if kind == "bounce" else frame_count
    return next(itertools.islice(walk(kind, frame_count), position % turn, None))


def ask(duo: Duo, **fields: object) -> pb.CompositeBatchResponse:
    request = pb.CompositeBatchRequest(raw_audio=SILENCE, output_format=pb.FORMAT_RAW_BGR, **fields)
    reply: pb.CompositeBatchResponse = duo.pictures.InferBatchComposite(request, timeout=CALL_S)
    return reply


def shown(reply: pb.CompositeBatchResponse, frame_count: int) -> list[int]:
    """The background of each picture, recognised by its pixels above all mouths."""
    plain = [reference.decoded(background(index))[:50] for index in range(frame_count)]
    pictures = [np.frombuffer(frame, np.uint8).reshape(HEIGHT, WIDTH, 3)[:50] for frame in reply.composited_frames]
    return [next(k for k, each in enumerate(plain) if np.array_equal(each, picture)) for picture in pictures]


@pytest.mark.parametrize(("avatar_id", "kind", "frame_count"), [("small", "bounce", 5), ("forward", "forward", 7)])
@pytest.mark.parametrize("start", [0, 1, 3, 4, 7, 8, 1_000_003, LAST - 11, LAST])
def test_positions(duo: Duo, avatar_id: str, kind: str, frame_count: int, start: int) -> None:
    reply = ask(duo, model_id=avatar_id, batch_size=12, start_frame_idx=start)
    wanted = [at(kind, frame_count, start + k) for k in range(12)]
    assert list(reply.frame_indices) == wanted
    assert shown(reply, frame_count) == wanted


@pytest.mark.parametrize("avatar_id", ["small", "forward", "feather", "direct"])
def test_nothing_changes_outside_the_rectangle(duo: Duo, avatar_id: str) -> None:
    reply = ask(duo, model_id=avatar_id, batch_size=4)
    for index, frame in enumerate(reply.composited_frames):
        picture, plain = np.frombuffer(frame, np.uint8).reshape(HEIGHT, WIDTH, 3), reference.decoded(background(index))
        changed = (picture != plain).any(2)
        box = rect(index)
        assert changed[box.y1 : box.y2, box.x1 : box.x2].mean() > 0.5
        changed[box.y1 : box.y2, box.x1 : box.x2] = False
        assert not changed.any()


def test_a_jpeg_s_blocks_away_from_the_mouth_are_those_of_the_background(duo: Duo, models_root: Path) -> None:
    avatar = load_avatar(models_root / "small")
    request = pb.CompositeBatchRequest(model_id="small", raw_audio=SILENCE, batch_size=1, start_frame_idx=2)
    [jpeg] = duo.pictures.InferBatchComposite(request, timeout=CALL_S).composited_frames
    still = reference.encoded(reference.read(avatar, 2), quality=75, restart_interval=reference.restart_interval_of(jpeg))
    changed = (reference.decoded(jpeg) != reference.decoded(still)).any(2)
    box = avatar.rects[2]
    changed[(box.y1 // 16) * 16 - 1 : -(-box.y2 // 16) * 16 + 1, (box.x1 // 16) * 16 - 1 : -(-box.x2 // 16) * 16 + 1] = False
    assert not changed.any()  # one pixel around the blocks: the decoder smooths colour across them
