"""What a worker process may take of the machine. Where the system knows no such limit (Windows), nothing happens."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

MIB = 1 << 20
PER_TILE = 384 * MIB
"""What a tile takes while a model computes it (325 MiB were measured)."""
PER_THREAD = 72 * MIB
"""Address space that glibc sets aside for each thread's heap (64 MiB) and stack (8 MiB), used or not."""


def limit_memory(extra: int) -> bool:
    """Whether the process may from now on take no more than `extra` bytes of address space beyond what it has.

    Beyond what it has, because libraries reserve gigabytes that they never touch: after ONNX Runtime, OpenCV and Arrow
    are loaded, an absolute limit would mean something else on every machine. What exceeds the limit fails with
    MemoryError, or with what a C library makes of a failed malloc.
    """
    have = _address_space()
    if have is None:
        return False
    if not _set_address_space(have + extra):
        return False
    _limit.size = have + extra
    return True


@contextlib.contextmanager
def uncounted() -> Iterator[None]:
    """A context in which `limit_memory` limits nothing; what is taken for good in it comes on top of the limit.

    Models and libraries are loaded in it, which happens when they are first wanted. Under a limit that they exceed some
    libraries fail in ways of their own: OpenBLAS tries for ever.
    """
    with _limit.lock:
        _limit.lifted += 1
        if _limit.lifted == 1 and _limit.size is not None:
            _limit.before = _address_space()
            _set_address_space(None)
    try:
        yield
    finally:
        with _limit.lock:
            _limit.lifted -= 1
            if not _limit.lifted and _limit.size is not None:
                have = _address_space()
                if have is not None and _limit.before is not None:
                    _limit.size += max(0, have - _limit.before)
                _set_address_space(_limit.size)


class _Limit:
    """The limit that `limit_memory` set, in bytes, and how many threads do without it just now."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.size: int | None = None
        self.lifted = 0
        self.before: int | None = None


_limit = _Limit()


def _set_address_space(size: int | None) -> bool:
    """Whether the process is limited to so many bytes now; None: to as many as it may give itself."""
    if sys.platform == "win32":
        return False
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = hard if size is None else size
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    except (OSError, ValueError):
        return False
    return True


def forbid_core_dumps() -> None:
    """Nothing; a crash of this process leaves no file. A core dump would hold evidence, wherever it came to lie."""
    if sys.platform == "win32":
        return
    import resource

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def one_thread_for_linear_algebra() -> None:
    """Nothing; NumPy, in this process if it has not loaded it yet and in its children, starts no threads of its own.

    It would start as many as there are cores, in every worker. What the user has set stays.
    """
    for library in ("OPENBLAS", "OMP", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")


def collect_garbage_rarely() -> None:
    """Nothing; what this process imports from now on takes less time.

    Imports make many objects that stay: looking through them for garbage every 700 is a tenth of a worker's start.
    """
    gc.set_threshold(50_000)


def _address_space() -> int | None:
    """Bytes of address space that the process has now, or None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def usable_cores() -> int:
    """How many cores this process may run on, which is fewer than the machine has where it was confined."""
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1
