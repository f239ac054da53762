"""The far end of an engine on several machines: one supervised worker process, spoken to in calls.

`jscan.engine.ray` makes actors of `Host`; nothing here knows of Ray. What runs behind it is the local engine with one
worker, so that a decoder that crashes costs its item and not the actor, and so that deadlines are watched where the
work is done. It runs on a thread; each call hands it a message and brings back what it says next.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from multiprocessing import active_children
from queue import Empty, SimpleQueue
from typing import Any

from jscan import __version__, limits
from jscan.engine import Ask, Outcome, local, take_place
from jscan.engine.process import STOP_SECONDS, portable

Message = tuple[str, Any]
"""To a host: `item`, `answer`, `alone` (go on with the second try). From it: `ready`, `refused`, `beat`, `ask`, `again`
(a second try is due), `outcome`, `failed`. And what belongs to it."""
_STOP: Message = ("stop", None)


@dataclass(frozen=True, slots=True)
class Work:
    """What a host is to do."""

    task: Callable[[Any, Any, Ask], Any]
    init: Callable[[], Any]
    timeout: float | None
    pulse: float
    """After so many seconds without anything to say a call comes back all the same, as a sign of life."""
    place: int
    """See `jscan.engine.place`."""
    folder: str | None
    """Where relative paths begin, or None where there are none."""
    facts: Callable[[], Mapping[str, str]]
    """Says what must be the same on all machines, by name."""
    expected: Mapping[str, str]
    """What it says on the caller's."""


class _StoppedError(Exception):
    """Nobody waits for the outcome any more."""


class Host:
    """One worker process, supervised. Its calls come one after another, but for `stop`, which may come at any time."""

    def __init__(self) -> None:
        limits.forbid_core_dumps()
        self._parts: list[bytes] = []
        self._inbox: SimpleQueue[Message] = SimpleQueue()
        self._outbox: SimpleQueue[Message] = SimpleQueue()
        self._engine: threading.Thread | None = None
        self._pulse = 0.0

    def hello(self, version: str, *parts: bytes) -> bytes:
        """`ready` with the name of this machine, or `refused` with a sentence: another jscan would make other rows."""
        here = platform.node()
        refused = None
        if version != __version__:
            # What the other version has pickled may not be readable here, so this comes first.
            refused = f"jscan is {__version__} there and {version} here"
        else:
            try:
                work: Work = pickle.loads(b"".join(parts))
                if work.folder is not None:
                    os.chdir(work.folder)
                found = work.facts()
            except Exception as error:
                refused = f"{type(error).__name__}: {error}"
            else:
                refused = _difference(found, work.expected)
        if refused is not None:
            return pickle.dumps(("refused", f"the node {here} cannot take part: {refused}"))
        _become_quiet()
        self._pulse = work.pulse
        self._engine = threading.Thread(target=self._work, args=(work,), name="engine", daemon=True)
        self._engine.start()
        return pickle.dumps(("ready", here))

    def part(self, *parts: bytes) -> None:
        """Nothing; the message that the next `exchange` completes begins with these bytes."""
        self._parts += parts

    def exchange(self, *parts: bytes) -> bytes:
        """What is said next, pickled, after the message of these bytes (none: nothing is said to it) was heard."""
        data = b"".join((*self._parts, *parts))
        self._parts.clear()
        if data:
            try:
                self._inbox.put(pickle.loads(data))
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
                return pickle.dumps(("outcome", Outcome(0, None, "raised", error=portable(error), message=said)))
        try:
            return pickle.dumps(self._outbox.get(timeout=self._pulse))
        except Empty:
            return pickle.dumps(("beat", None))

    def stop(self) -> None:
        """Nothing; no worker process is left. One that works is told to leave, and killed if it does not."""
        self._inbox.put(_STOP)
        if self._engine is None:
            return
        told: set[int | None] = set()
        deadline = time.monotonic() + STOP_SECONDS
        while self._engine.is_alive():
            for process in active_children():
                if time.monotonic() > deadline:
                    process.kill()
                elif process.pid not in told:
                    told.add(process.pid)
                    process.terminate()
            self._engine.join(0.05)

    def _work(self, work: Work) -> None:
        outcomes = local.run(
            work.task,
            self._items(),
            init=_Placed(work.place, work.init),
            workers=1,
            timeout=work.timeout,
            answer=self._ask,
            before_second_try=self._wait_to_be_alone,
        )
        try:
            with contextlib.suppress(_StoppedError), contextlib.closing(outcomes):
                for outcome in outcomes:
                    self._outbox.put(("outcome", replace(outcome, item=None)))  # the caller has the item
        except Exception as error:
            self._outbox.put(("failed", portable(error)))

    def _items(self) -> Iterator[Any]:
        while True:
            kind, item = self._inbox.get()
            if kind == "stop":
                return
            yield item

    def _ask(self, item: Any, question: Any) -> Any:
        return self._said_to("ask", question)

    def _wait_to_be_alone(self) -> None:
        self._said_to("again", None)

    def _said_to(self, kind: str, value: Any) -> Any:
        """What the caller replies to this."""
        self._outbox.put((kind, value))
        kind, reply = self._inbox.get()
        if kind == "stop":
            raise _StoppedError
        return reply


@dataclass(frozen=True, slots=True)
class _Placed:
    """An `init` whose process is the worker of this number."""

    place: int
    init: Callable[[], Any]

    def __call__(self) -> Any:
        take_place(self.place)
        return self.init()


def _difference(found: Mapping[str, str], expected: Mapping[str, str]) -> str | None:
    """Words for what is not the same on both machines, or None."""
    names = sorted(n for n in {*found, *expected} if found.get(n) != expected.get(n))
    said = [f"{n} is {found.get(n, 'missing')} there and {expected.get(n, 'missing')} here" for n in names]
    return "; ".join(said) or None


def _become_quiet() -> None:
    """Nothing; this process and its children print nowhere, and its children do not import its main module.

    What is printed would lie in the log folder of whoever runs the machine, and may speak of evidence. The main module
    is Ray's: each child would import it again, and Ray with it.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
    vars(sys.modules["__main__"]).pop("__file__", None)
    limits.one_thread_for_linear_algebra()
