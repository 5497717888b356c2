"""One decoder on its way through a video: it enters at a keyframe and gives picture after picture from there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
from av.video.stream import VideoStream

from avatar_kit.pictures import MAX_PIXELS
from avatar_kit.safe_files import FileProblem
from avatar_kit.video.files import open_container
from avatar_kit.video.index import Start, VideoIndex


class VideoCursor:
    """For one thread at a time. Damage that the decoder notices is an error, never a picture with what was guessed."""

    def __init__(self, path: Path, index: VideoIndex, start: Start) -> None:
        """Opens the video. Raises FileProblem."""
        self._path, self._index, self._start = path, index, start
        self.next = start.frame
        """The number of the picture that comes next."""
        self._container, self._stream = self._open()
        self._pictures: Iterator[av.VideoFrame]
        try:
            self._pictures = self._decode(self._packets())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets go of the file and the decoder."""
        self._pictures = iter(())
        self._container.close()

    def advance(self) -> av.VideoFrame:
        """The picture of the number `next`. Raises FileProblem, after which there is no going on."""
        frame = next(self._pictures, None)
        if frame is None:
            raise FileProblem(f"ends before frame {self.next}")
        self.next += 1
        return frame

    def _open(self) -> tuple[av.container.InputContainer, VideoStream]:
        container, stream = open_container(self._path)
        # On one thread an error belongs to the packet that was given last.
        stream.codec_context.thread_count = 1
        # A size that changes on the way must not take any memory that it likes.
        stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
        return container, stream

    def _packets(self) -> Iterator[av.Packet[VideoStream]]:
        """The video's packets from the one of `start` on."""
        start = self._start
        if start.pts is None:
            return self._demuxed()
        stamp = start.pts if start.dts is None else min(start.pts, start.dts)
        try:
            self._container.seek(stamp, stream=self._stream)
            for packet in self._demuxed():
                if packet.pts == start.pts and packet.is_keyframe:
                    return self._continued(packet)
                if self._is_past(packet):
                    break
        except (av.error.FFmpegError, FileProblem):
            pass
        return self._from_the_beginning()

    def _from_the_beginning(self) -> Iterator[av.Packet[VideoStream]]:
        """For containers in which seeking leads elsewhere: reads all that comes before, undecoded."""
        self._container.close()
        self._container, self._stream = self._open()
        for packet in self._demuxed():
            if packet.pts == self._start.pts and packet.is_keyframe:
                return self._continued(packet)
        raise FileProblem(f"is not what it was: frame {self._start.frame} is missing")

    def _is_past(self, packet: av.Packet[VideoStream]) -> bool:
        """Whether a packet lies behind the one that is looked for: a later keyframe, or the end."""
        number = self._index.number(packet.pts)
        return not packet.size or (packet.is_keyframe and number is not None and number > self._start.frame)

    def _continued(self, packet: av.Packet[VideoStream]) -> Iterator[av.Packet[VideoStream]]:
        yield packet
        yield from self._demuxed()

    def _demuxed(self) -> Iterator[av.Packet[VideoStream]]:
        try:
            yield from self._container.demux(self._stream)
        except av.error.FFmpegError:
            raise self._damage() from None

    def _decode(self, packets: Iterator[av.Packet[VideoStream]]) -> Iterator[av.VideoFrame]:
        """The pictures from `start` on, none left out. Those before it lack what they were predicted from and are passed over."""
        entering = self._start.pts is not None
        for packet in packets:
            for frame in self._decoded(packet):
                number = self.next if self._index.stamps is None else self._index.number(frame.pts)
                if number is not None and number < self._start.frame:
                    continue
                if number != self.next or frame.is_corrupt or (entering and not frame.key_frame):
                    raise self._damage()
                entering = False
                yield frame

    def _decoded(self, packet: av.Packet[VideoStream]) -> list[av.VideoFrame]:
        start = self._start
        try:
            return packet.decode()
        except av.error.FFmpegError:
            if start.pts is not None and packet.pts is not None and packet.pts < start.pts:
                return []  # shown before where the decoder entered: nothing is lost
            raise self._damage() from None

    def _damage(self) -> FileProblem:
        return FileProblem(f"is damaged or truncated: frame {self.next} can not be decoded")
