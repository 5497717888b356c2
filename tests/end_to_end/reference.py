"""The whole way from sound to JPEG, once more, as plainly as it can be written: librosa, numpy, ONNX Runtime and OpenCV.

Of ours it takes the avatar's files and numbers alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import librosa
import numpy as np
import onnxruntime

from avatar_kit.avatar import Avatar

GRID = 3200  # samples: windows begin on the same columns again
SILENT_GRIDS = 4  # before the sound, and after it: more than a frame reads
ROWS_A_GRID = 5


def mel(sound: np.ndarray) -> np.ndarray:
    """[80, columns] of a sound at 16 kHz."""
    emphasised = np.append(sound[:1], sound[1:] - 0.97 * sound[:-1].astype(np.float64))
    bands = librosa.feature.melspectrogram(
        y=emphasised, sr=16_000, n_fft=800, hop_length=200, window="hann", center=True, pad_mode="constant", power=1.0,
        n_mels=80, fmin=55, fmax=7600, htk=False, norm="slaney",
    )  # fmt: skip
    decibels = 20 * np.log10(np.maximum(1e-5, bands)) - 20
    return np.clip(8 * (decibels + 100) / 100 - 4, -4, 4).astype(np.float32)


def mel_windows(sound: np.ndarray, first: int, count: int) -> np.ndarray:
    """[count, 1, 80, 16]: what each row of the sound in endless silence reads, row 0 where it begins."""
    silence = np.zeros(SILENT_GRIDS * GRID, np.float32)
    spectrum = mel(np.concatenate([silence, sound, silence]))
    starts = [16 * (j + SILENT_GRIDS * ROWS_A_GRID) // 5 for j in range(first, first + count)]
    return np.stack([spectrum[:, start : start + 16] for start in starts])[:, None]


def rows(avatar: Avatar, sound: np.ndarray, first: int, count: int) -> np.ndarray:
    """[count, 512]: rows of the sound in endless silence, row 0 where it begins."""
    assert avatar.audio_encoder_path
    session = _session(str(avatar.audio_encoder_path))
    [name] = [each.name for each in session.get_inputs()]
    return session.run(None, {name: mel_windows(sound, first, count)})[0]


def frame_windows(avatar: Avatar, sound: np.ndarray, frames: int) -> np.ndarray:
    """[frames, 8192]: what each frame hears, rows k-9 .. k+6."""
    line = rows(avatar, sound, -9, frames + 15)
    return np.stack([line[k : k + 16].reshape(-1) for k in range(frames)])


def picture_input(avatar: Avatar, index: int) -> np.ndarray:
    """[6, 320, 320] in 0..1: the reference, the frame's own unless the avatar fixes another, and the frame masked."""
    crop = crop_328(avatar, index if avatar.reference_frame is None else avatar.reference_frame)[4:324, 4:324]
    masked = crop_328(avatar, index)[4:324, 4:324].copy()
    mask = avatar.mask
    masked[mask.y : mask.y + mask.height, mask.x : mask.x + mask.width] = 0
    return np.concatenate([crop.transpose(2, 0, 1), masked.transpose(2, 0, 1)]).astype(np.float32) / np.float32(255)


def mouths(avatar: Avatar, indices: Sequence[int], windows: np.ndarray) -> np.ndarray:
    """[frames, 320, 320, 3] uint8, one run of the network a frame."""
    session = _session(str(avatar.network_path))
    by_size = {tuple(each.shape[1:]): each.name for each in session.get_inputs()}
    made = []
    for index, window in zip(indices, windows, strict=True):
        feeds = {
            by_size[6, 320, 320]: picture_input(avatar, index)[None],
            by_size[32, 16, 16]: np.ascontiguousarray(window, np.float32).reshape(1, 32, 16, 16),
        }
        [mouth] = session.run(None, feeds)[0]
        made.append(pixels(mouth))
    return np.stack(made)


def pixels(mouth: np.ndarray) -> np.ndarray:
    """float32 planes [3, 320, 320] to uint8 [320, 320, 3], truncated."""
    return np.clip(mouth.astype(np.float32) * np.float32(255), 0, 255).astype(np.uint8).transpose(1, 2, 0)


def pasted(avatar: Avatar, index: int, mouth: np.ndarray) -> np.ndarray:
    """The whole picture with the mouth in it: pastes "reference" and "direct"."""
    picture, box = read(avatar, index), avatar.rects[index]
    if avatar.paste == "reference":
        crop = crop_328(avatar, index)
        crop[4:324, 4:324] = mouth
        mouth = crop
    size = (box.x2 - box.x1, box.y2 - box.y1)
    picture[box.y1 : box.y2, box.x1 : box.x2] = cv2.resize(mouth, size, interpolation=cv2.INTER_CUBIC)
    return picture


def crop_328(avatar: Avatar, index: int) -> np.ndarray:
    """[328, 328, 3]."""
    box = avatar.rects[index]
    part = read(avatar, index)[box.y1 : box.y2, box.x1 : box.x2]
    return cv2.resize(part, (328, 328), interpolation=cv2.INTER_CUBIC)


def read(avatar: Avatar, index: int) -> np.ndarray:
    """The background."""
    return cv2.imread(str(avatar.frame_paths[index]), cv2.IMREAD_COLOR)


def encoded(picture: np.ndarray, *, quality: int, restart_interval: int) -> bytes:
    """The whole picture as JPEG; `restart_interval` in MCUs, 0 for none."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_RST_INTERVAL, restart_interval]
    return cv2.imencode(".jpg", picture, options)[1].tobytes()


def decoded(jpeg: bytes) -> np.ndarray:
    """[height, width, 3]."""
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def restart_interval_of(jpeg: bytes) -> int:
    """Restart interval in the DRI segment of a JPEG, in MCUs; 0 without one."""
    at = 2
    while jpeg[at + 1] != 0xDA:  # start of scan: headers end
        if jpeg[at + 1] == 0xDD:
            return int.from_bytes(jpeg[at + 4 : at + 6], "big")
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return 0


def _session(path: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
