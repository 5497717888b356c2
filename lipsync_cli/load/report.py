"""Writes the results of the load tester: tables, JSON and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np

from lipsync_cli import machine
from lipsync_cli.load.arrivals import LATE_MS, Spread
from lipsync_cli.load.first_frame import FirstFrames
from lipsync_cli.load.plot import Axis, Curve, Panel, draw, milliseconds
from lipsync_cli.load.processor import Used
from lipsync_cli.load.running import LoadRun, RampRun

Rows = list[tuple[str, str]]
_LEAST_MS = 0.1  # on logarithmic axes
_CURVE_POINTS = 200
_ERRORS_SHOWN = 3


# Tables


def run_rows(run: LoadRun) -> Rows:
    """Returns the rows of the table of one run."""
    outcomes = run.outcomes
    late = sum(outcome.late for outcome in outcomes)
    counted = sum(outcome.server_late for outcome in outcomes)
    stalls = sum(outcome.stalls for outcome in outcomes), sum(outcome.server_stalls for outcome in outcomes)
    resets, resumes = sum(outcome.clock_resets for outcome in outcomes), sum(outcome.resumes for outcome in outcomes)
    drift_ms = max((outcome.drift_ms for outcome in outcomes if outcome.frames), key=abs, default=0.0)
    return [
        ("sessions kept in real time", f"{run.kept} of {run.sessions}"),
        ("frames", f"{run.frames} in {run.seconds:.1f} s"),
        ("pictures of a session", f"{run.megabits_a_second:.2f} Mbit/s"),
        ("frames late by 40 ms or more", f"{late}; the server counted {counted}"),
        ("behind their time", f"{run.behind or '-'}"),
        ("first frame of an utterance", f"{run.first_frames or '-'}"),
        ("stalls", f"{stalls[0]}; the server counted {stalls[1]}"),
        ("clock resets, resumes", f"{resets}, {resumes}"),
        ("largest drift of a session", f"{drift_ms:+.1f} ms"),
        *error_rows(run),
        *processor_rows(run.used, frames=run.frames, session_seconds=run.session_seconds, seconds=run.seconds),
        ("the tester's own delay", f"{run.own_delay or '-'}"),
    ]


def processor_rows(used: Used, *, frames: int, session_seconds: float, seconds: float) -> Rows:
    """Returns a row for each process whose processor time was measured."""
    times = [("the tester's own processor time", used.tester_s)]
    times += [(f"processor time of process {pid}", spent_s) for pid, spent_s in used.servers_s.items()]
    return [
        (
            name,
            f"{spent_s / max(1, frames) * 1000:.2f} ms a frame, {spent_s / session_seconds * 1000:.1f} ms a second of a session, "
            f"{spent_s / seconds:.2f} cores",
        )
        for name, spent_s in times
    ]


def ramp_rows(ramp: RampRun) -> list[tuple[str, ...]]:
    """Returns a row of RAMP_COLUMNS for each run."""
    return [
        (
            str(run.sessions),
            str(run.kept),
            str(sum(bool(outcome.error) for outcome in run.outcomes)),
            str(sum(outcome.late for outcome in run.outcomes)),
            f"{run.behind or '-'}",
            f"{run.first_frames or '-'}",
            f"{run.used.tester_s / run.seconds:.2f}",
            f"{run.own_delay.p99:.1f}" if run.own_delay else "-",
        )
        for run in ramp.runs
    ]


RAMP_COLUMNS = (
    ">sessions",
    ">kept",
    ">failed",
    ">late frames",
    ">behind, p50 / p95 / p99",
    ">first frame, p50 / p95 / p99",
    ">tester, cores",
    ">its delay, p99 in ms",
)


def first_frame_rows(found: FirstFrames) -> Rows:
    """Returns the rows of the table of first frames."""
    return [
        ("first frames", str(len(found.first_frames_ms))),
        ("from writing the last sample that it needs", f"{found.first_frames or '-'}"),
    ]


def error_rows(run: LoadRun) -> Rows:
    """Returns the errors that ended sessions, the most frequent first."""
    errors = [outcome.error for outcome in run.outcomes if outcome.error]
    often = sorted(set(errors), key=errors.count, reverse=True)
    return [(f"{errors.count(error)} failed", error) for error in often[:_ERRORS_SHOWN]]


# JSON


def run_report(run: LoadRun) -> dict[str, Any]:
    """Returns all of a run but its single frames."""
    return {
        "sessions": run.sessions,
        "kept": run.kept,
        "seconds": run.seconds,
        "frames": run.frames,
        "megabits_a_second": run.megabits_a_second,
        "behind_ms": _spread(run.behind),
        "first_frame_ms": _spread(run.first_frames),
        "processor_s": _used(run.used),
        "own_delay_ms": _spread(run.own_delay),
        "each": [{**asdict(outcome), "kept": outcome.kept} for outcome in run.outcomes],
    }


def ramp_report(ramp: RampRun) -> dict[str, Any]:
    """Returns all runs of a ramp."""
    return {"fits": ramp.fits, "runs": [run_report(run) for run in ramp.runs]}


def first_frame_report(found: FirstFrames) -> dict[str, Any]:
    """Returns all first frames."""
    return {
        "first_frame_ms": _spread(found.first_frames),
        "each_ms": list(found.first_frames_ms),
        "processor_s": _used(found.used),
    }


def with_origin(result: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Adds when, from where and how it was measured."""
    tester = {"cpu": machine.cpu_model(), "cpu_flags": machine.cpu_flags()}
    return {"measured": datetime.now(UTC).isoformat(timespec="seconds"), "tester": tester, "settings": dict(settings), **result}


def _spread(spread: Spread | None) -> dict[str, float] | None:
    return asdict(spread) if spread else None


def _used(used: Used) -> dict[str, Any]:
    return {"tester": used.tester_s, "servers": {str(pid): spent_s for pid, spent_s in used.servers_s.items()}}


# Plots


def run_plot(run: LoadRun) -> str:
    """Draws how far frames came after their time, over the run, and how many came within which time."""
    behind = [spread for _, spread in run.timeline]
    over_time = Panel(
        f"{run.sessions} sessions, {run.kept} kept in real time: frames behind their time",
        Axis("seconds since the start of the first session", 0.0, max(1.0, run.seconds)),
        milliseconds([spread.most for spread in behind], first=_LEAST_MS, at_least=LATE_MS),
        [
            Curve("half of the frames", [(at_s, spread.p50) for at_s, spread in run.timeline]),
            Curve("99 of 100 frames", [(at_s, spread.p99) for at_s, spread in run.timeline]),
            Curve("all frames", [(at_s, spread.most) for at_s, spread in run.timeline]),
        ],
        limit=LATE_MS,
        limit_label="late",
    )
    return draw([over_time, _distribution(run)])


def ramp_plot(ramp: RampRun) -> str:
    """Draws how far frames came after their time, by the number of sessions."""
    found = {run.sessions: run.behind for run in ramp.runs if run.behind}  # the last try of each number
    spreads = sorted(found.items())
    panel = Panel(
        f"{ramp.fits} sessions fit: frames behind their time by the number of sessions",
        Axis("sessions", 0.0, 1.05 * max(found, default=1), whole=True),
        milliseconds([spread.most for _, spread in spreads], first=_LEAST_MS, at_least=LATE_MS),
        [
            Curve("half of the frames", [(count, spread.p50) for count, spread in spreads], marks=True),
            Curve("99 of 100 frames", [(count, spread.p99) for count, spread in spreads], marks=True),
            Curve("all frames", [(count, spread.most) for count, spread in spreads], marks=True),
        ],
        limit=LATE_MS,
        limit_label="late",
    )
    return draw([panel])


def first_frame_plot(found: FirstFrames) -> str:
    """Draws how many first frames came within which time."""
    x = milliseconds(found.first_frames_ms, first=1.0, at_least=100.0)
    curve = Curve("first frames", _within(found.first_frames_ms))
    return draw([Panel(f"{len(found.first_frames_ms)} first frames of {found.avatar}", x, _SHARE, [curve])])


_SHARE = Axis("% that came within", 0.0, 100.0)


def _distribution(run: LoadRun) -> Panel:
    curves = [
        Curve("frames, behind their time", _within(run.behind_ms)),
        Curve("first frames, from their sound", _within(run.first_frames_ms)),
    ]
    largest = [curve.points[-1][0] for curve in curves if curve.points]
    return Panel(
        "Share of the frames that came within a time",
        milliseconds(largest, first=_LEAST_MS, at_least=LATE_MS),
        _SHARE,
        [curve for curve in curves if curve.points],
        limit=LATE_MS,
        limit_on_x=True,
        limit_label="frames are late",
    )


def _within(values_ms: Sequence[float] | np.ndarray[Any, np.dtype[np.float64]]) -> list[tuple[float, float]]:
    """Returns for each share in % the time within which so many came."""
    if not len(values_ms):
        return []
    shares = np.linspace(0, 100, _CURVE_POINTS)
    return [(float(value), float(share)) for value, share in zip(np.percentile(values_ms, shares), shares, strict=True)]
