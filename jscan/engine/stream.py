"""Generators in a child process: for work whose results come one after another, and which may crash or hang.

The engines share out items that stand by themselves. An archive is not such an item: its members come in order, and
each is an input of its own. So what reads it runs beside the caller, as a generator does, and its end is an exception.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Literal, Protocol

from jscan.engine.process import (
    ORPHAN_SECONDS,
    START_SECONDS,
    STOP_SECONDS,
    end,
    ends_with,
    how_it_died,
    interrupts_held_back,
    leaving_on_sigterm,
    portable,
)
from jscan.errors import EngineError

ALIVE_SECONDS = 1.0
"""Between two signs of life of a generator that has nothing to yield yet."""
WAKE_SECONDS = 1.0
"""Who waits for the child looks at the clock so often, to see whether it was stopped meanwhile."""

Piece = tuple[Any, bytes | None]
"""What a generator yields: a value that is pickled, and bytes that are not copied for that, or None."""


class Streamed(Protocol):
    """A generator function that can run in a child process; it must be picklable."""

    def __call__(
        self, request: Any, ask: Callable[[Any], Any], alive: Callable[[], None]
    ) -> Generator[Piece, None, Any]:
        """Pieces, and what is returned at the end. `ask` puts a question to the caller; `alive` is called often."""
        ...


class LostError(Exception):
    """The process that ran a generator died, hung, or the generator raised. Says how."""

    def __init__(self, kind: Literal["crashed", "timed_out", "raised"], message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(slots=True)
class _Child:
    process: BaseProcess
    pipe: Connection
    leash: Connection
    """Held as long as the process may live, see `jscan.engine.process.ends_with`."""


class Stream:
    """One child process, started when it is first needed, that runs one generator at a time; a context manager.

    `init` is called in the child before anything else. A generator that is silent for `timeout` seconds (None: for
    ever), while somebody waits for it, is ended. After a loss, the next generator has a fresh process.
    """

    def __init__(self, function: Streamed, *, init: Callable[[], object], timeout: float | None) -> None:
        self._function = function
        self._init = init
        self._timeout = timeout
        self._child: _Child | None = None

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing; there is no process any more."""
        self._end(now=True)

    def run(self, request: Any, answer: Callable[[Any], Any]) -> Generator[Piece, None, Any]:
        """What `function(request, ...)` yields and returns. Raises LostError, and EngineError where nothing starts."""
        whole = False
        try:
            child = self._ready()
            child.pipe.send(request)
            while True:
                kind, value, more = self._next(child, self._timeout)
                if kind == "piece":
                    yield value, child.pipe.recv_bytes() if more else None
                elif kind == "ask":
                    child.pipe.send(answer(value))
                elif kind == "end":
                    whole = True
                    return value
                elif kind == "raised":
                    raise LostError("raised", f"{type(value).__name__}: {value}")
        except (EOFError, ConnectionResetError, BrokenPipeError) as error:
            raise LostError("crashed", how_it_died(self._end(now=False))) from error
        finally:
            if not whole:
                self._end(now=True)

    def _ready(self) -> _Child:
        """The child, which waits for a request."""
        if self._child is None:
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            neck, leash = context.Pipe(duplex=False)
            process = context.Process(
                target=_serve,
                args=(theirs, neck, self._function, self._init, self._timeout),
                name="jscan-stream",
                daemon=True,
            )
            with interrupts_held_back():
                process.start()
            theirs.close()
            neck.close()
            self._child = _Child(process, ours, leash)
            try:
                kind, value, _ = self._next(self._child, START_SECONDS)
            except (LostError, EOFError, ConnectionResetError) as error:
                raise EngineError(f"a process that reads archives does not start ({error})") from error
            if kind == "raised":
                raise EngineError(f"a process that reads archives does not start ({value})")
        return self._child

    def _next(self, child: _Child, timeout: float | None) -> tuple[str, Any, bool]:
        """What the child says next."""
        left = math.inf if timeout is None else timeout
        while left > 0:
            before = time.monotonic()
            if child.pipe.poll(min(WAKE_SECONDS, left)):
                said: tuple[str, Any, bool] = child.pipe.recv()
                return said
            passed = time.monotonic() - before
            if passed < 2 * WAKE_SECONDS:  # else this process was stopped (Ctrl-Z), and the child with it
                left -= passed
        self._end(now=True)
        raise LostError("timed_out", f"no sign of life for {timeout:g} s")

    def _end(self, *, now: bool) -> int | None:
        """The exit code of the child, which is gone; `now` where it is not to end by itself."""
        child, self._child = self._child, None
        if child is None:
            return None
        child.pipe.close()
        if now:
            child.process.terminate()
        exit_code = end(child.process, time.monotonic() + (1.0 if now else STOP_SECONDS))
        child.leash.close()
        return exit_code


class _Line:
    """The child's end of the pipe.

    With a timeout, a timer runs outside of it that ends the process, should nobody else do it.
    """

    def __init__(self, pipe: Connection, timeout: float | None) -> None:
        self._pipe = pipe
        self._timeout = timeout
        self._said = time.monotonic()

    def say(self, kind: str, value: Any, payload: bytes | None = None) -> None:
        """Nothing; the caller will hear it."""
        self._watch(on=False)  # the caller takes its time between two pieces
        self._pipe.send((kind, value, payload is not None))
        if payload is not None:
            self._pipe.send_bytes(payload)
        self._said = time.monotonic()
        self._watch(on=True)

    def ask(self, question: Any) -> Any:
        """The caller's answer."""
        self.say("ask", question)
        return self.hear()

    def hear(self) -> Any:
        """What the caller says next."""
        self._watch(on=False)
        try:
            return self._pipe.recv()
        finally:
            self._watch(on=True)

    def alive(self) -> None:
        """Nothing; the caller knows that the generator works."""
        if time.monotonic() - self._said > ALIVE_SECONDS:
            self.say("alive", None)

    def _watch(self, *, on: bool) -> None:
        if self._timeout is not None and sys.platform != "win32":
            signal.setitimer(signal.ITIMER_REAL, self._timeout + ORPHAN_SECONDS if on else 0)


def _serve(
    pipe: Connection, leash: Connection, function: Streamed, init: Callable[[], object], timeout: float | None
) -> None:
    """The life of the child: generators, one after another, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller alone decides what Ctrl-C means
    if sys.platform != "win32":
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with leaving_on_sigterm(), contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        line = _Line(pipe, None if ends_with(leash) else timeout)
        try:
            init()
        except Exception as error:
            line.say("raised", portable(error))
            return
        line.say("ready", None)
        while True:
            request = line.hear()
            try:
                returned = _say_all(function(request, line.ask, line.alive), line)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:
                line.say("raised", portable(error))
            else:
                line.say("end", returned)


def _say_all(pieces: Generator[Piece, None, Any], line: _Line) -> Any:
    """What the generator returned; the caller has all that it yielded."""
    while True:
        try:
            value, payload = next(pieces)
        except StopIteration as stop:
            return stop.value
        line.say("piece", value, payload)
