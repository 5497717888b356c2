"""A clock that jumps: only what is shown follows it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ..end_to_end.callers import SteadyCaller
from ..end_to_end.conftest import connected
from ..end_to_end.processes import assert_no_trace, running, until
from ..end_to_end.talking import Talk, config, noise
from ..programs import program
from .conftest import request_of


def set_clock(file: Path, offset: str) -> None:
    """libfaketime takes the offset from the file at every look at the clock."""
    new = file.with_suffix(".new")
    new.write_text(offset)
    os.replace(new, file)


@pytest.mark.parametrize("jump", ["+3600", "-3600"])
def test_an_hour_forth_or_back_is_noticed_in_the_log_alone(models_root: Path, tmp_path: Path, jump: str) -> None:
    """Sessions keep their clock, deadlines and leases their length, and calls go on."""
    clock = tmp_path / "clock"
    set_clock(clock, "+0")
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None) if program("faketime", "faketime") else None
    assert library
    faked = [
        "env",
        f"LD_PRELOAD={library}",
        f"FAKETIME_TIMESTAMP_FILE={clock}",
        "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
        "FAKETIME_DONT_RESET=1",
    ]
    common = f"models_root={models_root}"
    with running("inference", common, log=tmp_path / "inference", before=faked) as inference:
        url = f"inference_server.url={inference.address}"
        with (
            running("compositing", common, url, log=tmp_path / "compositing", before=faked) as compositing,
            connected(inference, compositing) as both,
            SteadyCaller(compositing.address, request_of()) as steady,
            Talk(both.pictures, config()) as talk,
        ):
            talk.wait(lambda: talk.frames)
            talk.say(noise(0.4))
            hour = compositing.log.read_text().splitlines()[-1][:13]
            set_clock(clock, jump)
            steady.wait_for_a_call()
            talk.say(noise(0.4))
            talk.wait(lambda: len(talk.of("segment_ended")) == 2)
            talk.end()
            steady.wait_for_a_call()
            assert [frame.number for frame in talk.frames] == list(range(len(talk.frames)))
            assert {ended.frames for ended in talk.of("segment_ended")} == {10}
            until(lambda: "session ended" in compositing.log.read_text())
            assert compositing.log.read_text().splitlines()[-1][:13] != hour, "the log tells the time that the system tells"
        assert_no_trace(compositing)
    assert_no_trace(inference)
