"""The demo avatar, built once, and a plain rendition of the frame path that judges it: librosa, numpy, OpenCV."""

from __future__ import annotations

import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import librosa
import numpy as np
import onnxruntime as ort
import pytest

from avatar_kit.avatar import Avatar
from avatar_tools.demo import SPEECH_PATH, build_demo

BOX = (slice(112, 234), slice(84, 236))  # of the 320 picture: the mouth, however wide it opens, and no hair


def mel_of(sound: np.ndarray) -> np.ndarray:
    basis = librosa.filters.mel(sr=16000, n_fft=800, n_mels=80, fmin=55, fmax=7600)
    emphasised = np.append(sound[0], sound[1:] - 0.97 * sound[:-1])
    magnitude = np.abs(librosa.stft(emphasised, n_fft=800, hop_length=200, pad_mode="constant"))
    return np.clip(8 * (20 * np.log10(np.maximum(1e-5, basis @ magnitude)) - 20 + 100) / 100 - 4, -4, 4).astype(np.float32)


@dataclass
class Renderer:
    avatar: Avatar
    network: ort.InferenceSession
    encoder: ort.InferenceSession

    def rows(self, windows: np.ndarray) -> np.ndarray:
        return self.encoder.run(None, {"mel": windows})[0]

    def windows(self, sound: np.ndarray) -> np.ndarray:
        """[frames, 16, 512]; the sound lies in silence. Row j starts at column floor(16 j / 5), of 200 samples each."""
        frames, lead = len(sound) // 640, 32  # columns of silence put before it: more than row -9 needs
        mel = mel_of(np.concatenate([np.zeros(lead * 200), sound, np.zeros(16000)]))
        starts = [16 * row // 5 + lead for row in range(-9, frames + 6)]
        rows = self.rows(np.stack([mel[None, :, start : start + 16] for start in starts]))
        return np.stack([rows[k : k + 16] for k in range(frames)])

    def crop(self, index: int) -> np.ndarray:
        rect = self.avatar.rects[index]
        picture = self.avatar.read_frame(index)[rect.y1 : rect.y2, rect.x1 : rect.x2]
        return cv2.resize(picture, (328, 328), interpolation=cv2.INTER_CUBIC)

    def mouth(self, crop: np.ndarray, window: np.ndarray) -> np.ndarray:
        """[320, 320, 3] uint8 from a 328 crop and [16, 512]."""
        return self.mouths(crop, window[None])[0]

    def mouths(self, crop: np.ndarray, windows: np.ndarray) -> np.ndarray:
        picture = crop[4:324, 4:324].astype(np.float32).transpose(2, 0, 1) / 255
        masked = picture.copy()
        masked[:, 5:310, 5:315] = 0
        visual = np.concatenate([picture, masked])[None].repeat(len(windows), 0)
        out = self.network.run(None, {"visual": visual, "audio": windows.reshape(-1, 32, 16, 16)})[0]
        return (out * 255).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)

    def composed(self, index: int, window: np.ndarray) -> np.ndarray:
        rect, crop = self.avatar.rects[index], self.crop(index)
        crop[4:324, 4:324] = self.mouth(crop, window)
        picture = self.avatar.read_frame(index).copy()
        size = (rect.width, rect.height)
        picture[rect.y1 : rect.y2, rect.x1 : rect.x2] = cv2.resize(crop, size, interpolation=cv2.INTER_CUBIC)
        return picture


def opening(mouth: np.ndarray) -> int:
    """Pixels between the lips: darker than any lip, or as white as only teeth are."""
    part = mouth[BOX].astype(int)
    dark = part.max(-1) < 105
    teeth = (part.min(-1) > 140) & (part.max(-1) - part.min(-1) < 42)
    return int((dark | teeth).sum())


def lip_width(mouth: np.ndarray) -> int:
    """Columns between the corners: lips are redder than skin."""
    part = mouth[BOX].astype(int)
    columns = np.flatnonzero((part[..., 2] - part[..., 1] > 75).sum(0) >= 2)
    return int(columns[-1] - columns[0])


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def demo(demo_root: Path) -> Avatar:
    return build_demo(demo_root)


@pytest.fixture(scope="session")
def renderer(demo: Avatar) -> Renderer:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    network, encoder = (
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for path in (demo.network_path, demo.audio_encoder_path)
    )
    return Renderer(demo, network, encoder)


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    with wave.open(str(SPEECH_PATH)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16) / 32768


@pytest.fixture(scope="session")
def spoken_openings(renderer: Renderer, speech: np.ndarray) -> np.ndarray:
    """Opening of the mouth at each frame of the shipped speech."""
    windows, crop = renderer.windows(speech), renderer.crop(0)
    return np.concatenate([[opening(m) for m in renderer.mouths(crop, windows[i : i + 25])] for i in range(0, len(windows), 25)])


@pytest.fixture(scope="session")
def posed(renderer: Renderer) -> Callable[..., np.ndarray]:
    """The mouth for movements given by name, on frame 0."""
    names = ("opened", "spread", "rounded", "pressed", "bitten", "clenched", "tongue")
    crop = renderer.crop(0)

    def draw(**movements: float) -> np.ndarray:
        window = np.zeros((16, 512), np.float32)
        for name, amount in movements.items():
            window[:, names.index(name)] = amount
        return renderer.mouth(crop, window)

    return draw
