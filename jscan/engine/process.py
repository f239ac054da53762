"""Child processes: how they are started, ended, and what is said of their end."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import NoReturn

from jscan.errors import EngineError

STOP_SECONDS = 5.0
"""How long a process that was told to stop may take before it is killed."""
START_SECONDS = 300.0
"""How long a process may take to be ready: models lie on network drives, and GPUs take their time."""
ORPHAN_SECONDS = 30.0
"""So long after its timeout a process ends by itself, in case there is nobody left to end it; see `ends_with`."""


def end(process: BaseProcess, deadline: float) -> int | None:
    """The exit code of a process that is dead or has been told to stop; it is waited for, so no zombie stays."""
    process.join(max(0.0, deadline - time.monotonic()))
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


def ends_with(leash: Connection) -> bool:
    """Whether the system will end this process when nobody holds the other end of this pipe, on which nothing is sent.

    It needs no interpreter, so it works where a C library hangs and holds the lock. And it needs no clock: a timer of
    the system runs while all processes are stopped (Ctrl-Z), and ends those that have an item when they go on.
    """
    if sys.platform != "linux":
        return False  # elsewhere nobody dies of this signal
    import fcntl

    signal.signal(signal.SIGIO, signal.SIG_DFL)  # who started jscan may have ignored it, or held it back
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGIO})
    fcntl.fcntl(leash, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(leash, fcntl.F_SETFL, fcntl.fcntl(leash, fcntl.F_GETFL) | os.O_ASYNC)
    if leash.poll():  # it was let go of before the system was asked to look
        os._exit(1)
    return True


def how_it_died(exit_code: int | None) -> str:
    """Words for an exit code, such as `killed by SIGKILL; out of memory?`."""
    if exit_code is None or exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return f"killed by {name}" + ("; out of memory?" if name == "SIGKILL" else "")


@contextlib.contextmanager
def interrupts_held_back() -> Iterator[None]:
    """A context in which SIGINT waits; a child started inside it is born deaf to SIGINT, and stays so.

    Without it, Ctrl-C while a worker imports its modules fills the terminal with that worker's traceback.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    from multiprocessing import resource_tracker

    # Starting the tracker unblocks SIGINT as its last act, so it must be running before SIGINT is blocked here.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def leaving_on_sigterm() -> Iterator[None]:
    """A context that SIGTERM ends by way of the `finally` clauses, which remove half-written files.

    It counts once: who signals a whole group is followed by a parent that tells its children as well, and a second one
    would break off those clauses, or fill the terminal with a traceback of the interpreter's own end. A process that
    does not end is killed by its parent.
    """
    signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """Never returns: ends the process as the shell would say that a signal did."""
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


def portable(error: Exception) -> Exception:
    """The error itself with its traceback as a note, or, where it does not survive pickling, one that says the same."""
    text = traceback.format_exc()
    try:
        again = pickle.loads(pickle.dumps(error))
        portable: Exception = error if type(again) is type(error) else EngineError(str(error))
    except Exception:
        portable = EngineError(f"{type(error).__name__}: {error}")
    portable.add_note(text)
    return portable
