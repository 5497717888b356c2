"""Keeps what the inference service says of overload, which it tells with its mouths."""

from __future__ import annotations

from typing import TypeAlias

from service_kit.clock import Clock
from shared_proto import compositing_pb2 as pb
from shared_proto import inference_pb2

# What a replica said counts for so long; while sessions speak it says it many times a second.
_COUNTS_S = 2.0

Level: TypeAlias = pb.Overload.ValueType
_LEVELS: dict[inference_pb2.Overload.ValueType, Level] = {
    inference_pb2.OVERLOAD_NONE: pb.OVERLOAD_NONE,
    inference_pb2.OVERLOAD_LARGER_GROUPS: pb.OVERLOAD_LARGER_GROUPS,
    inference_pb2.OVERLOAD_HALF_RATE: pb.OVERLOAD_HALF_RATE,
    inference_pb2.OVERLOAD_REFUSING: pb.OVERLOAD_REFUSING,
}


class Overload:
    """The level of one process: the highest that any replica has told lately."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told_s: dict[Level, float] = {}

    @property
    def level(self) -> Level:
        """Level to which live sessions are degraded now."""
        if not self._told_s:
            return pb.OVERLOAD_NONE
        since_s = self._clock.now() - _COUNTS_S
        self._told_s = {level: told_s for level, told_s in self._told_s.items() if told_s > since_s}
        return max(self._told_s, default=pb.OVERLOAD_NONE)

    def note(self, level: inference_pb2.Overload.ValueType) -> None:
        """Takes what came with mouths. A level that a later service may have counts as the highest."""
        if level != inference_pb2.OVERLOAD_NONE:
            self._told_s[_LEVELS.get(level, pb.OVERLOAD_REFUSING)] = self._clock.now()
