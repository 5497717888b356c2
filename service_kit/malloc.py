"""Keeps the memory of large messages with the process, and lets threads share what is free.

By default glibc takes each block over 128 KiB from the kernel afresh and gives it back at once. So every message of some hundred
kilobytes costs page faults: more than half of a gRPC server's time. The environment variables MALLOC_MMAP_THRESHOLD_ and
MALLOC_TRIM_THRESHOLD_ would do the same; here the process does it by itself.

What is kept lies in arenas, and a thread takes free memory from its own arena alone. glibc allows eight arenas a core, so nearly
each thread would keep as much as it ever needed at once.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

# <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

# The most that glibc accepts on 64 bits.
MMAP_THRESHOLD_BYTES = 32 << 20
TRIM_THRESHOLD_BYTES = 256 << 20
# With one arena all threads would wait for each other.
LEAST_ARENAS = 2

_STATM = Path("/proc/self/statm")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def tune_malloc() -> bool:
    """Raises glibc's thresholds, and allows one arena a core. Call it once, when the process starts, before other threads.

    Returns False, without effect, without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    mallopt.restype = ctypes.c_int
    cores = len(os.sched_getaffinity(0))
    options = {
        # Setting one threshold switches off glibc's own adaptation of both, so both are needed.
        _M_MMAP_THRESHOLD: MMAP_THRESHOLD_BYTES,
        _M_TRIM_THRESHOLD: TRIM_THRESHOLD_BYTES,
        _M_ARENA_MAX: max(LEAST_ARENAS, cores),
    }
    taken = [mallopt(option, value) for option, value in options.items()]
    return all(taken)


class _Mallinfo2(ctypes.Structure):
    """Structure that mallinfo2 returns."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    )


def free_bytes() -> int:
    """Returns the bytes that were freed and are kept, also those that the system has back; 0 without glibc 2.33.

    It takes up to some tens of milliseconds.
    """
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return 0
    mallinfo.restype = _Mallinfo2
    return int(mallinfo().fordblks)


def resident_bytes() -> int:
    """Returns the resident memory of this process; 0 where the system does not tell."""
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def return_free_memory() -> None:
    """Gives the system back what is free but was kept. It takes milliseconds. Without glibc it does nothing."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
