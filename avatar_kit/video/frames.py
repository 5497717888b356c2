"""An avatar's frames read out of its video when they are wanted, without a word written to disk."""

from __future__ import annotations

import bisect
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import av

from avatar_kit.geometry import Picture
from avatar_kit.held import Held
from avatar_kit.manifest import FPS
from avatar_kit.safe_files import FileProblem, check_regular, sha256_of
from avatar_kit.video.cursor import VideoCursor
from avatar_kit.video.files import decoded, opened_video, picture_of
from avatar_kit.video.index import Start, VideoIndex, index_video, is_at_25

# Each has a decoder, which holds about ten pictures. As many callers may go through the video at places of their own.
_MOST_CURSORS = 4
# Decoded pictures kept for threads that go through the video side by side, each a few frames ahead of the other: when one has
# found another reading, so many reads long. Who reads alone needs none of them.
_RECENT_BYTES = 24_000_000
_MOST_RECENT = 16
_SIDE_BY_SIDE_READS = 64

EXTRACT = "import it without --keep-video, which extracts its frames"


@dataclass(frozen=True, slots=True)
class _Damage:
    """Pictures that can not be decoded: `first` .. `stop` - 1."""

    first: int
    stop: int
    problem: FileProblem


@dataclass(frozen=True, slots=True)
class _Look:
    """What a look through the file found, for as long as nobody writes to it."""

    modified: tuple[int, int]
    found: VideoIndex | FileProblem


class VideoFrames:
    """Thread-safe. The file is looked through and opened when the first frame is read; in order, each costs one decoding."""

    def __init__(self, held: Held, *, count: int, width: int, height: int, sha256: str | None = None) -> None:
        """`sha256`: of the whole file, in hexadecimal; any other content is refused. Nothing is read yet."""
        self.held, self.count, self.width, self.height = held, count, width, height
        self._sha256 = sha256
        self._lock = threading.Lock()
        self._look: _Look | None = None
        self._starts: list[Start] = []
        self._cursors: OrderedDict[int, VideoCursor] = OrderedDict()  # the one used last at the end
        self._recent: OrderedDict[int, av.VideoFrame] = OrderedDict()
        self._side_by_side = 0
        self._damages: list[_Damage] = []

    @property
    def place(self) -> Path:
        """The video."""
        return self.held.path

    @property
    def files(self) -> tuple[Path, ...]:
        """The video."""
        return (self.held.path,)

    def name(self, index: int) -> str:
        """As messages name what holds frame `index`."""
        return self.held.path.name

    def starts(self) -> tuple[int, ...]:
        """The frames at which decoding can begin, in order, 0 first. Looks through the file once. Raises FileProblem."""
        with self._lock:
            self._look_through()
            return tuple(start.frame for start in self._starts)

    def read(self, index: int) -> Picture:
        """Frame `index`, 0 .. count - 1: [height, width, 3]. Raises FileProblem."""
        with self._held():
            video = self._look_through()
            frame = self._recent.get(index) or self._reach(video, index)
        picture = picture_of(frame)
        if picture.shape != (self.height, self.width, 3):
            size = f"{picture.shape[1]}x{picture.shape[0]}"
            raise FileProblem(f"has frame {index} of {size}, the avatar is {self.width}x{self.height}")
        return picture

    def close(self) -> None:
        """Lets go of the file and of what was decoded; reading opens it anew."""
        with self._lock:
            self._let_go()

    @contextmanager
    def _held(self) -> Iterator[None]:
        alone = self._lock.acquire(blocking=False)
        if not alone:
            self._lock.acquire()
        try:
            self._side_by_side = max(0, self._side_by_side - 1) if alone else _SIDE_BY_SIDE_READS
            yield
        finally:
            self._lock.release()

    def __del__(self) -> None:
        self._let_go()

    def _let_go(self) -> None:
        for cursor in self._cursors.values():
            cursor.close()
        self._cursors.clear()
        self._recent.clear()

    def _look_through(self) -> VideoIndex:
        """Once, and again when the file is another than it was. Nothing that was known of it counts then."""
        modified = self.held.modified()
        if self._look is None or self._look.modified != modified:
            self._let_go()
            self._damages.clear()
            try:
                found: VideoIndex | FileProblem = self._index()
            except FileProblem as problem:
                found = problem
            self._look = _Look(modified, found)
        if isinstance(self._look.found, FileProblem):
            raise self._look.found
        return self._look.found

    def _index(self) -> VideoIndex:
        check_regular(self.held.now)
        if self._sha256 and sha256_of(self.held.now) != self._sha256:
            raise FileProblem("has changed: its SHA-256 is not the one in the manifest")
        index = checked_index(self.held.now)
        if index.count != self.count:
            raise FileProblem(f"has {index.count} frames, the avatar has {self.count}")
        self._starts = list(index.starts)
        return index

    def _reach(self, video: VideoIndex, index: int) -> av.VideoFrame:
        """Decodes up to `index`, from farther back when what is marked as a keyframe turns out to be none."""
        for damage in self._damages:
            if damage.first <= index < damage.stop:
                raise damage.problem
        own = bisect.bisect_right(self._starts, index, key=lambda start: start.frame) - 1
        cursor = self._cursor(video, self._starts[own], index)
        try:
            return self._run(cursor, index)
        except FileProblem:
            failed_at = cursor.next
        frame = self._from_farther_back(video, own, index)
        if frame is None:
            raise self._damaged(own, failed_at)
        return frame

    def _from_farther_back(self, video: VideoIndex, own: int, index: int) -> av.VideoFrame | None:
        """Enters at earlier and earlier starts, and strikes off those at which decoding can not begin after all."""
        back = 1
        for _ in range(own.bit_length()):  # each step back is twice the one before: in all not more than twice the way
            number = max(0, own - back)
            with suppress(FileProblem):
                frame = self._run(self._new_cursor(video, self._starts[number]), index)
                del self._starts[number + 1 : own + 1]
                return frame
            back = 2 * back + 1
        return None

    def _damaged(self, own: int, failed_at: int) -> FileProblem:
        """Notes the frames from the one that failed to the next start, so that they are not tried again and again."""
        first = max(failed_at, self._starts[own].frame)
        stop = self._starts[own + 1].frame if own + 1 < len(self._starts) else self.count
        which = f"frame {first}" if stop - first == 1 else f"frames {first} to {stop - 1}"
        problem = FileProblem(f"is damaged or truncated: {which} can not be decoded")
        self._damages.append(_Damage(first, stop, problem))
        return problem

    def _cursor(self, video: VideoIndex, start: Start, index: int) -> VideoCursor:
        """The one that is nearest before `index`, if none has to enter between."""
        near = [(cursor.next, key) for key, cursor in self._cursors.items() if start.frame <= cursor.next <= index]
        if not near:
            return self._new_cursor(video, start)
        key = max(near)[1]
        self._cursors.move_to_end(key)
        return self._cursors[key]

    def _new_cursor(self, video: VideoIndex, start: Start) -> VideoCursor:
        """In the place of the one that has longest not been used."""
        while len(self._cursors) >= _MOST_CURSORS:
            self._cursors.popitem(last=False)[1].close()
        cursor = VideoCursor(self.held.now, video, start)
        self._cursors[id(cursor)] = cursor
        return cursor

    def _run(self, cursor: VideoCursor, index: int) -> av.VideoFrame:
        """Decodes up to `index`. A cursor that fails, or has come to the end, is dropped."""
        try:
            while True:
                frame = cursor.advance()
                self._remember(cursor.next - 1, frame)
                if cursor.next > index:
                    break
        except FileProblem:
            self._drop(cursor)
            raise
        if cursor.next == self.count:
            self._drop(cursor)
        return frame

    def _remember(self, index: int, frame: av.VideoFrame) -> None:
        self._recent[index] = frame
        self._recent.move_to_end(index)
        nbytes = sum(plane.buffer_size for plane in frame.planes)
        most = min(_MOST_RECENT, _RECENT_BYTES // nbytes) if self._side_by_side else 1
        while len(self._recent) > max(1, most):
            self._recent.popitem(last=False)

    def _drop(self, cursor: VideoCursor) -> None:
        self._cursors.pop(id(cursor), None)
        cursor.close()


def open_frames(held: Held) -> VideoFrames:
    """All frames of a video of which nothing is known: looks through it and decodes the first. Raises FileProblem."""
    index = checked_index(held.now)
    with opened_video(held.now) as (container, stream):
        height, width, _ = picture_of(next(decoded(container, stream))).shape
    return VideoFrames(held, count=index.count, width=width, height=height)


def checked_index(path: Path) -> VideoIndex:
    """The index of a video that frames can be read out of. Raises FileProblem that says why they can not."""
    with opened_video(path) as (_, stream):
        codec = stream.codec_context.name
    index = index_video(path)
    if not index.random_access:
        raise FileProblem(f"is {codec}, of which no single frames can be read: {EXTRACT}")
    if not is_at_25(index):
        raise FileProblem(f"does not run at {FPS:g} frames a second throughout (it says {index.rate:.6g}): {EXTRACT}")
    return index


def header_problems(path: Path, width: int, height: int) -> list[str]:
    """What the video's header says against its being of that size, either way up. Cheap: nothing is decoded."""
    try:
        with opened_video(path) as (_, stream):
            size = stream.codec_context.width, stream.codec_context.height
    except FileProblem as problem:
        return problem.of(path.name)
    if sorted(size) != sorted((width, height)):
        return [f"{path.name} is {size[0]}x{size[1]}, the avatar is {width}x{height}"]
    return []
