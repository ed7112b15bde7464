"""The allocator of a process of detrkit's own: of a command, or of a run that one starts. The library itself does not touch its caller's process."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_ constants of glibc's malloc.h
_LARGEST, _LARGEST_BEFORE_2_35 = 2**31 - 1, 32 * 2**20  # glibc before 2.35 refuses a threshold for mmap above 32 MiB
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> None:
    """Makes the allocator keep freed memory for the next request instead of returning it to the system.

    Every step of a network requests the same large blocks again. glibc returns each to the system and gets it back page by page, which can
    take a third of a training step on a CPU. Nothing is changed on other systems, or if the user has configured the allocator.
    """
    if not sys.platform.startswith("linux") or any(os.environ.get(name) for name in _VARIABLES):
        return
    library = ctypes.CDLL(None)
    sizes = (_LARGEST, _LARGEST_BEFORE_2_35) if hasattr(library, "mallopt") else ()
    # In this order, and only together: setting either one ends glibc's own adaptation of the other.
    if any(library.mallopt(_MMAP_THRESHOLD, size) for size in sizes):
        library.mallopt(_TRIM_THRESHOLD, _LARGEST)


def return_freed_memory() -> None:
    """Returns to the system what is free, which is worth its time now and then: batches of other sizes leave gaps, which add up where it is kept.

    Only glibc can; elsewhere nothing happens.
    """
    if sys.platform.startswith("linux") and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
