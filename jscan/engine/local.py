"""The engine for one machine: spawned processes, each at one item at a time.

Why not `concurrent.futures` or `multiprocessing.Pool`: one segfault fails every pending future of the first, and hangs
the second. Here every worker has a pipe of its own, so a dead one is known by its item, and costs that item alone.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, Literal, TextIO

from jscan.engine import Ask, Item, MoreTime, Outcome, Result, State, no_answer, take_place
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

MAX_FAILED_STARTS = 3
"""So many workers in a row may die before they are ready; then the run stops, for the next ones would die too."""
BEAT_SECONDS = 5.0
"""Between two signs of life of a worker."""
SILENT_SECONDS = 90.0
"""A busy worker that gives no sign of life for so long hangs, however generous the timeout is."""

Loss = Literal["crashed", "timed_out"]


@dataclass(slots=True)
class _Ticket(Generic[Item]):
    """An item on its way."""

    index: int
    item: Item
    failures: int = 0
    asked: Any = None

    def outcome(self, kind: Literal["raised", "crashed", "timed_out"], **facts: Any) -> Outcome[Item, Any]:
        """What became of the item, which is not that it is done."""
        return Outcome(self.index, self.item, kind, asked=self.asked, **facts)


@dataclass(slots=True, eq=False)
class _Worker(Generic[Item]):
    """The parent's side of one worker process."""

    process: BaseProcess
    pipe: Connection
    leash: Connection
    """Held as long as the process may live, see `jscan.engine.process.ends_with`."""
    since: float
    """When it was started or, once it is ready, when it got its item."""
    heard: float
    """When it last said anything."""
    place: int
    """Its number among the workers, see `jscan.engine.place`."""
    ready: bool = False
    ticket: _Ticket[Item] | None = None
    times: float = 1.0
    """How many timeouts its item may take."""

    def overdue(self, now: float, timeout: float | None) -> str | None:
        """Words for why the worker counts as hung, or None."""
        if not self.ready:
            return f"no start within {START_SECONDS:g} s" if now - self.since > START_SECONDS else None
        if self.ticket is None:
            return None
        if timeout is not None and now - self.since > timeout * self.times:
            return f"no result within {timeout * self.times:.4g} s"
        return f"no sign of life for {SILENT_SECONDS:g} s" if now - self.heard > SILENT_SECONDS else None


@dataclass(slots=True)
class _Crew(Generic[Item]):
    """All workers of a run, and how to start another."""

    start: Callable[[int], _Worker[Item]]
    size: int
    members: list[_Worker[Item]] = field(default_factory=list)

    def busy(self) -> bool:
        """Whether any worker holds an item."""
        return any(w.ticket is not None for w in self.members)

    def trying_again(self) -> bool:
        """Whether an item is being tried alone, so that nothing else may start."""
        return any(w.ticket is not None and w.ticket.failures > 0 for w in self.members)

    def has_room(self) -> bool:
        """Whether a further item can be handed out now."""
        return len(self.members) < self.size or any(w.ticket is None for w in self.members)

    def hand_out(self, ticket: _Ticket[Item]) -> None:
        """Nothing; a worker has the ticket, started now if none was idle."""
        idle = [w for w in self.members if w.ticket is None]
        # A second try is told nothing by what the process did before: it gets one that has done nothing. For that one
        # there is a place: the worker of the first try is gone, and nobody had its place while the item waited.
        worker = idle[0] if idle and not ticket.failures else None
        if worker is None:
            worker = self.start(min(set(range(self.size)) - {w.place for w in self.members}))
            self.members.append(worker)
        worker.ticket = ticket
        worker.since = worker.heard = time.monotonic()
        self.deliver(worker)

    def retire(self, worker: _Worker[Item], *, now: bool = False) -> int | None:
        """The exit code of a worker that is not to work any more; `now` where it would not leave by itself."""
        self.members.remove(worker)
        worker.pipe.close()
        if now:
            worker.process.terminate()
        exit_code = end(worker.process, time.monotonic() + (1.0 if now else STOP_SECONDS))
        worker.leash.close()
        return exit_code

    def deliver(self, worker: _Worker[Item]) -> None:
        """Nothing; a worker that is ready gets the item of its ticket.

        One that is still starting reads no pipe, and an item larger than a pipe would keep the parent waiting for it.
        """
        if worker.ready and worker.ticket is not None:
            # A worker that died while idle is noticed where its pipe is read, so a failed write needs no answer here.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                worker.pipe.send(worker.ticket.item)
            worker.times = 1.0
            worker.since = worker.heard = time.monotonic()  # a large item takes its time to get there

    def dismiss(self, *, now: bool) -> None:
        """Stop all workers: idle ones end by themselves when their pipe closes, others are ended when `now`."""
        for worker in self.members:
            worker.pipe.close()
            if now:
                worker.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for worker in self.members:
            end(worker.process, deadline)
            worker.leash.close()
        self.members.clear()

    def excuse(self, seconds: float) -> None:
        """Nothing; time in which this process itself stood still counts against no worker."""
        for worker in self.members:
            worker.since += seconds
            worker.heard += seconds

    @contextlib.contextmanager
    def excused(self) -> Iterator[None]:
        """A context in which nobody listens to the workers: its time counts against none of them."""
        before = time.monotonic()
        yield
        self.excuse(time.monotonic() - before)


_early: list[tuple[BaseProcess, Connection, Connection]] = []
"""Processes that wait for a run to take them, see `started_early`, each with its pipe and its leash."""


@contextlib.contextmanager
def started_early(count: int, module: str) -> Iterator[None]:
    """A context in which the first workers of a run, so many, have been started already, and import `module`.

    That takes longer than many an item, and this process imports what it needs itself meanwhile. Those of a context
    around this one count. Who was not wanted is ended with the context.
    """
    _early.extend(_spawn(module) for _ in range(count - len(_early)))
    try:
        yield
    finally:
        _dismiss_early()


def run(
    task: Callable[[State, Item, Ask], Result],
    items: Iterable[Item],
    *,
    init: Callable[[], State],
    workers: int,
    timeout: float | None = None,
    answer: Callable[[Item, Any], Any] = no_answer,
    before_second_try: Callable[[], None] = lambda: None,
) -> Generator[Outcome[Item, Result], None, None]:
    """A generator of the outcomes, in the order in which they come; see `jscan.engine.Engine`.

    There is always at least one child process, so that a crash never takes the caller with it. An item whose worker
    dies or hangs is tried once more while nothing else runs, for it may have died of its neighbours' hunger for memory.
    `before_second_try` returns when nothing runs elsewhere either, for a caller that shares the machine with others.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    crew: _Crew[Item] = _Crew(lambda place: _start(task, init, timeout, place), workers)
    source = enumerate(items)
    again: deque[_Ticket[Item]] = deque()  # never started: their worker died before it was ready
    suspects: deque[_Ticket[Item]] = deque()  # they failed once: each is tried once more, alone
    failed_starts = 0
    exhausted = False
    finished = False
    try:
        while True:
            while not suspects and not crew.trying_again() and crew.has_room() and not (exhausted and not again):
                if again:
                    crew.hand_out(again.popleft())
                    continue
                with crew.excused():  # whoever asks meanwhile cannot be answered
                    drawn = next(source, None)
                if drawn is None:
                    exhausted = True
                else:
                    crew.hand_out(_Ticket(*drawn))
            if suspects and not crew.busy():
                before_second_try()
                crew.hand_out(suspects.popleft())
            if not crew.busy():
                break
            ready = _wait(crew, timeout)
            for worker in tuple(crew.members):
                said = _hear(worker, ready, timeout)
                ticket = worker.ticket
                if said is None:
                    continue
                kind, payload = said
                if kind == "lost":
                    trouble: str | None = payload
                    loss: Loss = "timed_out" if trouble else "crashed"
                    exit_code = crew.retire(worker, now=trouble is not None)
                    words = trouble or how_it_died(exit_code)
                    if not worker.ready:
                        failed_starts += 1
                        if failed_starts >= MAX_FAILED_STARTS:
                            raise EngineError(f"worker processes die while they start ({words})")
                        if ticket is not None:
                            (suspects if ticket.failures else again).appendleft(ticket)
                    elif ticket is not None:
                        ticket.failures += 1
                        if ticket.failures < 2:
                            suspects.append(ticket)
                        else:
                            what = "was ended" if trouble else "died"
                            yield ticket.outcome(loss, message=f"the worker process {what}, twice ({words})")
                elif kind == "ready":
                    worker.ready = True
                    failed_starts = 0
                    crew.deliver(worker)
                elif kind == "init":
                    raise payload
                elif ticket is None:
                    continue
                elif kind == "more":
                    worker.times = payload
                elif kind == "ask":
                    ticket.asked = payload
                    with crew.excused():  # who answers may be another machine, and busy
                        answered = answer(ticket.item, payload)
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        worker.pipe.send(answered)
                elif kind == "done":
                    worker.ticket = None
                    with crew.excused():  # who consumes the outcomes takes time, to write them to a disk, say
                        yield Outcome(ticket.index, ticket.item, "done", value=payload, asked=ticket.asked)
                elif isinstance(payload, MemoryError) and ticket.failures == 0:
                    # Whether memory suffices must not depend on what the process, or its neighbours, did before.
                    ticket.failures = 1
                    suspects.append(ticket)
                    crew.retire(worker)
                else:
                    worker.ticket = None
                    with crew.excused():
                        yield ticket.outcome("raised", error=payload, message=f"{type(payload).__name__}: {payload}")
        finished = True
    finally:
        crew.dismiss(now=not finished)


def _wait(crew: _Crew[Item], timeout: float | None) -> frozenset[Any]:
    """The pipes that can be read, which those of the dead can; none, often enough to see who hangs."""
    pipes = [w.pipe for w in crew.members]
    seconds = BEAT_SECONDS if timeout is None else min(BEAT_SECONDS, timeout / 4)
    before = time.monotonic()
    ready = wait(pipes, seconds)
    passed = time.monotonic() - before
    if passed > 2 * seconds:
        crew.excuse(passed)  # this process was stopped (Ctrl-Z), and the workers with it
    return frozenset(ready)


def _hear(worker: _Worker[Item], ready: frozenset[Any], timeout: float | None) -> tuple[str, Any] | None:
    """What the worker said, or ("lost", why it counts as hung or None where it is dead), or None.

    The system is asked about a worker only where `ready` names it, or where it is about to be given up.
    """
    dead = not ready and not worker.process.is_alive()
    trouble = worker.overdue(time.monotonic(), timeout)
    try:
        # A dead worker's last words are still in the pipe: only when that is empty does its death count. So it is with
        # one that seems late: whoever consumes the outcomes may have taken long since the pipes were looked at.
        if worker.pipe in ready or ((dead or trouble) and worker.pipe.poll()):
            said: tuple[str, Any] = worker.pipe.recv()
            worker.heard = time.monotonic()
            if said[0] != "beat":
                return said
            trouble = worker.overdue(worker.heard, timeout)
        elif dead:
            return "lost", None
    except (EOFError, ConnectionResetError, BrokenPipeError):
        return "lost", None
    return ("lost", trouble) if trouble else None


def _start(
    task: Callable[[State, Item, Ask], Result], init: Callable[[], State], timeout: float | None, place: int
) -> _Worker[Item]:
    """A new worker process at this place."""
    process, pipe, leash = _early.pop() if _early else _spawn()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # that it died is noticed where its pipe is read
        pipe.send((task, init, timeout, place))
    now = time.monotonic()
    return _Worker(process, pipe, leash, since=now, heard=now, place=place)


def _spawn(module: str = "") -> tuple[BaseProcess, Connection, Connection]:
    """A process that imports `module` and waits to be told what to do, its pipe, and its leash.

    Spawned, never forked: a fork would copy the locks of the parent's threads in whatever state they are.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    neck, leash = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, neck, module), name="jscan-worker", daemon=True)
    with interrupts_held_back():
        process.start()
    theirs.close()
    neck.close()
    return process, ours, leash


def _dismiss_early() -> None:
    """Nothing; who was started early and is not wanted is gone."""
    deadline = time.monotonic() + STOP_SECONDS
    for process, pipe, leash in _early:
        pipe.close()
        process.kill()  # it has done nothing yet
        end(process, deadline)
        leash.close()
    _early.clear()


class _Orphaned(BaseException):
    """There is no parent any more to ask."""


class _Line:
    """The worker's end of the pipe, on which two threads speak.

    With a timeout the process ends by itself so long after an item's deadline, should nobody else do it.
    """

    def __init__(self, pipe: Connection, timeout: float | None, nowhere: TextIO) -> None:
        self._pipe = pipe
        self._timeout = timeout
        self._times = 1.0
        self._nowhere = nowhere
        self._lock = threading.Lock()
        threading.Thread(target=self._beat, name="beat", daemon=True).start()

    def say(self, kind: str, payload: Any) -> None:
        """Nothing; the parent hears of it, or of why it cannot be pickled. Raises OSError where there is no parent."""
        try:
            data = pickle.dumps((kind, payload))
        except Exception as error:
            data = pickle.dumps(("raised", portable(error)))
        with self._lock:
            self._pipe.send_bytes(data)

    def ask(self, question: Any) -> Any:
        """The parent's answer; None where it was more time that was asked for."""
        if isinstance(question, MoreTime):
            self._times = question.times
            self.say("more", question.times)
            self.watch(on=True)
            return None
        self.watch(on=False)  # the parent may be reading an archive for minutes before it answers
        try:
            self.say("ask", question)
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            raise _Orphaned from error
        finally:
            self.watch(on=True)

    def begin(self) -> None:
        """Nothing; a new item has one timeout, until more is asked for."""
        self._times = 1.0
        self.watch(on=True)

    def watch(self, *, on: bool) -> None:
        """Nothing; from now on the process ends by itself when it takes too long, or does not any more.

        What ends it needs no interpreter, so it works where a C library hangs and holds the lock.
        """
        if self._timeout is None:
            return
        seconds = self._timeout * self._times + ORPHAN_SECONDS
        if sys.platform != "win32":
            # A signal that nobody handles: a timer of the system costs 1 us, faulthandler's thread for each item 50.
            signal.setitimer(signal.ITIMER_REAL, seconds if on else 0)
        elif on:
            faulthandler.dump_traceback_later(seconds, exit=True, file=self._nowhere)
        else:
            faulthandler.cancel_dump_traceback_later()

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            try:
                self.say("beat", None)
            except OSError:
                # The parent is dead or has done with us. The main thread may be hanging: it will not notice.
                os._exit(1)


def _work(pipe: Connection, leash: Connection, module: str) -> None:
    """The life of a worker: learn what to do, make the state, compute items until the pipe closes, and end the process.

    What it is told is `task`, `init`, `timeout` and its `place`; until then it imports `module`, if any.
    """
    # Ctrl-C reaches every process of the terminal; the parent alone decides what to do about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # see `_Line.watch`; who started jscan may have ignored it
    # Closing the pipe, or the parent's death, ends the worker quietly.
    gone = (EOFError, BrokenPipeError, ConnectionResetError, _Orphaned)
    with leaving_on_sigterm(), contextlib.suppress(*gone), open(os.devnull, "w") as nowhere:
        held = ends_with(leash)
        if module:
            importlib.import_module(module)
        task, init, timeout, place = pipe.recv()
        take_place(place)
        line = _Line(pipe, None if held else timeout, nowhere)
        try:
            state = init()
        except Exception as error:
            line.say("init", portable(error))
            return
        line.say("ready", None)
        while True:
            try:
                item = pipe.recv()
            except MemoryError as error:
                line.say("raised", portable(error))
                return  # what is left in the pipe is half an item
            line.begin()
            kind, reply = _attempt(task, state, item, line.ask)
            line.watch(on=False)
            line.say(kind, reply)
            del item, reply
    # There is nothing left to tidy up, and the parent waits: an interpreter takes 0.3 s to forget what a scanner holds.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _attempt(task: Callable[[Any, Any, Ask], Any], state: Any, item: Any, ask: Ask) -> tuple[str, Any]:
    """What the task returned or raised."""
    try:
        return "done", task(state, item, ask)
    except Exception as error:
        return "raised", portable(error)
