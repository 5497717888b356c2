"""Texts that the gateway speaks: their sound comes ahead of their frames, and is what the frames were made of."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest

from shared_proto import compositing_pb2 as pb

from ..end_to_end.talking import Talk
from .conftest import Stack, gateway, url_of
from .sockets import Heard, Page, Shown, eventually, page

FAST = {"model_id": "small", "pacing": "AS_FAST_AS_POSSIBLE", "audio_encoding": "PCM_INT16"}
TEXT = "The quick brown fox."


def sound_of(opened: Page, segment: int) -> bytes:
    """The sound that came of a segment, whose pieces follow each other."""
    pieces = [each for each in opened.came if isinstance(each, Heard) and each.segment == segment]
    samples = 0
    for piece in pieces:
        assert piece.audio_us == 1_000_000 * samples // piece.rate
        samples += len(piece.samples) // 2
    return b"".join(piece.samples for piece in pieces)


@pytest.mark.parametrize(("rate", "encoding"), [(16_000, "PCM_INT16"), (22_050, "PCM_FLOAT32"), (48_000, "PCM_INT16")])
async def test_the_frames_are_made_of_the_sound_that_comes(stack: Stack, rate: int, encoding: str) -> None:
    config = FAST | {"sample_rate": rate, "audio_encoding": encoding}
    async with page(stack.url, config) as opened:
        await opened.socket.send_bytes(b"\0" * 640)
        await opened.send(speak={"text": TEXT})
        await opened.socket.send_bytes(b"\0" * 640)
        await opened.send(close={})
        assert await opened.closed() == 1000
    assert opened.of("speaking") == [{"segment": 1, "text": TEXT}]
    sound = sound_of(opened, 1)
    lengths = [(event["segment"], event["audio_us"]) for event in opened.of("segment_ended")]
    assert [segment for segment, _ in lengths] == [0, 1, 2]
    assert lengths[1][1] == 1_000_000 * (len(sound) // 2) // rate
    message = pb.SessionConfig(
        model_id="small", pacing=pb.AS_FAST_AS_POSSIBLE, sample_rate=rate, audio_encoding=pb.PCM_INT16,
        start_frame_idx=next(frame.position for frame in opened.frames if frame.segment == 1),
    )  # fmt: skip
    with Talk(stack.stub, message) as talk:
        talk.say(sound)
        wanted = [frame.picture for frame in talk.end().frames]
    assert [frame.picture for frame in opened.frames if frame.segment == 1] == wanted
    assert np.abs(np.frombuffer(sound, "<i2")).max() > 3000


async def test_sound_comes_ahead_of_its_frames(stack: Stack) -> None:
    async with page(stack.url, FAST) as opened:
        await opened.send(speak={"text": TEXT})
        await opened.send(close={})
        await opened.closed()
    heard_us = 0
    for each in opened.came:
        if isinstance(each, Heard):
            heard_us = each.audio_us + 1_000_000 * (len(each.samples) // 2) // each.rate
        elif isinstance(each, Shown):
            assert each.audio_us < heard_us
    names = [next(iter(each)) for each in opened.came if isinstance(each, dict) and "status" not in each]
    assert names[:2] == ["started", "speaking"]


async def test_voice_and_speed_are_chosen(stack: Stack) -> None:
    async with page(stack.url, FAST) as opened:
        for options in ({}, {"words_per_minute": 300}, {"voice": "de"}):
            await opened.send(speak={"text": TEXT} | options)
        await opened.send(close={})
        assert await opened.closed() == 1000
    plain, fast, german = (sound_of(opened, segment) for segment in range(3))
    assert len(fast) < 0.8 * len(plain)
    assert german != plain


async def test_an_interrupt_ends_a_text(stack: Stack) -> None:
    async with page(stack.url, FAST | {"pacing": "REALTIME"}) as opened:
        await opened.send(speak={"text": "One, two, three. " * 60})
        await opened.send(speak={"text": "This one is never begun."})
        await opened.wait(lambda: len(opened.spoken) > 5)
        await opened.send(interrupt={})
        await opened.wait(lambda: opened.of("interrupted"))
        answer = opened.came.index({"interrupted": opened.of("interrupted")[0]})
        await opened.send(speak={"text": "Yes."})
        await opened.send(close={})
        assert await opened.closed() == 1000
    assert [event["segment"] for event in opened.of("speaking")] == [0, 1]
    assert all(each.segment == 1 for each in opened.came[answer:] if isinstance(each, Heard))
    assert all(frame.segment == 1 for frame in opened.came[answer:] if isinstance(frame, Shown) and frame.audio_us >= 0)


async def test_an_interrupt_before_the_start_drops_a_text(stack: Stack) -> None:
    async with page(stack.url, FAST) as opened:
        await opened.send(speak={"text": "This one is never begun."})
        await opened.send(interrupt={})
        await opened.send(speak={"text": "Yes."})
        await opened.send(close={})
        assert await opened.closed() == 1000
    assert [event["text"] for event in opened.of("speaking")] == ["Yes."]


def resume_after(frame: Shown, opened: Page, *, lead_in: int = 10) -> dict[str, object]:
    """The `config` that goes on after a frame, as docs/websocket.md tells it."""
    jumps = {each["number"]: each["next_position"] for each in opened.of("jump")}
    first = frame.audio_us // 40_000 + 1
    resume = {
        "next_number": frame.number + 1,
        "segment": frame.segment,
        "first_frame": first,
        "audio_start_frame": max(0, first - lead_in),
    }
    return {"start_frame_idx": jumps.get(frame.number, frame.position + 1), "resume": resume}


@pytest.mark.parametrize(("rate", "shown"), [(16_000, 5), (16_000, 22), (48_000, 22), (16_000, None)])
async def test_a_text_that_was_cut_goes_on_whole(stack: Stack, rate: int, shown: int | None) -> None:
    config = FAST | {"sample_rate": rate}
    async with page(stack.url, config) as opened:
        await opened.send(speak={"text": TEXT, "words_per_minute": 120})
        await opened.send(close={})
        assert await opened.closed() == 1000
    whole, heard = opened.spoken, sound_of(opened, 0)
    last = whole[shown] if shown else whole[-1]
    async with page(stack.url, config | resume_after(last, opened, lead_in=10 if rate == 16_000 else 12)) as again:
        await again.send(speak={"text": TEXT, "words_per_minute": 120, "resumed": True})
        await again.send(speak={"text": "Then this."})
        await again.send(close={})
        assert await again.closed() == 1000
    assert [event["segment"] for event in again.of("speaking")] == [0, 1]
    assert again.of("segment_ended")[0] == opened.of("segment_ended")[0]
    rest = [frame for frame in again.spoken if frame.segment == 0]
    wanted = whole[whole.index(last) + 1 :]
    assert [(frame.number, frame.audio_us) for frame in rest] == [(frame.number, frame.audio_us) for frame in wanted]
    if rate == 16_000:
        assert [frame.picture for frame in rest] == [frame.picture for frame in wanted]
    pieces = [each for each in again.came if isinstance(each, Heard) and each.segment == 0]
    start = 2 * (pieces[0].audio_us * rate // 1_000_000)
    assert 0 <= start <= len(heard)
    assert b"".join(piece.samples for piece in pieces) == heard[start:]


async def test_a_text_that_is_shorter_than_what_was_shown_fails_alone(stack: Stack) -> None:
    resume = {"next_number": 300, "segment": 4, "first_frame": 300, "audio_start_frame": 290}
    async with page(stack.url, FAST | {"resume": resume}) as opened:
        await opened.send(speak={"text": "Yes.", "resumed": True})
        await opened.send(speak={"text": "No."})
        await opened.send(close={})
        assert await opened.closed() == 1000
    (failed,) = opened.of("speak_failed")
    assert "shorter" in failed["message"]
    assert [event["segment"] for event in opened.of("speaking")] == [5]


@pytest.mark.parametrize("first", [{"speak": {"text": "Yes."}}, {"interrupt": {}}, {"end_of_segment": {}}, None])
async def test_only_the_resumed_segment_goes_on_as_a_text(stack: Stack, first: dict[str, object] | None) -> None:
    resume = {"next_number": 30, "segment": 0, "first_frame": 30, "audio_start_frame": 20}
    async with page(stack.url, FAST | ({"resume": resume} if first else {})) as opened:
        if first:
            await opened.send(**first)
        await opened.send(speak={"text": "Yes.", "resumed": True})
        assert await opened.closed() == 4003
    assert "speak.resumed" in opened.of("error")[0]["message"]


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        ({"text": "x" * 2001}, "INVALID_ARGUMENT", "2001 characters"),
        ({"text": "a", "voice": "martian"}, "INVALID_ARGUMENT", "no such voice"),
    ],
)
async def test_a_text_that_cannot_be_spoken(stack: Stack, text: dict[str, str], code: str, named: str) -> None:
    async with page(stack.url, FAST) as opened:
        await opened.send(speak=text)
        await opened.wait(lambda: opened.of("speak_failed"))
        (failed,) = opened.of("speak_failed")
        assert failed["code"] == code
        assert named in failed["message"]
        await opened.send(speak={"text": TEXT})
        await opened.send(close={})
        assert await opened.closed() == 1000
    assert opened.of("segment_ended")[0]["segment"] == 0


def program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return f"speech.command={path}"


@pytest.mark.parametrize(
    ("script", "code", "begun"),
    [
        (None, "UNIMPLEMENTED", False),
        ("exec sleep 1000", "DEADLINE_EXCEEDED", False),
        ("espeak-ng --stdout hello | head -c 3000; exec sleep 1000", "DEADLINE_EXCEEDED", True),
        ("echo it is broken >&2; exit 3", "UNAVAILABLE", False),
        ("espeak-ng --stdout hello | head -c 3000; exit 3", "UNAVAILABLE", True),
        ("echo this is no sound at all, and long enough for a header", "INTERNAL", False),
    ],
)
async def test_a_program_that_is_missing_hangs_or_fails(
    stack: Stack, tmp_path: Path, script: str | None, code: str, begun: bool
) -> None:
    command = "speech.command=no-such-program" if script is None else program(tmp_path / "speaks", script)
    async with gateway(stack.compositing.address, command, "speech.timeout_seconds=1") as running:
        async with page(url_of(running), FAST) as opened:
            await opened.send(speak={"text": TEXT})
            await opened.wait(lambda: opened.of("speak_failed"))
            (failed,) = opened.of("speak_failed")
            assert (failed["code"], failed.get("segment")) == (code, 0 if begun else None)
            await opened.socket.send_bytes(b"\0" * 1280)
            await opened.send(close={})
            assert await opened.closed() == 1000
        assert opened.of("segment_ended")


async def test_a_program_ends_with_its_session(stack: Stack, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    command = program(tmp_path / "speaks", f"echo $$ > {pid}; exec sleep 1000")
    async with gateway(stack.compositing.address, command, "speech.timeout_seconds=300") as running:
        async with page(url_of(running), FAST) as opened:
            await opened.send(speak={"text": TEXT})
            await opened.wait(lambda: opened.of("started"))
            await eventually(lambda: pid.exists() and pid.read_text())
        await eventually(lambda: not Path(f"/proc/{pid.read_text().strip()}").exists())
