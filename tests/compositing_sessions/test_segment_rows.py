"""The rows that a session keeps: none is asked for twice, and each frame's are there."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from compositing_service.mouth_source import Rows
from compositing_service.sessions.rows import SegmentRows


@given(
    look_ahead=st.integers(6, 12),
    groups=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 6)), min_size=1, max_size=12),
    speaks=st.sets(st.integers(-9, 300)),
)
def test_each_row_is_added_once_and_known_as_long_as_a_frame_reads_it(
    look_ahead: int, groups: list[tuple[int, int]], speaks: set[int]
) -> None:
    """Frame k reads row min(j, k + look_ahead - 6) in place of each row j of k - 9 .. k + 6. Some frames need no rows at all."""
    rows, added, frame = SegmentRows(look_ahead), list[int](), 0
    for skipped, count in groups:
        first = frame + skipped
        frame = first + count
        known = np.frombuffer(rows.known_to(first), "<f4").reshape(-1, 512)
        assert [row[0] for row in known] == list(range(first - 9, rows.stop))
        new = range(rows.stop, rows.stop_for(frame - 1))
        added += new
        rows.add(Rows(np.repeat(np.array(new, "<f4"), 512).tobytes(), silent=bytes(row not in speaks for row in new)))
        for each in range(first, frame):
            read = {min(row, each + look_ahead - 6) for row in range(each - 9, each + 7)}
            assert rows.is_silent(each) == speaks.isdisjoint(read)
            assert read <= set(range(first - 9, rows.stop))
    assert len(added) == len(set(added))
