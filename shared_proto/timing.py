"""The numbers of sound and time that are part of the wire, used by both services and the client."""

FRAME_RATE = 25  # frames a second

SAMPLE_RATE_HZ = 16_000  # of the sound that the services work on, and of a request's sound that names no rate
MIN_SAMPLE_RATE_HZ = 8_000
MAX_SAMPLE_RATE_HZ = 192_000
SAMPLES_A_FRAME = SAMPLE_RATE_HZ // FRAME_RATE
REFERENCE_MIN_SAMPLES = 5600  # the least for which EDGES_REFERENCE is defined, 350 ms

# There is a row of features for every frame; frame k is made from the window of the rows k-9 .. k+6.
ROW_SIZE = 512  # float32 values
ROW_BYTES = 4 * ROW_SIZE
WINDOW_ROWS = 16
WINDOW_BYTES = WINDOW_ROWS * ROW_BYTES
ROWS_BEFORE = 9
CONTEXT_ROWS = WINDOW_ROWS - 1  # rows that a batch needs beyond one a frame
# Sound that a frame waits for, in frames: with fewer than all 12 it reads its last row for those that it does without.
SHORTEST_LOOK_AHEAD, EXACT_LOOK_AHEAD = 6, 12


def rows_read(frames: int, look_ahead: int) -> int:
    """Counts the rows that successive frames read."""
    return frames + CONTEXT_ROWS - (EXACT_LOOK_AHEAD - look_ahead)
