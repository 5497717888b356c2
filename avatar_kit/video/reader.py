"""One decoder that brings single frames out of a video: it goes on from where it is, or enters at the keyframe before."""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import av

from avatar_kit.safe_files import FileProblem
from avatar_kit.video.cursor import VideoCursor
from avatar_kit.video.index import VideoIndex


@dataclass(frozen=True, slots=True)
class _Damage:
    """Frames that cannot be decoded: `first` .. `stop` - 1."""

    first: int
    stop: int
    problem: str


class VideoReader:
    """For one thread at a time. In order, each frame costs one decoding."""

    def __init__(self, path: Path, index: VideoIndex, *, recent_bytes: int = 0) -> None:
        """Opens nothing yet. `recent_bytes`: for frames decoded last, so that going back a little costs nothing."""
        self._path, self._index = path, index
        self._starts = list(index.starts)
        self._damages: list[_Damage] = []
        self._cursor: VideoCursor | None = None
        self._recent: OrderedDict[int, av.VideoFrame] = OrderedDict()
        self._recent_bytes = recent_bytes

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file and of what was decoded; reading opens it anew."""
        self._recent.clear()
        self._leave()

    def frame(self, number: int) -> av.VideoFrame:
        """Decodes frame `number`. Raises FileProblem, never another frame."""
        if number in self._recent:
            return self._recent[number]
        for damage in self._damages:
            if damage.first <= number < damage.stop:
                raise FileProblem(damage.problem)
        own = bisect.bisect_right(self._starts, number, key=lambda start: start.frame) - 1
        first = self._starts[own].frame
        if self._cursor and not first <= self._cursor.next <= number:
            self._leave()
        try:
            return self._go_on_to(number, own)
        except FileProblem:
            failed_at = max(first, self._cursor.next) if self._cursor else first
        for earlier in _farther_back(own):
            self._leave()
            with suppress(FileProblem):
                frame = self._go_on_to(number, earlier)
                del self._starts[earlier + 1 : own + 1]  # marked as keyframes, and none after all
                return frame
        self._leave()
        raise self._damaged(failed_at, own)

    def _go_on_to(self, number: int, start: int) -> av.VideoFrame:
        """Decodes up to that frame, from the start of that number where no decoder is on its way."""
        if self._cursor is None:
            self._cursor = VideoCursor(self._path, self._index, self._starts[start])
        while True:
            frame = self._cursor.advance()
            self._remember(self._cursor.next - 1, frame)
            if self._cursor.next > number:
                break
        if self._cursor.next == self._index.count:
            self._leave()
        return frame

    def _remember(self, number: int, frame: av.VideoFrame) -> None:
        self._recent[number] = frame
        most = self._recent_bytes // sum(plane.buffer_size for plane in frame.planes)
        while len(self._recent) > max(1, most):
            self._recent.popitem(last=False)

    def _leave(self) -> None:
        if self._cursor:
            self._cursor.close()
            self._cursor = None

    def _damaged(self, failed_at: int, own: int) -> FileProblem:
        """Notes the frames from the one that failed to the next start, so that they are not tried again and again."""
        stop = self._starts[own + 1].frame if own + 1 < len(self._starts) else self._index.count
        which = f"frame {failed_at}" if stop - failed_at == 1 else f"frames {failed_at} to {stop - 1}"
        problem = f"is damaged or truncated: {which} can not be decoded"
        self._damages.append(_Damage(failed_at, stop, problem))
        return FileProblem(problem)


def _farther_back(start: int) -> Iterator[int]:
    """Numbers of earlier starts, each step back twice the one before: in all not more than twice the way to the first."""
    back = 1
    while back < 2 * start:
        yield max(0, start - back)
        back = 2 * back + 1
