"""Checks the fields that requests for frames have in both services.

A check calls `note` with the name of the field and a sentence for each problem that it finds, and computes nothing more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from google.protobuf.descriptor import EnumDescriptor
from numpy.typing import NDArray

from shared_proto.inference_pb2 import EDGES_REFERENCE, AudioEncoding
from shared_proto.pcm import DTYPES
from shared_proto.timing import CONTEXT_ROWS, MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ, REFERENCE_MIN_SAMPLES, SAMPLE_RATE_HZ

# Of features and pictures that a caller sends. Encoders give rows of less than 100, and float16 ends at 65,504.
LARGEST_VALUE = 10_000

Note: TypeAlias = Callable[[str, str], None]


def check_enum(field: str, value: int, enum: EnumDescriptor, note: Note) -> None:
    """Checks for a known value."""
    if value not in enum.values_by_number:
        note(field, f"{value} is unknown; send {' or '.join(enum.values_by_name)}")


def check_sound_format(encoding: int, sample_rate: int, note: Note) -> None:
    """Checks `audio_encoding` and `sample_rate`, in Hz; a rate of 0 means 16000."""
    check_enum("audio_encoding", encoding, AudioEncoding.DESCRIPTOR, note)
    if sample_rate and not MIN_SAMPLE_RATE_HZ <= sample_rate <= MAX_SAMPLE_RATE_HZ:
        allowed = f"send {MIN_SAMPLE_RATE_HZ} to {MAX_SAMPLE_RATE_HZ}, or 0 for {SAMPLE_RATE_HZ}"
        note("sample_rate", f"{sample_rate} Hz is not supported: {allowed}")


def read_samples(data: bytes, encoding: int, sample_rate: int, max_seconds: float, note: Note) -> NDArray[Any] | None:
    """Reads `raw_audio`, little endian. Returns its samples, a view of `data`; None on a problem, also of the format."""
    dtype = DTYPES.get(encoding)
    if dtype is None:
        return None
    rate = sample_rate or SAMPLE_RATE_HZ
    rate_fits = MIN_SAMPLE_RATE_HZ <= rate <= MAX_SAMPLE_RATE_HZ
    count, rest = divmod(len(data), dtype.itemsize)
    if not data:
        note("raw_audio", "no sound: 0 bytes")
    elif rest:
        note("raw_audio", f"{len(data)} bytes are no whole number of {dtype.name} samples: send a multiple of {dtype.itemsize}")
    elif rate_fits and count > max_seconds * rate:
        length = f"{count / rate:.3f} s of sound ({count} samples at {rate} Hz)"
        note("raw_audio", f"{length} is too long: send at most {max_seconds:g} s")
    elif _is_finite("raw_audio", "sample", samples := np.frombuffer(data, dtype), note) and rate_fits:
        return samples
    return None


def check_edges(edges: int, samples: int, sample_rate: int, start_frame: int, note: Note) -> None:
    """Checks that EDGES_REFERENCE has a clip from its start, of at least 350 ms. `samples` are at `sample_rate` Hz."""
    if edges != EDGES_REFERENCE:
        return
    if (heard := samples * SAMPLE_RATE_HZ // sample_rate) < REFERENCE_MIN_SAMPLES:
        note(
            "raw_audio",
            f"{heard} samples at 16 kHz are too few for the reference's edges: send {REFERENCE_MIN_SAMPLES} (350 ms) "
            "or more, or leave audio_edges at EDGES_SILENCE",
        )
    if start_frame:
        note(
            "audio_start_frame",
            f"{start_frame}, but the reference's edges are those of the whole clip: send it from its start, with 0 here",
        )


def one_or_each(batch_size: int) -> dict[int, str]:
    """Returns the allowed numbers of windows or pictures, for `read_floats`; none for a batch size that is wrong itself."""
    return {1: "one for all frames", batch_size: "one for each frame"} if batch_size > 0 else {}


def rows_of(batch_size: int) -> dict[int, str]:
    """Returns the allowed number of feature rows, for `read_floats`; none for a batch size that is wrong itself."""
    return {batch_size + CONTEXT_ROWS: f"batch_size + {CONTEXT_ROWS} rows"} if batch_size > 0 else {}


def read_floats(
    field: str, data: bytes, shape: tuple[int, ...], counts: Mapping[int, str], note: Note
) -> NDArray[np.float32] | None:
    """Reads arrays of `shape`, float32 little endian: as many as a key of `counts`, or, when that is empty, any number.

    Returns [count, *shape], a view of `data`; None on a problem.
    """
    item = 4 * math.prod(shape)
    if counts and len(data) not in {count * item for count in counts}:
        sides = " x ".join(map(str, shape))
        expected = (f"{count * item} ({count} x {sides} float32 values: {words})" for count, words in counts.items())
        note(field, f"{len(data)} bytes, expected {' or '.join(expected)}")
    elif len(data) % item:
        note(field, f"{len(data)} bytes, not a multiple of {item}")
    elif problem := _not_moderate(values := np.frombuffer(data, "<f4")):
        note(field, problem)
    else:
        return values.astype(np.float32, copy=False).reshape(-1, *shape)
    return None


def _not_moderate(values: NDArray[Any]) -> str:
    """Names the first value that no network could be blamed for, if it made of it what is not finite; "" if there is none."""
    if not values.size or (np.minimum.reduce(values) >= -LARGEST_VALUE and np.maximum.reduce(values) <= LARGEST_VALUE):
        return ""  # a NaN is neither
    if problem := not_finite("value", values):
        return problem
    bad = np.flatnonzero(np.abs(values) > LARGEST_VALUE)
    return f"value {bad[0]} is {values[bad[0]]}, the first of {bad.size} beyond the {LARGEST_VALUE} allowed either way"


def _is_finite(field: str, kind: str, values: NDArray[Any], note: Note) -> bool:
    """Notes the first value, called by its `kind`, that is NaN or infinite, and how many there are."""
    if problem := not_finite(kind, values):
        note(field, problem)
    return not problem


def not_finite(kind: str, values: NDArray[Any]) -> str:
    """Names the first value, called by its `kind`, that is NaN or infinite, and how many there are; "" if all are finite."""
    # A sum is the quickest check; only huge finite values need the second one.
    with np.errstate(over="ignore", invalid="ignore"):
        if math.isfinite(np.add.reduce(values)):
            return ""
    bad = np.flatnonzero(~np.isfinite(values))
    return f"{kind} {bad[0]} is {values[bad[0]]}, the first of {bad.size} that are not finite numbers" if bad.size else ""
