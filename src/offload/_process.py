"""Which process this is, for a fraction of what ``os.getpid()`` costs: it is asked at each call and after each task.

`mark[0]` is true in the process that made the mark, and false in a child that was forked since, also by a fork that runs no at-fork hooks. On Linux
it is a page of memory that the kernel wipes in a child (madvise(2), MADV_WIPEONFORK, since 4.14); elsewhere it compares process ids.
"""

import mmap
import os
import sys
from typing import Protocol

MADV_WIPEONFORK = 18  # <asm-generic/mman-common.h>; the mmap module has no name for it


def importing_script() -> bool:
    """Whether this is a child of multiprocessing that is just importing its parent's script, as those that are spawned do."""
    process = sys.modules.get("multiprocessing.process")
    return process is not None and getattr(process.current_process(), "_inheriting", False)


class Mark(Protocol):
    """True at index 0 in the process that made it."""

    def __getitem__(self, index: int, /) -> int: ...


class PidMark:
    """A mark where the kernel offers none."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __getitem__(self, index: int, /) -> int:
        return os.getpid() == self._pid


def new_mark() -> Mark:
    """A mark of this process."""
    if not hasattr(os, "fork"):
        return b"\x01"
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(MADV_WIPEONFORK)
        page[0] = 1
    except (AttributeError, OSError, ValueError):
        return PidMark()
    return page
