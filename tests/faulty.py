"""Faults on purpose: an engine without processes, so that a run can be forked and killed at any step of its output."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from results import read_results

from jscan.engine import Ask, Item, Outcome, Result, State, no_answer
from jscan.records import ImageRef, ScanRecord
from jscan.unpack import read_members

STEPS = ("mkdir", "fsync", "replace", "unlink", "rmdir")
"""The calls of `os` by which a run changes what is on the disk for good."""


def in_this_process(
    task: Callable[[State, Item, Ask], Result],
    items: Iterable[Item],
    *,
    init: Callable[[], State],
    workers: int,
    timeout: float | None = None,
    answer: Callable[[Item, Any], Any] = no_answer,
) -> Generator[Outcome[Item, Result], None, None]:
    """An engine that computes where it is called; no task may crash."""
    state = init()
    for index, item in enumerate(items):
        yield Outcome(index, item, "done", value=task(state, item, lambda question, item=item: answer(item, question)))


def broken_reader(
    request: tuple[bytes, Any, bool], ask: Callable[[Any], Any], alive: Callable[[], None]
) -> Generator[tuple[ImageRef, bytes | None], None, tuple[bool, bool]]:
    """A reader of archives that comes to grief at the third reference of those whose name asks for it."""
    path = request[0]
    found = read_members(request, ask, alive)
    count = 0
    while True:
        try:
            piece = next(found)
        except StopIteration as end:
            returned: tuple[bool, bool] = end.value
            return returned
        count += 1
        if count == 3:
            match os.path.basename(path).partition(b".")[0]:
                case b"kill":
                    os.kill(os.getpid(), signal.SIGSEGV)
                case b"hang":
                    ctypes.PyDLL(None).sleep(3600)  # holds the interpreter's lock, as a library that hangs may
                case b"raise":
                    raise RuntimeError("not foreseen")
                case b"memory":
                    bytearray(64 << 30)
                case b"once" if not os.path.exists(path + b".died"):
                    os.close(os.open(path + b".died", os.O_CREAT))
                    os.kill(os.getpid(), signal.SIGKILL)
        yield piece


class Killer:
    """Counts the steps of this process, before and after each, and kills it at one of them."""

    def __init__(self, at: int | None) -> None:
        self.count = 0
        self._at = at
        for name in STEPS:
            setattr(os, name, self._wrapped(getattr(os, name)))

    def _wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*args: Any, **kwargs: Any) -> Any:
            self._step()
            result = call(*args, **kwargs)
            self._step()
            return result

        return stepped

    def _step(self) -> None:
        self.count += 1
        if self.count == self._at:
            os.kill(os.getpid(), signal.SIGKILL)


def forked(action: Callable[[], object]) -> int:
    """The wait status of a copy of this process that did this and nothing else."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            action()
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


@contextlib.contextmanager
def stopped(folder: Path, seconds: float) -> Iterator[None]:
    """A context in which a process is stopped for so long: the one that a file `<number>.pid` in the folder names.

    Then there is a file `on`.
    """

    def stop() -> None:
        while not (found := list(folder.glob("*.pid"))):
            time.sleep(0.01)
        os.kill(int(found[0].stem), signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(int(found[0].stem), signal.SIGCONT)
        (folder / "on").touch()

    thread = threading.Thread(target=stop)
    thread.start()
    yield
    thread.join()


def timeless(record: ScanRecord) -> ScanRecord:
    """The row without what the computer's speed decides."""
    return replace(record, decode_ms=None, estimate_ms=None)


def scan_of(path: Path) -> list[ScanRecord]:
    """The rows of the results, timings aside."""
    return [timeless(r) for r in read_results(path)]
