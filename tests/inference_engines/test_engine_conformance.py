"""Every engine gives the same mouths, tells the same failures and can be interrupted."""

from __future__ import annotations

import threading

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from avatar_kit.errors import BrokenAvatar
from avatar_kit.geometry import Mask
from avatar_tools.variants import make_variant
from inference_service.engines.engine import NO_PICTURES, EngineError, EngineInput
from inference_service.limited_threads import LimitedThreads, Overrun
from service_kit.clock import SystemClock

from ..end_to_end.avatars import endless_network, picky_network
from ..inference_service.conftest import MIX, MakeAvatar, foreign_model, hearing_network, network
from .conftest import Kind, linear_network, network_input, run, windows

PATIENCE_S = 60


def reference(pictures: NDArray[np.float32], sound: NDArray[np.float32], scale: float = 1.0) -> NDArray[np.float64]:
    """Output of the small network, in float64."""
    mixed = np.einsum("oi,nihw->nohw", MIX[:, :, 0, 0].astype(np.float64), pictures.astype(np.float64))
    mean = sound.reshape(len(sound), -1).astype(np.float64).mean(axis=1)
    return 1 / (1 + np.exp(-(mixed + scale * mean[:, None, None, None])))


@pytest.mark.parametrize("fixed", ["batch", 1, 2], ids=["any batch", "batch of one", "batch of two"])
@pytest.mark.parametrize("fixed_reference", [None, 0, 3])
def test_mouths_are_those_of_the_straightforward_path(
    make_avatar: MakeAvatar, kind: Kind, fixed: int | str, fixed_reference: int | None
) -> None:
    avatar = make_avatar(model=network(batch=fixed, scale=-0.5), reference_frame=fixed_reference)
    sound, frames = windows(7), [4, 3, 0, 1, 1, 2, 4]
    mouths, output = run(kind.open(avatar), frames, sound)
    pictures = np.stack([network_input(avatar, frame, reference=fixed_reference) for frame in frames])
    np.testing.assert_allclose(mouths, reference(pictures, sound, scale=-0.5), atol=kind.tolerance)
    assert output.finite.all()
    assert output.seconds > 0


def test_only_the_formats_that_are_wanted_are_made(make_avatar: MakeAvatar, kind: Kind) -> None:
    engine = kind.open(make_avatar())
    engine.bank.ensure([0])
    frames = np.zeros(1, np.int64)
    floats, pixels = (
        engine.run(EngineInput(windows(1), frames, NO_PICTURES, want_float=wanted, want_uint8=not wanted))
        for wanted in (True, False)
    )
    assert floats.mouths_uint8 is None
    assert pixels.mouths_float is None


def test_the_mask_is_the_avatars_own(make_avatar: MakeAvatar, kind: Kind) -> None:
    avatar = make_avatar(mask=Mask(5, 5, 310, 315))
    mouths, _ = run(kind.open(avatar), [1], windows(1))
    expected = reference(network_input(avatar, 1, mask=(5, 5, 310, 315))[None], windows(1))
    np.testing.assert_allclose(mouths, expected, atol=kind.tolerance)


@pytest.mark.parametrize("fixed_reference", [None, 1])
def test_sent_pictures_and_own_frames_run_together(make_avatar: MakeAvatar, kind: Kind, fixed_reference: int | None) -> None:
    avatar = make_avatar(reference_frame=fixed_reference)
    engine, sound = kind.open(avatar), windows(4)
    sent = np.random.default_rng(1).uniform(0, 1, (2, 6, 320, 320)).astype(np.float32)
    own = np.stack([network_input(avatar, frame, reference=fixed_reference) for frame in (3, 0)])
    expected = reference(np.concatenate([own, sent]), sound)
    together, _ = run(engine, [3, 0], sound, sent)
    np.testing.assert_allclose(together, expected, atol=kind.tolerance)
    alone, _ = run(engine, [], sound[2:], sent)
    np.testing.assert_array_equal(alone, together[2:])


def test_a_batch_in_int8_gives_the_bytes_of_single_frames(make_avatar: MakeAvatar, kind: Kind) -> None:
    sound, frames = windows(5), [4, 3, 2, 1, 0]
    variant = make_variant(make_avatar(model=hearing_network([0.05])), "int8", frames, sound)
    engine = kind.open(make_avatar(model=variant, replace=True))
    together, _ = run(engine, frames, sound)
    for place, frame in enumerate(frames):
        np.testing.assert_array_equal(run(engine, [frame], sound[place : place + 1])[0][0], together[place])


@pytest.mark.parametrize("filled", [False, True], ids=["some crops", "all crops"])
@pytest.mark.parametrize("fixed_reference", [None, 2])
def test_a_batch_gives_the_bytes_of_single_frames(
    make_avatar: MakeAvatar, kind: Kind, fixed_reference: int | None, *, filled: bool
) -> None:
    engine, sound, frames = kind.open(make_avatar(reference_frame=fixed_reference)), windows(5), [4, 3, 2, 1, 0]
    if filled:
        engine.bank.fill()
    together, _ = run(engine, frames, sound)
    for place, frame in enumerate(frames):
        np.testing.assert_array_equal(run(engine, [frame], sound[place : place + 1])[0][0], together[place])


def test_values_beyond_black_and_white_are_clamped(make_avatar: MakeAvatar, kind: Kind) -> None:
    sound = windows(4) - 2
    sound[3] = 100
    mouths, output = run(kind.open(make_avatar(model=linear_network())), [0, 1, 2, 3], sound)  # checks the pixels
    assert (mouths < 0).any()
    assert (mouths[:3] > 0).any()
    assert (mouths[3] > 1).all()
    assert output.finite.all()


def test_several_threads_may_run_it(make_avatar: MakeAvatar, kind: Kind) -> None:
    engine = kind.open(make_avatar())
    engine.bank.fill()
    alone = [run(engine, [frame], windows(1, seed=frame))[0] for frame in range(5)]
    made: dict[int, NDArray[np.float32]] = {}
    threads = [
        threading.Thread(target=lambda frame=frame: made.update({frame: run(engine, [frame], windows(1, seed=frame))[0]}))
        for frame in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for frame in range(5):
        np.testing.assert_array_equal(made[frame], alone[frame])


def test_a_frame_that_is_not_finite_is_told_from_the_others(make_avatar: MakeAvatar, kind: Kind) -> None:
    engine = kind.open(make_avatar())
    engine.bank.ensure([0, 1])
    sound = windows(2)
    sound[1, 3, 3:5] = np.inf, -np.inf
    frames = np.array([0, 1], np.int64)
    output = engine.run(EngineInput(sound, frames, NO_PICTURES, want_float=True, want_uint8=True))
    assert output.finite.tolist() == [True, False]
    alone = engine.run(EngineInput(sound[:1], frames[:1], NO_PICTURES, want_float=False, want_uint8=True))
    np.testing.assert_array_equal(output.mouths_uint8[:1], alone.mouths_uint8)


def test_it_says_who_and_where_it_is_and_how_much_it_takes(make_avatar: MakeAvatar, kind: Kind) -> None:
    avatar = make_avatar("her")
    engine = kind.open(avatar)
    assert engine.avatar_id == "her"
    assert engine.bank.device is engine.device
    assert engine.producer == onnx.load(avatar.network_path).producer_name
    assert engine.warm_up().seconds > 0
    assert engine.arithmetic
    assert 1 <= engine.short_room <= engine.room
    assert engine.run_frames >= 1


def test_a_run_that_fails_is_an_engine_error_and_the_next_one_runs(
    make_avatar: MakeAvatar, kind: Kind, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = kind.open(make_avatar(model=picky_network()))
    engine.warm_up()
    with pytest.raises(EngineError):
        run(engine, [0, 1], 100 * windows(2))
    assert np.isfinite(run(engine, [0, 1], windows(2))[0]).all()
    assert capfd.readouterr().err == "", "the error is an exception, and nothing else"


class HurriedClock(SystemClock):
    """Looks at runs more often."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds / 50)


async def test_a_run_that_takes_too_long_is_ended(make_avatar: MakeAvatar, kind: Kind) -> None:
    engine = kind.open(make_avatar(model=kind.lasting))
    engine.warm_up()
    threads = LimitedThreads(1, "test", on_lost=pytest.fail, clock=HurriedClock())
    with pytest.raises(Overrun, match=r"running network\.onnx has taken longer") as overrun:
        await threads.run(lambda: run(engine, [0], 100 * windows(1)), limit_s=0.01)
    assert isinstance(overrun.value.__cause__, EngineError)
    assert np.isfinite((await threads.run(lambda: run(engine, [0], windows(1))))[0]).all()
    await threads.close()


def broken_weights() -> onnx.ModelProto:
    model = network()
    model.graph.initializer[0].dims[1] = 5  # the convolution no longer fits its input
    return model


@pytest.mark.parametrize(
    "model",
    [network().SerializeToString()[:-100], b"no network", b"", foreign_model(), broken_weights()],
    ids=["truncated", "text", "empty", "foreign", "inconsistent"],
)
def test_a_network_that_cannot_be_opened_is_a_broken_avatar(
    make_avatar: MakeAvatar, kind: Kind, model: onnx.ModelProto | bytes
) -> None:
    with pytest.raises(BrokenAvatar) as raised:
        kind.open(make_avatar(model=model))
    assert "/" not in str(raised.value)


def unknown_operator() -> onnx.ModelProto:
    model = network()
    model.graph.node[0].op_type = "Nonsense" + 1000 * "!"
    return model


def test_the_runtimes_reason_is_passed_on_in_a_line(make_avatar: MakeAvatar, kind: Kind) -> None:
    with pytest.raises(BrokenAvatar) as raised:
        kind.open(make_avatar(model=unknown_operator()))
    text = str(raised.value)
    assert text.startswith("network.onnx: ")
    assert "Nonsense!!!" in text
    assert len(text) <= 500
    assert "src/" not in text
    assert "\n" not in text


@pytest.mark.parametrize("model", [picky_network(least=0), endless_network()], ids=["fails", "not finite"])
def test_a_network_that_cannot_run_is_found_by_the_warm_up(make_avatar: MakeAvatar, kind: Kind, model: onnx.ModelProto) -> None:
    with pytest.raises(BrokenAvatar):
        kind.open(make_avatar(model=model)).warm_up()


def test_a_reference_that_cannot_be_read_is_found_by_the_warm_up(make_avatar: MakeAvatar, kind: Kind) -> None:
    avatar = make_avatar(reference_frame=3)
    avatar.frame_paths[3].write_bytes(avatar.frame_paths[3].read_bytes()[:-400])
    with pytest.raises(BrokenAvatar, match=r"frame_000003\.jpg"):
        kind.open(avatar).warm_up()
