"""Freed memory goes back to the system when it is told to, although the allocator keeps it otherwise."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import numpy as np
from detrkit.allocation import keep_freed_memory, return_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

keep_freed_memory()
blocks = [np.ones(2**17) for _ in range(300)]  # of a megabyte
del blocks[:-1]  # the last one keeps the heap from becoming shorter
kept = resident()
return_freed_memory()
print(kept - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc can return freed memory")
def test_freed_memory_is_kept_and_then_returned() -> None:
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert float(result.stdout) > 200
