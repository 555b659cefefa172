"""What a pass took is kept for the next one, and returned once none has run for a while."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from unittest.mock import Mock, patch

import pytest

from tests.unit.trainer.tiny import MODEL, BatchEngine, mixed_batch, opened, tiny_model
from trainer.engine.base_model import BaseModel
from trainer.engine.engine import EngineSettings
from trainer.engine.heap import Heap
from wire.engine import LossChoice

_KEEP_AND_RETURN = """
import os
from trainer.engine.heap import Heap

def resident() -> int:
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

heap = Heap()
heap.keep_freed()
before = resident()
import ctypes
malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
malloc.restype, free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
taken = [malloc(4 << 20) for _ in range(64)]
for each in taken:
    ctypes.memset(ctypes.c_void_p(each), 1, 4 << 20)
between = malloc(64)  # above all of it, so that no heap shrinks
for each in taken:
    free(each)
kept = resident()
heap.return_freed()
print(kept - before, resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no malloc_trim")
def test_freed_memory_stays_until_it_is_returned() -> None:
    ran = subprocess.run([sys.executable, "-c", _KEEP_AND_RETURN], capture_output=True, text=True, check=True)
    kept, left = map(int, ran.stdout.split())
    assert kept >= 256
    assert left < 32


def test_an_engine_returns_memory_once_it_has_been_idle() -> None:
    heap = Heap(idle_s=0.2)
    with patch.object(heap, "_glibc", Mock()) as glibc:
        engine = opened(BatchEngine(BaseModel(tiny_model()), EngineSettings(threads=1), heap=heap))
        before = threading.active_count()
        for _ in range(3):
            engine.forward_backward(MODEL, mixed_batch(), LossChoice("ppo"))
        assert threading.active_count() - before <= 1, "one thread, however many passes"
        with heap.in_use():
            glibc.malloc_trim.reset_mock()  # on a busy machine there was time between two passes
            time.sleep(0.4)
            assert glibc.malloc_trim.call_count == 0, "in the middle of a pass"
        deadline = time.monotonic() + 10
        while not glibc.malloc_trim.call_count and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        assert glibc.malloc_trim.call_count == 1


def test_memory_that_is_used_again_and_again_is_returned_after_the_last_time() -> None:
    heap = Heap(idle_s=0.3)
    with patch.object(heap, "_glibc", Mock()) as glibc:
        until = time.monotonic() + 0.9
        while time.monotonic() < until:
            with heap.in_use():
                time.sleep(0.01)
        assert glibc.malloc_trim.call_count == 0
        deadline = time.monotonic() + 10
        while not glibc.malloc_trim.call_count and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)
        assert glibc.malloc_trim.call_count == 1
