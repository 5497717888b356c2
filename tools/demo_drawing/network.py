"""The demo's lip-sync network: it has the inputs and output of the trained ones, but draws by rule.

It reads the mouth's movements from the feature rows around the frame, finds the offset of the face in the crop from its usual
place (rectangles are whole pixels and the head tilts), wipes the resting mouth off, lowers the jaw and paints the mouth.
Everything else stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from avatar_tools.networks.graph import BATCH
from tools.demo_drawing.expressions import ExpressionGraph, Value
from tools.demo_drawing.mouths import POSE_SIZE, Pose, paint_mouth

Box = tuple[slice, slice]  # rows, columns of the 320 picture

MOUTH_CENTRE = (159.5, 148.57)  # x, y of the resting mouth in the 320 picture when the head is straight
SKIN_BOX: Box = (
    slice(104, 212),
    slice(48, 272),
)  # all that the resting mouth and its shadows touch, and the way back to bare skin
TRACKED_BOX: Box = (slice(116, 188), slice(84, 236))  # shows the face's place
TRACKED_POOL = 4

_STAGE: Box = (slice(104, 316), slice(32, 288))  # all that ever changes
_PAINTED: Box = (slice(104, 244), slice(64, 256))
_JAW_DROP = 13.0  # pixels of the 320 picture at the chin, wide open

# Rows k-9 .. k+6 come in. Row j is heard at the middle of its window, 40 j + 89 ms, frame k is seen at 40 k + 20 ms: the sound of
# the frame lies between rows k-2 and k-1, entries 7 and 8.
_ROW_WEIGHTS = {6: 0.2, 7: 0.5, 8: 0.3}

_SILENT = 0.05  # smaller movements are the encoder's noise, not speech

# Added to every value: truncation to whole grey levels then takes none away, and rounding adds none.
_HALF_WAY_DOWN = 0.25 / 255


@dataclass(frozen=True, slots=True)
class Face:
    """The face that the network works on."""

    skin: NDArray[np.uint8]
    """[rows, columns, 3] of SKIN_BOX, BGR: the straight head without a mouth."""
    tracker: NDArray[np.float32]
    """[pooled pixels, 3] from the green of TRACKED_BOX to the mouth's x and y offset and its tilt in radians."""
    tracker_offset: NDArray[np.float32]
    """[3], added to that."""


def build_network(face: Face) -> onnx.ModelProto:
    """[N,6,320,320] and [N,32,16,16] in, [N,3,320,320] out, any N."""
    graph = ExpressionGraph()
    visual = graph.input("visual", [BATCH, 6, 320, 320])
    audio = graph.input("audio", [BATCH, 32, 16, 16])
    picture = visual.part(1, 0, 3)
    pose = _pose(audio)
    x, y = _mouth_grid(graph, _place(picture, face))
    before = _cut(picture, _STAGE)
    after = _lower_jaw(_wipe_mouth(before, face), pose)
    after = _paint(after, x, y, pose)
    margins = [_STAGE[0].start, _STAGE[1].start, 320 - _STAGE[0].stop, 320 - _STAGE[1].stop]
    top, left, bottom, right = margins
    change = graph.node("Pad", after - before, np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
    mouth = (picture + change + _HALF_WAY_DOWN).clip()
    return graph.model("demo_network", {"mouth": (mouth, [BATCH, 3, 320, 320])})


def _cut(picture: Value, box: Box) -> Value:
    rows, columns = box
    return picture.part(2, rows.start, rows.stop).part(3, columns.start, columns.stop)


def _pose(audio: Value) -> Pose:
    """The movements in the first numbers of each row, smoothed over the rows around the frame, and made consistent."""
    weights = np.zeros((1, 16), np.float32)
    for entry, weight in _ROW_WEIGHTS.items():
        weights[0, entry] = weight
    rows = audio.reshape(0, 16, 512).part(2, 0, POSE_SIZE)
    heard = (audio.graph.node("MatMul", weights, rows).reshape(0, POSE_SIZE, 1, 1) - _SILENT).at_least(0.0)
    opened, spread, rounded, pressed, bitten, clenched, tongue = (heard.part(1, i, i + 1) for i in range(POSE_SIZE))
    pressed = ((pressed - 0.17) * 2.3).clip()
    bitten = ((bitten - 0.17) * 2.0).clip() * (1 - pressed)
    free = (1 - pressed) * (1 - 0.85 * bitten)
    return Pose(
        opened=(opened * 1.35).clip() * free,
        spread=(spread * 1.1).clip() * (1 - rounded.clip()),
        rounded=(rounded * 1.2).clip() * (1 - 0.7 * pressed),
        pressed=pressed,
        bitten=bitten,
        clenched=clenched.clip() * free,
        tongue=(tongue * 1.3).clip() * free,
    )


def _place(picture: Value, face: Face) -> Value:
    """[N,3]: the mouth's offset from MOUTH_CENTRE, x and y, and its tilt."""
    green = _cut(picture.part(1, 1, 2), TRACKED_BOX)
    pool = [TRACKED_POOL, TRACKED_POOL]
    pooled = picture.graph.node("AveragePool", green, kernel_shape=pool, strides=pool)
    place = pooled.reshape(0, len(face.tracker)).matmul(face.tracker) + face.tracker_offset
    limit = np.array([2.5, 2.5, 0.04], np.float32)
    return place.at_least(-limit).at_most(limit)


def _mouth_grid(graph: ExpressionGraph, place: Value) -> tuple[Value, Value]:
    """[N,1,h,w] each: the distances of the pixels of _PAINTED from the mouth's centre, along its tilt."""
    rows, columns = _PAINTED
    x = np.arange(columns.start, columns.stop, dtype=np.float32).reshape(1, 1, 1, -1) - np.float32(MOUTH_CENTRE[0])
    y = np.arange(rows.start, rows.stop, dtype=np.float32).reshape(1, 1, -1, 1) - np.float32(MOUTH_CENTRE[1])
    aside, down, tilt = (place.part(1, i, i + 1).reshape(0, 1, 1, 1) for i in range(3))
    from_x, from_y = graph.constant(x) - aside, graph.constant(y) - down
    return from_x + tilt * from_y, from_y - tilt * from_x


def _wipe_mouth(stage: Value, face: Face) -> Value:
    """Replaces the resting mouth by bare skin, fading into the picture's own."""
    graph = stage.graph
    rows, columns = SKIN_BOX
    top, left = rows.start - _STAGE[0].start, columns.start - _STAGE[1].start
    bottom, right = _STAGE[0].stop - rows.stop, _STAGE[1].stop - columns.stop
    pads = ((0, 0), (0, 0), (top, bottom), (left, right))
    skin = np.pad(face.skin.transpose(2, 0, 1)[None], pads)
    share = np.pad(np.round(255 * skin_share())[None, None].astype(np.uint8), pads)
    bare = graph.node("Cast", skin, to=onnx.TensorProto.FLOAT) / 255.0
    return stage + (bare - stage) * (graph.node("Cast", share, to=onnx.TensorProto.FLOAT) / 255.0)


def skin_share() -> NDArray[np.float64]:
    """[rows, columns] of SKIN_BOX: 1 where the resting mouth is wiped off, falling to 0 at the box's edges."""
    rows, columns = SKIN_BOX
    x = np.abs(np.arange(columns.start, columns.stop) - MOUTH_CENTRE[0])
    y = np.arange(rows.start, rows.stop) - MOUTH_CENTRE[1]
    across = _smooth((110 - x) / 24)
    along = _smooth((y + 44) / 16) * _smooth((62 - y) / 16)
    return np.asarray(along[:, None] * across[None, :])


def _smooth(t: NDArray[np.floating]) -> NDArray[np.floating]:
    t = np.clip(t, 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _lower_jaw(stage: Value, pose: Pose) -> Value:
    """Moves everything below the mouth down with the jaw, most at the chin, not at all at the edges of the stage."""
    graph = stage.graph
    rows, columns = _STAGE
    row = np.arange(rows.start, rows.stop, dtype=np.float64)
    column = np.abs(np.arange(columns.start, columns.stop) - MOUTH_CENTRE[0])
    along = _smooth((row - 150) / 72) * _smooth((rows.stop - 2 - row) / 56)
    across = _smooth((122 - column) / 86)
    shift = pose.opened * (_JAW_DROP * along.reshape(1, 1, -1, 1)) * across.reshape(1, 1, 1, -1)
    index = np.arange(rows.stop - rows.start, dtype=np.float32).reshape(1, 1, -1, 1)
    source = (graph.constant(index) - shift).at_least(0.0)
    above = graph.node("Floor", source)
    upper = _rows_at(stage, above)
    lower = _rows_at(stage, (above + 1.0).at_most(float(index.max())))
    return upper + (lower - upper) * (source - above)


def _rows_at(stage: Value, rows: Value) -> Value:
    """For each pixel the one of its column in the row that [N,1,h,w] names."""
    graph = stage.graph
    indices = graph.node("Cast", rows, to=onnx.TensorProto.INT64)
    return graph.node("GatherElements", stage, graph.node("Expand", indices, graph.node("Shape", stage)), axis=2)


def _paint(stage: Value, x: Value, y: Value, pose: Pose) -> Value:
    """Paints the mouth over its part of the stage."""
    first, last = _PAINTED[1].start - _STAGE[1].start, _PAINTED[1].stop - _STAGE[1].start
    height, width = _PAINTED[0].stop - _STAGE[0].start, _STAGE[1].stop - _STAGE[1].start
    upper = stage.part(2, 0, height)
    painted = paint_mouth(upper.part(3, first, last), x, y, pose)
    joined = stage.graph.join([upper.part(3, 0, first), painted, upper.part(3, last, width)], axis=3)
    return stage.graph.join([joined, stage.part(2, height, _STAGE[0].stop - _STAGE[0].start)], axis=2)
