"""Makes of the benchmark avatar one whose pictures are in a video, as a camera or an editor exports it."""

from __future__ import annotations

import av

from avatar_kit.avatar import Avatar
from avatar_kit.writer import AvatarWriter

_OPTIONS = {"preset": "veryfast", "crf": "18"}  # keyframes at most 250 frames apart, B-frames between


def film(avatar: Avatar, avatar_id: str) -> Avatar:
    """Builds a copy of the avatar beside it, with its pictures in an H.264 video. Takes some seconds."""
    models_root = avatar.root.parent
    video = models_root / f"{avatar_id}.mp4"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=_OPTIONS)
        stream.width, stream.height, stream.pix_fmt = avatar.width, avatar.height, "yuv420p"
        for index in range(avatar.frame_count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(avatar.read_frame(index), format="bgr24")))
        container.mux(stream.encode(None))
    with AvatarWriter(avatar.root.parent, avatar_id, width=avatar.width, height=avatar.height) as writer:
        writer.set_video(video, avatar.rects)
        writer.set_network(avatar.network_path)
        if avatar.audio_encoder_path:
            writer.set_audio_encoder(avatar.audio_encoder_path)
        filmed = writer.finish()
    video.unlink()
    return filmed
