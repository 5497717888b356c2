from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from service_kit import malloc

# Allocates and frees 8 MiB blocks, and tells how many pages the kernel had to give (minor faults) a block after the first ones.
FAULTS = """
import ctypes, resource, sys
if sys.argv[1] == "tuned":
    from service_kit.malloc import tune_malloc
    assert tune_malloc()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
def once():
    block = libc.malloc(24 << 20)
    ctypes.memset(block, 1, 24 << 20)
    libc.free(block)
once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    once()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 5)
"""

# Holds memory in many threads at the same time, and tells in how many arenas.
ARENAS = """
import ctypes, os, sys, tempfile, threading
if sys.argv[1] == "tuned":
    from service_kit.malloc import tune_malloc
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    assert tune_malloc()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]
together = threading.Barrier(12)
def hold():
    libc.malloc(5000)
    together.wait(30)
threads = [threading.Thread(target=hold) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
with tempfile.NamedTemporaryFile() as report:
    file = libc.fopen(report.name.encode(), b"w")
    libc.malloc_info(0, file)
    libc.fclose(file)
    print(report.read().count(b"<heap nr="))
"""


def arenas(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", ARENAS, how], check=True, capture_output=True, text=True, timeout=60)
    return int(done.stdout)


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True, timeout=60)
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_memory_of_large_blocks_is_kept_with_the_process() -> None:
    """Counted by the kernel: fresh pages of 4 KiB for a block of 24 MiB."""
    assert faults("tuned") < 100


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="not glibc")
def test_threads_share_arenas() -> None:
    assert arenas("tuned") == malloc.LEAST_ARENAS < arenas("as it is")


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda name: object())
    assert malloc.tune_malloc() is False
