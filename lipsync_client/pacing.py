"""The pace of a clip: how much it asks for at a time, more from a quick server, less from a slow one.

A clip begins with one small request. A prompt reply doubles the frames of a request and allows one more request under way; a
late one halves both; after a missed deadline the clip asks for one frame alone. So a quick server is kept busy, and a slow or
crowded one is asked for what it can make in time. At most one such step is taken a round trip: replies to requests that were
sent before the last step say nothing about it.
"""

from __future__ import annotations

from lipsync_client.cutting import FIRST_BATCH

# A reply within PROMPT_S is prompt, one after LATE_S is late; with short deadlines, these shares of the deadline count instead.
PROMPT_S, PROMPT_SHARE = 2.0, 0.1
LATE_S, LATE_SHARE = 5.0, 0.25
# A reply is planned to fill this share of the largest message, as the frames to come may be larger than those seen.
REPLY_SHARE = 0.9


class Pace:
    """The frames that a request asks for, and the requests that may be under way. It has no clock: callers pass seconds."""

    def __init__(self, *, batch_size: int, in_flight: int, timeout_s: float, max_reply_bytes: int) -> None:
        """`batch_size` and `in_flight` are never exceeded. Raises ValueError unless both are positive."""
        for name, value in (("batch_size", batch_size), ("in_flight", in_flight)):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        self.frames = min(FIRST_BATCH, batch_size)
        self.requests = 1
        self.step = 0
        """Counts the changes, so that a reply is judged by the pace at which its request was sent."""
        self._most_frames = batch_size
        self._most_requests = in_flight
        self._prompt_s = min(PROMPT_S, timeout_s * PROMPT_SHARE)
        self._late_s = min(LATE_S, timeout_s * LATE_SHARE)
        self._max_reply_bytes = max_reply_bytes

    def replied(self, *, step: int, seconds: float, largest_frame_bytes: int) -> None:
        """Records a reply to a request that was sent at `step`."""
        self.fit(int(self._max_reply_bytes * REPLY_SHARE) // max(1, largest_frame_bytes))
        if seconds < self._prompt_s:
            self._change(step, frames=self.frames * 2, requests=self.requests + 1)
        elif seconds > self._late_s:
            self._change(step, frames=self.frames // 2, requests=self.requests // 2)

    def refused(self, *, step: int) -> None:
        """Records a refusal by a server that has too much to do."""
        self._change(step, frames=self.frames, requests=self.requests // 2)

    def expired(self, *, step: int) -> None:
        """Records a deadline that passed without a reply."""
        self._change(step, frames=1, requests=1)

    def fit(self, frames: int) -> None:
        """Limits all further requests to `frames`, as a reply holds no more."""
        self._most_frames = max(1, min(self._most_frames, frames))
        self.frames = min(self.frames, self._most_frames)

    def _change(self, step: int, *, frames: int, requests: int) -> None:
        if step != self.step:
            return
        before = self.frames, self.requests
        self.frames = max(1, min(frames, self._most_frames))
        self.requests = max(1, min(requests, self._most_requests))
        if (self.frames, self.requests) != before:
            self.step += 1
