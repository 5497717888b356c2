"""Publishes an avatar in a LiveKit room."""

from __future__ import annotations

from livekit import rtc
from livekit.agents.voice.avatar import AudioReceiver, AvatarOptions, AvatarRunner

from lipsync_adapters.livekit.generator import AvatarGenerator
from lipsync_client import FRAME_RATE, Started


class OneLayerRunner(AvatarRunner):
    """`AvatarRunner`, with one layer of H.264 at full size: its own defaults, several layers, halve the picture and its rate."""

    def __init__(
        self, room: rtc.Room, receiver: AudioReceiver, generator: AvatarGenerator, started: Started, *, rate: int, bitrate: int
    ) -> None:
        """`rate`: Hz, of the sound. `bitrate`: of the picture, bits a second at most."""
        options = AvatarOptions(
            video_width=started.width,
            video_height=started.height,
            video_fps=FRAME_RATE,
            audio_sample_rate=rate,
            audio_channels=1,
        )
        super().__init__(room, audio_recv=receiver, video_gen=generator, options=options)
        generator.lead_in = self.av_sync.push
        generator.queued_s = lambda: self._audio_source.queued_duration
        generator.speaks = self._note_speech
        self._bitrate = bitrate

    def _note_speech(self) -> None:
        """Sees to it that the end of an utterance is told that came while the one before it was heard."""
        if self._playback_position == 0.0:
            self._audio_playing = True

    async def _publish_track(self) -> None:
        async with self._lock:
            await self._room_connected_fut
            publish = self._room.local_participant.publish_track
            sound = rtc.LocalAudioTrack.create_audio_track("avatar_audio", self._audio_source)
            self._audio_publication = await publish(sound, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE))
            await self._audio_publication.wait_for_subscription()
            picture = rtc.LocalVideoTrack.create_video_track("avatar_video", self._video_source)
            options = rtc.TrackPublishOptions(
                source=rtc.TrackSource.SOURCE_CAMERA,
                simulcast=False,
                video_codec=rtc.VideoCodec.H264,
                video_encoding=rtc.VideoEncoding(max_bitrate=self._bitrate, max_framerate=FRAME_RATE),
            )
            self._video_publication = await publish(picture, options)
