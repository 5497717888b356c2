"""`lipsync render` against a real gRPC server: the film, the strip, exit codes, and nothing left behind when it fails."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import av
import cv2
import numpy as np
import pytest

from lipsync_cli.strip import Strip, strip_frames

FRAMES = 63  # 2.5 s


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "speech.wav")


def test_film_and_strip(run, film_service, speech, tmp_path):
    film_service.flashes = {40}
    film, strip = tmp_path / "new" / "film.mp4", tmp_path / "film.png"
    result = run(
        "render", "--avatar", "demo", "--audio", speech, "--out", film, "--server", film_service.target, "--strip", strip
    )
    assert result.exit_code == 0, result.output
    with av.open(str(film)) as container:
        brightness = [frame.to_ndarray(format="gray").mean() for frame in container.decode(video=0)]
    with av.open(str(film)) as container:
        sound = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)[0]
    assert len(brightness) == FRAMES
    assert [k for k, value in enumerate(brightness) if value > 128] == [40]
    assert np.flatnonzero(np.abs(sound) > 0.3)[0] / 16000 == pytest.approx(40 / 25, abs=0.001)
    assert cv2.imread(str(strip)) is not None
    assert leftovers(tmp_path) == ["film.png", "new"]
    assert leftovers(film.parent) == ["film.mp4"]
    for words in ("first frame", "total", "frames/s", "inference", "composite", "audio", "63 frames"):
        assert words in result.stdout


def test_every_frame_is_asked_for_once_at_16_khz(run, film_service, tmp_path, wav):
    recording = wav(tmp_path / "a.wav", np.zeros((2, 44_100 * 4), np.int16), 44_100)
    result = run(
        "render",
        *(
            "--avatar",
            "demo",
            "--audio",
            recording,
            "--out",
            tmp_path / "a.mp4",
            "--server",
            film_service.target,
            "--quality",
            61,
        ),
    )
    assert result.exit_code == 0, result.output
    requests = sorted(film_service.requests, key=lambda request: request.start_frame_idx)
    asked = [k for request in requests for k in range(request.start_frame_idx, request.start_frame_idx + request.batch_size)]
    assert asked == list(range(100))
    assert {(request.sample_rate, request.jpeg_quality, request.model_id) for request in requests} == {(16_000, 61, "demo")}


def test_a_colon_in_relative_names_is_no_protocol(start, film_service, tmp_path, speech):
    speech.rename(tmp_path / "2024-05-01T12:30:00.wav")
    names = ("--audio", "2024-05-01T12:30:00.wav", "--out", "2024-05-01T12:30:00.mp4", "--strip", "a:b.png")
    process = start("render", "--avatar", "demo", "--server", film_service.target, *names)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert leftovers(tmp_path) == ["2024-05-01T12:30:00.mp4", "2024-05-01T12:30:00.wav", "a:b.png"]
    with av.open(str(tmp_path / "2024-05-01T12:30:00.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == FRAMES


def test_channels_that_cancel_each_other_out_are_warned_of(run, film_service, tmp_path, wav):
    voice = np.round(20_000 * np.sin(np.arange(16_000) / 5)).astype(np.int16)
    sound = wav(tmp_path / "inverted.wav", np.stack([voice, -voice]), 16_000)
    options = ("--avatar", "demo", "--audio", sound, "--out", tmp_path / "a.mp4", "--server", film_service.target)
    result = run("render", *options)
    assert result.exit_code == 0, result.output
    assert f"warning: {sound}: its channels cancel each other out" in result.stderr


def test_a_sample_that_is_no_number_is_refused_before_anything_is_asked_for(run, film_service, tmp_path):
    samples = np.zeros(44_100 * 3, np.float32)
    samples[100_000] = np.nan
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=44_100, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts = 44_100, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    options = ("--avatar", "demo", "--audio", tmp_path / "a.wav", "--out", tmp_path / "a.mp4", "--server", film_service.target)
    result = run("render", *options)
    assert result.exit_code == 1
    assert "a.wav: the sample at 2.2676 s of channel 1 (number 100000) is nan" in result.stderr
    assert film_service.requests == []
    assert leftovers(tmp_path) == ["a.wav"]


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({"--avatar": "none"}, 1, "NOT_FOUND: no avatar has the id 'none'; there are torn, demo, old"),
        ({"--avatar": "demoo"}, 1, "NOT_FOUND: no avatar has the id 'demoo'; did you mean 'demo'?"),
        ({"--audio": "absent.wav"}, 1, "absent.wav: No such file or directory"),
        ({"--server": "127.0.0.1:1"}, 1, "calling 127.0.0.1:1 failed: UNAVAILABLE: nothing listens at this address"),
        ({"--out": "/proc/film.mp4"}, 1, "/proc/film.mp4: cannot be written: No such file or directory"),
        ({"--out": "film.avi"}, 2, "does not end in .mp4"),
        ({"--strip": "film.jpg"}, 2, "does not end in .png"),
        ({"--quality": "best"}, 2, "expected 1 to 100, low, medium or high"),
        ({"--quality": "0"}, 2, "expected 1 to 100, low, medium or high"),
    ],
    ids=str,
)
def test_errors_are_one_sentence_and_leave_nothing(run, film_service, speech, tmp_path, changed, code, words):
    options = {"--avatar": "demo", "--audio": speech, "--out": tmp_path / "film.mp4", "--server": film_service.target} | changed
    result = run("render", *[part for pair in options.items() for part in pair])
    assert result.exit_code == code
    assert words in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.output
    assert leftovers(tmp_path) == []


def test_the_port_of_the_page_is_told_from_that_of_grpc(run, speech, tmp_path):
    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            address = f"127.0.0.1:{server.server_port}"
            result = run("render", "--avatar", "demo", "--audio", speech, "--out", tmp_path / "film.mp4", "--server", address)
        finally:
            server.shutdown()
    assert result.exit_code == 1
    assert f"calling {address} failed: UNAVAILABLE: no gRPC is spoken at this port" in result.stderr


def test_a_failure_in_the_middle_leaves_the_old_film(run, film_service, speech, tmp_path):
    film_service.breaks_at = 50
    film = tmp_path / "film.mp4"
    film.write_bytes(b"the old one")
    result = run("render", "--avatar", "demo", "--audio", speech, "--out", film, "--server", film_service.target)
    assert result.exit_code == 1
    assert "FAILED_PRECONDITION: frame 50 is missing" in result.stderr
    assert film.read_bytes() == b"the old one"
    assert leftovers(tmp_path) == ["film.mp4"]


def test_debug_shows_where(start, speech):
    """Wherever the option stands."""
    for arguments in [("--debug", "render"), ("render", "--debug")]:
        process = start(*arguments, "--avatar", "x", "--audio", "absent.wav", "--out", "film.mp4")
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "Traceback" in errors
        assert "CliError: absent.wav: No such file or directory" in errors


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_interrupted(start, film_service, speech, tmp_path, sent, code):
    film_service.hangs = True
    process = start("render", "--avatar", "demo", "--audio", speech, "--out", "film.mp4", "--server", film_service.target)
    assert film_service.reached.wait(60)
    output, errors = ended_by(process, sent)
    assert process.returncode == code
    assert "Traceback" not in output + errors
    assert leftovers(tmp_path) == []


def ended_by(process, sent):
    """Its output. Asks again, as a person would: Python loses a signal's exception in a callback that cannot raise.

    Not soon: a process on its way out, which takes its time on a busy machine, would be ended by the second signal.
    """
    for _ in range(3):
        process.send_signal(sent)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=60)
    raise AssertionError(f"not ended by {sent!r}")


@pytest.mark.parametrize("frame_count", [1, 2, 5, 12, 13, 63, 1000])
def test_the_strip_shows_different_frames_over_the_whole_clip(frame_count):
    shown = strip_frames(frame_count)
    assert len(set(shown)) == len(shown) == min(frame_count, 12)
    assert shown == sorted(shown)
    assert 0 <= shown[0] <= frame_count / 12
    assert frame_count - 1 - frame_count / 12 <= shown[-1] <= frame_count - 1


def test_the_strip_shows_the_face_and_the_sound():
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[20:60, 50:130] = (0, 200, 0)
    speech = np.zeros(640 * 24, np.float32)
    speech[8000:] = 1
    strip = Strip(2, face=(50, 20, 130, 60))
    assert (
        np.concatenate(list(strip.with_sound(speech[k : k + 999] for k in range(0, speech.size, 999)))).tolist()
        == speech.tolist()
    )
    strip.add_frame(0, picture)
    strip.add_frame(1, picture)
    drawn = strip.draw()
    green = (drawn == (0, 200, 0)).all(axis=2)
    assert green.sum() == pytest.approx(2 * 320 * 160, rel=0.02), "both tiles show the face alone, 320 wide"


def test_the_strip_shows_the_sound_around_each_frame():
    """Loud from frame 110 on, which is the last one of the first row."""
    speech = np.zeros(640 * 240, np.float32)
    speech[640 * 110 :] = 1
    strip = Strip(240)
    list(strip.with_sound(speech[k : k + 12_345] for k in range(0, speech.size, 12_345)))
    for frame in range(240):
        strip.add_frame(frame, np.zeros((100, 200, 3), np.uint8))
    upper, lower = np.array_split((strip.draw() == (200, 150, 90)).all(axis=2), 2)
    loud = np.flatnonzero(upper.sum(axis=0) > 20)
    last_tile = upper.shape[1] - 324
    assert loud.min() == pytest.approx(last_tile + 160, abs=3), "sound begins in the middle of the last tile"
    assert (lower.sum(axis=0) > 20).mean() > 0.95, "and lies under all of the second row"
