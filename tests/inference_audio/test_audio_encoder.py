"""The encoder's promise that a row depends on its window alone, and what it says of broken networks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from avatar_kit.onnx_io import EncoderIO
from inference_service.audio.encoder import AudioEncoder
from inference_service.engines.encoder_runs import encoder_run
from service_kit.errors import FailedPrecondition

OpenSession = Callable[..., onnxruntime.InferenceSession]


@pytest.fixture(scope="module")
def windows() -> NDArray[np.float32]:
    """40 windows, some of them silent."""
    made = np.random.default_rng(8).uniform(-4, 4, (40, 80, 16)).astype(np.float32)
    made[[0, 7, 8, 39]] = -4
    return made


def encoder_of(session: onnxruntime.InferenceSession, batch: int | None = None) -> AudioEncoder:
    return AudioEncoder(encoder_run(session, EncoderIO("mel", "rows", batch), "encoder"), rows_per_run=batch)


@pytest.fixture(scope="module")
def one_by_one(full_size_session: OpenSession, windows: NDArray[np.float32]) -> NDArray[np.float32]:
    session = full_size_session()
    return np.concatenate([session.run(["rows"], {"mel": window[np.newaxis, np.newaxis]})[0] for window in windows])


@pytest.mark.parametrize("threads", [1, 2])
def test_onnx_runtime_gives_a_row_the_same_bytes_in_any_batch(
    threads: int, full_size_session: OpenSession, windows: NDArray[np.float32], one_by_one: NDArray[np.float32]
) -> None:
    session = full_size_session(threads=threads)
    assert one_by_one.std() > 0
    for first, count in [(0, 40), (1, 2), (3, 3), (5, 8), (11, 16), (20, 17)]:
        (rows,) = session.run(["rows"], {"mel": windows[first : first + count, np.newaxis]})
        assert rows.tobytes() == one_by_one[first : first + count].tobytes()


@pytest.mark.parametrize("batch", [None, 1, 6], ids=["dynamic", "batch of 1", "batch of 6"])
def test_rows_are_the_networks_own(
    batch: int | None, full_size_session: OpenSession, windows: NDArray[np.float32], one_by_one: NDArray[np.float32]
) -> None:
    encoder = encoder_of(full_size_session(batch=batch), batch)
    for first, count in [(0, 40), (0, 1), (1, 1), (6, 5)]:
        assert encoder.encode(windows[first : first + count]).rows.tobytes() == one_by_one[first : first + count].tobytes()


def test_threads_do_not_disturb_each_other(
    full_size_session: OpenSession, windows: NDArray[np.float32], one_by_one: NDArray[np.float32]
) -> None:
    encoder = encoder_of(full_size_session())
    spans = [(first, first + 1 + first % 7) for first in range(0, 32, 2)]
    with ThreadPoolExecutor(4) as pool:
        encoded = list(pool.map(lambda span: encoder.encode(windows[slice(*span)]).rows, spans))
    for rows, span in zip(encoded, spans, strict=True):
        assert rows.tobytes() == one_by_one[slice(*span)].tobytes()


def test_silence_is_encoded_once(windows: NDArray[np.float32]) -> None:
    runs: list[NDArray[np.float32]] = []

    def run(given: NDArray[np.float32]) -> NDArray[np.float32]:
        runs.append(given)
        return np.repeat(given.sum(axis=(1, 2, 3))[:, np.newaxis], 512, axis=1)

    encoder = AudioEncoder(run)
    assert [len(given) for given in runs] == [1]
    assert (encoder.encode(np.full((100, 80, 16), -4, np.float32)).rows == -4 * 1280).all()
    assert len(runs) == 1
    encoder.encode(windows)
    assert sum(len(given) for given in runs) == 1 + 36


@pytest.mark.parametrize(("rows_per_run", "sizes"), [(4, {4}), (1, {1}), (None, {1, 4, 16})])
def test_the_network_gets_only_the_batches_it_takes(
    rows_per_run: int | None, sizes: set[int], windows: NDArray[np.float32]
) -> None:
    seen = set()

    def run(given: NDArray[np.float32]) -> NDArray[np.float32]:
        assert given.shape[1:] == (1, 80, 16)
        assert given.flags.c_contiguous
        seen.add(len(given))
        return given.reshape(-1, 1280)[:, :512]

    encoder = AudioEncoder(run, rows_per_run=rows_per_run)
    rows = encoder.encode(windows).rows
    assert seen == sizes
    np.testing.assert_array_equal(rows, windows.reshape(-1, 1280)[:, :512])


def explode(_: NDArray[np.float32]) -> NDArray[np.float32]:
    raise RuntimeError("/internal/path")


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda given: np.full((len(given), 512), np.nan, np.float32), "not finite"),
        (lambda given: np.full((len(given), 512), np.inf, np.float32), "not finite"),
        (lambda given: np.zeros((len(given), 256), np.float32), r"\[1, 256\]"),
        (lambda given: np.zeros((2 * len(given), 512), np.float32), r"\[2, 512\]"),
        (explode, "cannot run"),
    ],
    ids=["NaN", "infinity", "wrong width", "wrong count", "error"],
)
def test_a_broken_network_is_found_when_it_is_loaded(
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]], words: str
) -> None:
    with pytest.raises(FailedPrecondition, match=words) as caught:
        AudioEncoder(run)
    assert "/internal" not in caught.value.message


def test_a_network_that_breaks_on_sound_only_is_found_then(windows: NDArray[np.float32]) -> None:
    def run(given: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.where((given == -4).all(), 0, np.full((len(given), 512), np.nan, np.float32)).astype(np.float32)

    with pytest.raises(FailedPrecondition, match="not finite"):
        AudioEncoder(run).encode(windows)
