"""Asks glibc how much of this process's memory is allocated: what was freed and is only kept does not count."""

from __future__ import annotations

import ctypes


class _Mallinfo2(ctypes.Structure):
    """Structure of mallinfo2."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    )


def allocated_bytes() -> int:
    """The bytes that were allocated and not freed, by malloc alone."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Mallinfo2
    found = mallinfo()
    return int(found.uordblks + found.hblkhd)
