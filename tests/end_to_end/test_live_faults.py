"""Live sessions while the other side breaks: inference services that die, hang or are cut off, avatars that fail or are replaced,
and clients that vanish without a word. No frame is lost or doubled, every byte is right, and everything is freed.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest

from compositing_service.mouth_source import MOUTH_BYTES
from shared_proto import compositing_pb2 as pb

from .avatars import exact_network, picky_network, write_avatar
from .conftest import CALL_S, Duo, connected, serving
from .cutting_proxy import CuttingProxy
from .processes import TREE, Service, assert_no_trace, running, until
from .talking import Talk, config, noise
from .test_live_bytes import check, clip

SECONDS = 4.0
FRAMES = 100
AT_ONCE_S = 25  # on a busy machine; less than the half minute after which a ping would find it out


def whole(talk: Talk, *, frames: int = FRAMES) -> None:
    """All frames of segment 0 came once and in order."""
    assert [frame.audio_us for frame in talk.speech] == [40_000 * k for k in range(frames)]
    assert [frame.number for frame in talk.frames] == list(range(len(talk.frames)))


# Inference services


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_avatar(root, "small")
    write_avatar(root, "other", seed=50, frames=3)
    return root


@contextmanager
def two_endpoints(root: Path, logs: Path) -> Iterator[tuple[Duo, Service]]:
    """A compositing service before two inference services."""
    with ExitStack() as stack:
        first, second = (stack.enter_context(running("inference", f"models_root={root}", log=logs / f"i{n}")) for n in range(2))
        url = f"inference_server.url={first.address},{second.address}"
        compositing = stack.enter_context(running("compositing", f"models_root={root}", url, log=logs / "c"))
        yield stack.enter_context(connected(first, compositing)), second
        assert_no_trace(compositing)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_with_a_second_inference_service_the_loss_of_one_costs_no_frame(root: Path, tmp_path: Path, how: signal.Signals) -> None:
    sound = clip(16_000, pb.PCM_FLOAT32, 30, SECONDS)
    with two_endpoints(root, tmp_path) as (duo, lost):
        with Talk(duo.pictures, config()) as warm, Talk(duo.pictures, config()) as talk:
            warm.say(sound.data)
            talk.say(sound.data)
            talk.wait(lambda: len(talk.speech) > 20)
            lost.signal(how)
            for each in (talk, warm):
                each.end()
                whole(each)
                lost.signal(signal.SIGCONT)
        check(duo, talk.speech[::7], sound, "small")


# On a quick machine sixteen whole mouths come in one message, which must fit between two cuts now and then.
CUT_BYTES = 3 * 16 * MOUTH_BYTES
# A busy machine takes longer to connect again than the usual few of them last.
RETRIES = "inference_server.max_retries=20"


def test_a_connection_that_is_cut_again_and_again_costs_no_frame(root: Path, tmp_path: Path) -> None:
    rng = random.Random(4)
    sound = clip(16_000, pb.PCM_FLOAT32, 31, SECONDS)
    with (
        running("inference", f"models_root={root}", log=tmp_path / "i") as inference,
        CuttingProxy(inference.address, iter(lambda: rng.randrange(50_000, CUT_BYTES), 0)) as proxy,
        running(
            "compositing", f"models_root={root}", f"inference_server.url={proxy.address}", RETRIES, log=tmp_path / "c"
        ) as compositing,
        connected(inference, compositing) as duo,
    ):
        with Talk(duo.pictures, config()) as talk, Talk(duo.pictures, config(pacing=pb.AS_FAST_AS_POSSIBLE)) as fast:
            talk.wait(lambda: talk.of("started"))
            fast.wait(lambda: fast.of("started"))
            talk.say(sound.data)
            fast.say(sound.data)
            for each in (talk, fast):
                each.end()
                whole(each)
        assert proxy.connections > 3
        assert_no_trace(compositing)
        assert_no_trace(inference)
    with serving(root, tmp_path) as duo:
        check(duo, talk.speech[::7], sound, "small")
        check(duo, fast.speech[::7], sound, "small")


# Avatars


@pytest.fixture(scope="module")
def steady(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Duo]:
    """Services before `root`, for tests that change no file."""
    with serving(root, tmp_path_factory.mktemp("steady")) as both:
        yield both
        assert_no_trace(both.compositing)
        assert_no_trace(both.inference)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[Duo, Path]]:
    """Services of this test's own, and the folder of their avatars."""
    root = tmp_path / "models"
    root.mkdir()
    write_avatar(root, "small")
    write_avatar(root, "other", seed=50, frames=3)
    write_avatar(root, "picky", network=picky_network())
    with (
        running("inference", f"models_root={root}", log=tmp_path / "i") as inference,
        running("compositing", f"models_root={root}", f"inference_server.url={inference.address}", log=tmp_path / "c") as service,
        connected(inference, service) as both,
    ):
        yield both, root
        assert_no_trace(service)
        assert_no_trace(inference)


def replace_avatar(root: Path, avatar_id: str, **options: object) -> None:
    write_avatar(root / "new", avatar_id, **options)
    shutil.move(root / avatar_id, root / f".old-{avatar_id}")
    shutil.move(root / "new" / avatar_id, root / avatar_id)


def test_an_avatar_whose_network_begins_to_fail_ends_its_own_sessions_alone(own: tuple[Duo, Path]) -> None:
    duo, root = own
    with Talk(duo.pictures, config(model_id="other")) as broken, Talk(duo.pictures, config()) as talk:
        broken.say(noise(2.0), end=False)
        talk.say(noise(SECONDS))
        broken.wait(lambda: len(broken.speech) > 10)
        replace_avatar(root, "other", network=picky_network(least=-1e9))
        with pytest.raises(grpc.RpcError):
            duo.pictures.LoadModel(pb.LoadModelRequest(model_id="other", force_reload=True), timeout=CALL_S)
        broken.send(interrupt=pb.Interrupt())
        broken.say(noise(1.0))
        assert broken.failure().code() is grpc.StatusCode.FAILED_PRECONDITION
        talk.end()
    whole(talk)


def test_unloading_an_avatar_in_both_services_does_not_touch_its_sessions(steady: Duo) -> None:
    sound = clip(16_000, pb.PCM_FLOAT32, 32, SECONDS)
    with Talk(steady.pictures, config()) as talk:
        talk.say(sound.data)
        for _ in range(3):
            seen = len(talk.speech)
            talk.wait(lambda seen=seen: len(talk.speech) > seen + 10)
            steady.pictures.UnloadModel(pb.UnloadModelRequest(model_id="small"), timeout=CALL_S)
        talk.end()
    whole(talk)
    assert not talk.of("avatar_switched")
    check(steady, talk.speech[::7], sound, "small")


@pytest.mark.parametrize("changed", [False, True])
def test_an_avatar_that_is_reloaded_in_a_segment_is_taken_at_the_next_one(
    own: tuple[Duo, Path], root: Path, tmp_path: Path, changed: bool
) -> None:
    """The avatars of `root` are those of before, in services that know no other."""
    duo, own_root = own
    sound = clip(16_000, pb.PCM_FLOAT32, 33, 2.0)
    with Talk(duo.pictures, config()) as talk:
        talk.say(sound.data)
        talk.say(sound.data)
        talk.wait(lambda: len(talk.speech) > 5)
        if changed:
            replace_avatar(own_root, "small", network=exact_network(gain=0.0625), seed=90)
        duo.pictures.LoadModel(pb.LoadModelRequest(model_id="small", force_reload=True), timeout=CALL_S)
        talk.end()
    assert [frame.audio_us for frame in talk.speech] == [40_000 * k for k in range(50)] * 2
    [switched] = talk.of("avatar_switched")
    second = [frame for frame in talk.speech if frame.segment == 1]
    assert switched.number == second[0].number
    assert [frame.position for frame in talk.speech] == list(range(talk.speech[0].position, talk.speech[0].position + 100))
    check(duo, second[::7], sound, "small")
    if changed:
        (before := tmp_path / "before").mkdir()
        with serving(root, before) as former:
            check(former, [frame for frame in talk.speech if frame.segment == 0][::7], sound, "small")


# Clients

CLIENT = """
import sys, threading, time
import grpc
from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceStub
def messages():
    yield pb.SessionRequest(config=pb.SessionConfig(model_id="small"))
    while True:
        yield pb.SessionRequest(audio=pb.SessionAudio(data=bytes(6400)))
        time.sleep(0.05)
with grpc.insecure_channel(sys.argv[1]) as channel:
    for event in CompositingServiceStub(channel).StreamComposite(messages()):
        if event.frames.frames:
            print("frame", flush=True)
"""


@contextmanager
def client(address: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", CLIENT, address], cwd=TREE, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        for _ in range(5):
            assert process.stdout.readline() == b"frame\n"
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def is_free(duo: Duo) -> bool:
    compositing = duo.compositing.metric("lipsync_sessions") == 0
    return compositing and duo.inference.metric("lipsync_inference_queued_frames") == 0


def test_a_client_that_is_killed_leaves_at_once(steady: Duo) -> None:
    with client(steady.compositing.address) as process:
        assert steady.compositing.metric("lipsync_sessions") >= 1  # those of other tests may be ending
        process.kill()
        until(lambda: is_free(steady), within_s=AT_ONCE_S)


def test_a_client_whose_connection_is_cut_leaves_at_once(steady: Duo) -> None:
    with CuttingProxy(steady.compositing.address, iter([300_000])) as proxy, client(proxy.address):
        until(lambda: is_free(steady), within_s=AT_ONCE_S)


def test_a_client_that_is_stopped_leaves_when_it_answers_no_ping(tmp_path: Path, root: Path) -> None:
    brief = "server.keepalive_seconds=1", "server.keepalive_timeout_seconds=1"
    with (
        running("inference", f"models_root={root}", log=tmp_path / "i") as inference,
        running(
            "compositing", f"models_root={root}", f"inference_server.url={inference.address}", *brief, log=tmp_path / "c"
        ) as service,
        connected(inference, service) as duo,
        client(service.address) as process,
    ):
        process.send_signal(signal.SIGSTOP)
        until(lambda: is_free(duo))
        assert_no_trace(service)
