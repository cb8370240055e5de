"""The memory that a process has in use, at most: what a plan tells, so that the two can be compared.

On a GPU that is the tensors. On a CPU it is all that is resident (interpreter, libraries, tensors, pages of files) but
for blocks that were freed and that the C library keeps for later: nothing tells how many those will be. They are
counted apart, as reserved memory, as are those that torch keeps on a GPU. Processes that load data are not counted.
"""

import ctypes
import os
import resource
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch

SECONDS = 0.02
"""Between two looks at a process, at least: what it has in use for less than that may be missed."""
SHARE = 0.02
"""Of the time that looks take at most, unless more is resident than ever: the C library goes through all that is free,
and lends no memory meanwhile."""
_STATM = Path("/proc/self/statm")


class _Blocks(ctypes.Structure):
    """What glibc's `mallinfo2` returns, bytes but for the counts of blocks; `fordblks` are free."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


@cache
def _mallinfo() -> Any:
    """Return glibc's `mallinfo2` (2.33 and later); None with another C library."""
    try:
        function = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):
        return None
    function.restype = _Blocks
    return function


def resident() -> int:
    """Bytes of this process that are resident; at most so far, where the system does not tell what is now."""
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def in_use() -> int:
    """Bytes of this process that are resident and not free; without glibc, all that are resident."""
    mallinfo = _mallinfo()
    return resident() - (int(mallinfo().fordblks) if mallinfo else 0)


class MemoryWatch:
    """Looks at a process's memory from where it is entered to where it is left.

    Args:
        device: Whose memory: a GPU's tensors, or the process's on a CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._in_use = self._resident = 0
        self._lock = threading.Lock()
        self._left = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Begin anew."""
        self._in_use = self._resident = 0
        self._left.clear()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Look no more."""
        self._left.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @property
    def peak(self) -> int:
        """Most bytes in use so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        self._look()
        return self._in_use

    @property
    def reserved(self) -> int:
        """Most bytes in use or free to be used again so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_reserved(self.device)
        self._look()
        return self._resident

    def _watch(self) -> None:
        due = 0.0
        while not self._left.wait(SECONDS):
            began = time.monotonic()
            if began >= due or resident() > self._resident:
                self._look()
                ended = time.monotonic()
                due = ended + (ended - began) / SHARE

    def _look(self) -> None:
        with self._lock:
            self._in_use, self._resident = max(self._in_use, in_use()), max(self._resident, resident())


__all__ = ["MemoryWatch", "in_use", "resident"]
