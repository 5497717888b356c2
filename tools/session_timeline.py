"""Draws docs/images/session.svg: `python -m tools.session_timeline docs/images/session.svg`.

Runs the machine of a session over a script of four seconds, in virtual time, and draws the result: the drawing follows the code.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from compositing_service.sessions.config import FRAMES_AHEAD
from compositing_service.sessions.frames import MakeIdle, PlannedFrame, SendFrames, Shown
from compositing_service.sessions.machine import Machine
from compositing_service.sessions.plan import Plan
from shared_proto.timing import EXACT_LOOK_AHEAD, FRAME_RATE, SAMPLE_RATE_HZ

# Time in centiseconds.
_END = 400
_PIECE = 2
_LIVE = [(40, 120), (170, 210)]
"""The user speaks in these times, in one segment; the sound between them comes too late."""
_SEGMENT_ENDS = 210
_CUSHION = 10
_SENT_AHEAD, _AHEAD_LENGTH = 255, 160
"""A second segment comes at once, from a program."""
_INTERRUPT = 352
_MAKING = 3

_LEFT, _RIGHT, _SCALE = 118, 12, 2.15
_SOUND_Y, _FRAMES_Y, _EVENTS_Y, _AXIS_Y, _HEIGHT = 46, 118, 196, 246, 282
_FRAME = 100 // FRAME_RATE


@dataclass
class Drawing:
    """The course of a session: frames with their times, and what happened when."""

    frames: list[tuple[int, str]] = field(default_factory=list)
    """Time and kind: idle, stalled, first or second for the segment."""
    events: list[tuple[int, str]] = field(default_factory=list)


def course() -> Drawing:
    """Runs the script."""
    plan = Plan(SAMPLE_RATE_HZ, EXACT_LOOK_AHEAD, in_real_time=True, cushion_ms=10 * _CUSHION, frames_ahead=FRAMES_AHEAD)
    machine = Machine(plan, Shown("anna", 0, lambda position, is_idle: position + 1, idle_frames=True))
    machine.start(0.0)
    drawing = Drawing(events=[(0, "started")])
    being_made: list[tuple[int, PlannedFrame[str]]] = []
    for now in range(_END):
        _say(machine, drawing, now)
        while planned := machine.plan_frames(now / 100):
            being_made += [(now + _MAKING, frame) for frame in planned]
        for ready, frame in being_made:
            if ready == now:
                frame.picture = [b"a picture"]
        for frame in _due(machine, now / 100):
            kind = ["first", "second"][frame.segment.number] if frame.segment else machine.show.value
            drawing.frames.append((now, kind))
            if ended := machine.sent(frame, now / 100):
                drawing.events.append((now, f"segment_ended {ended.number}"))
    return drawing


def _say(machine: Machine[str], drawing: Drawing, now: int) -> None:
    samples = SAMPLE_RATE_HZ // 100
    if any(begin < now <= end and (now - begin) % _PIECE == 0 for begin, end in _LIVE):
        machine.sound(np.zeros(_PIECE * samples, np.float32))
    if now == _SEGMENT_ENDS:
        machine.end_of_segment()
    if now == _SENT_AHEAD:
        machine.sound(np.zeros(_AHEAD_LENGTH * samples, np.float32))
        machine.end_of_segment()
    if now == _INTERRUPT:
        answer = machine.interrupt(now / 100)
        drawing.events.append((now, f"interrupted {answer.segment}"))


def _due(machine: Machine[str], now_s: float) -> Iterator[PlannedFrame[str]]:
    match machine.next_step(now_s):
        case SendFrames(frames):
            yield from frames
        case MakeIdle(frame):
            yield frame


# Drawing

_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.small { font-size: 11px }
.line { stroke: #656d76; stroke-width: 1; fill: none }
.thin { stroke: #656d76; stroke-width: 1; stroke-dasharray: 2 3; fill: none }
.tip { fill: #656d76 }
.idle { fill: #c8ced5 }
.stalled { fill: #e3a33b }
.first { fill: #3b82d6 }
.second { fill: #2f9e63 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .line, .thin { stroke: #9198a1 }
  .tip { fill: #9198a1 }
  .idle { fill: #565e68 }
}
"""


def svg() -> str:
    """Returns the drawing."""
    drawing = course()
    width = _x(_END) + _RIGHT
    parts = [*_lanes(), *_sound(), *_frames(drawing), *_events(drawing), *_axis(), *_legend()]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {_HEIGHT}" width="{width:g}" height="{_HEIGHT}">'
    title = "<title>Four seconds of a session: sound comes in, frames leave every 40 ms</title>"
    return "\n".join([head, title, f"<style>{_STYLE}</style>", *parts, "</svg>", ""])


def _x(time: float) -> float:
    return round(_LEFT + time * _SCALE, 1)


def _text(x: float, y: float, words: str, *, anchor: str = "start", small: bool = True) -> str:
    kind = ' class="small"' if small else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{kind}>{escape(words)}</text>'


def _box(kind: str, begin: float, end: float, y: float, height: float) -> str:
    width = (end - begin) * _SCALE - 1
    return f'<rect class="{kind}" x="{_x(begin):g}" y="{y:g}" width="{width:.1f}" height="{height:g}" rx="1.5"/>'


def _mark(time: float, y: float, words: str, *, anchor: str = "middle") -> Iterator[str]:
    """Points down at a time on the line at `y`, with words above."""
    x = _x(time)
    yield f'<path class="tip" d="M {x:g} {y:g} l -4 -7 h 8 z"/>'
    yield _text(x, y - 11, words, anchor=anchor)


def _lanes() -> Iterator[str]:
    for y, words in ((_SOUND_Y + 12, "client sends"), (_FRAMES_Y + 15, "frames leave"), (_EVENTS_Y + 4, "other events")):
        yield _text(_LEFT - 12, y, words, anchor="end", small=False)


def _sound() -> Iterator[str]:
    for begin, end in _LIVE:
        for time in range(begin, end, _PIECE):
            yield _box("first", time, time + _PIECE, _SOUND_Y, 18)
    yield _text(_x(_LIVE[0][0]), _SOUND_Y + 32, "segment 0, as it is spoken")
    yield from _mark(_SEGMENT_ENDS, _SOUND_Y, "end_of_segment")
    for layer in range(8):
        yield _box("second", _SENT_AHEAD - 3, _SENT_AHEAD + 17, _SOUND_Y - 3 + 3 * layer, 2)
    yield _text(_x(_SENT_AHEAD + 20), _SOUND_Y + 13, "segment 1: 1.6 s at once")
    yield from _mark(_INTERRUPT, _SOUND_Y, "interrupt")


def _frames(drawing: Drawing) -> Iterator[str]:
    for time, kind in drawing.frames:
        yield _box(kind, time, time + _FRAME, _FRAMES_Y, 22)
    first = next(time for time, kind in drawing.frames if kind == "first")
    begin, y = _LIVE[0][0], _FRAMES_Y - 9
    yield f'<path class="line" d="M {_x(begin):g} {y + 4:g} v -8 M {_x(begin):g} {y:g} H {_x(first):g} v -4 v 8"/>'
    yield _text(_x(first) + 6, y + 4, f"{10 * (first - begin)} ms: look-ahead, cushion of {10 * _CUSHION} ms, making")


def _events(drawing: Drawing) -> Iterator[str]:
    yield f'<path class="line" d="M {_x(0):g} {_EVENTS_Y:g} H {_x(_END):g}"/>'
    for time, words in drawing.events:
        anchor = "middle" if time else "start"
        yield f'<path class="thin" d="M {_x(time):g} {_FRAMES_Y + 24} V {_EVENTS_Y - 22}"/>'
        yield from _mark(time, _EVENTS_Y, words, anchor=anchor)


def _axis() -> Iterator[str]:
    yield f'<path class="line" d="M {_x(0):g} {_AXIS_Y - 18} H {_x(_END):g}"/>'
    for second in range(_END // 100 + 1):
        x = _x(100 * second)
        yield f'<path class="line" d="M {x:g} {_AXIS_Y - 22} v 8"/>'
        yield _text(x, _AXIS_Y, f"{second} s", anchor="middle" if second < _END // 100 else "end")
    yield _text(_LEFT - 12, _AXIS_Y - 14, "since started", anchor="end", small=False)


def _legend() -> Iterator[str]:
    x = float(_LEFT)
    for kind, words in (
        ("first", "segment 0"),
        ("second", "segment 1"),
        ("idle", "idle: nothing to say"),
        ("stalled", "idle in a stall: the sound has run out"),
    ):
        yield f'<rect class="{kind}" x="{x:g}" y="{_HEIGHT - 19}" width="8" height="12" rx="1.5"/>'
        yield _text(x + 13, _HEIGHT - 9, words)
        x += 40 + 6.2 * len(words)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(svg(), encoding="utf-8")
