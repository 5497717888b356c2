"""Lets a Pipecat bot speak through an avatar, where only what was installed from wheels is there: adapters_caller.py SERVER."""

import asyncio
import json
import sys

import google.protobuf
import numpy as np
from livekit.agents import Plugin
from livekit.plugins import lipsync
from pipecat.frames.frames import OutputImageRawFrame, TTSAudioRawFrame, TTSStoppedFrame
from pipecat.pipeline.worker import PipelineParams
from pipecat.tests.utils import run_test

from pipecat_lipsync import LipsyncVideoService


async def main(server):
    sound = (np.sin(np.arange(16_000) / 9) * 9000).astype(np.int16).tobytes()
    service = LipsyncVideoService(settings=LipsyncVideoService.Settings(model="demo"), server=server, cushion=0)
    down, _ = await run_test(
        service,
        frames_to_send=[TTSAudioRawFrame(sound, 16_000, 1), TTSStoppedFrame()],
        pipeline_params=PipelineParams(audio_out_sample_rate=16_000),
        start_timeout=60,
    )
    return {
        "protobuf": google.protobuf.__version__,
        "spoken": b"".join(frame.audio for frame in down if isinstance(frame, TTSAudioRawFrame)) == sound,
        "pictures": sum(isinstance(frame, OutputImageRawFrame) for frame in down),
        "plug-ins": [plugin.package for plugin in Plugin.registered_plugins],
        "avatar": lipsync.AvatarSession(avatar="demo").avatar_identity,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1]))))
