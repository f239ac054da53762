"""The engine for one machine: spawned processes, each at one item at a time.

Why not `concurrent.futures` or `multiprocessing.Pool`: one segfault fails every pending future of the first, and hangs
the second. Here every worker has a pipe of its own, so a dead one is known by its item, and costs that item alone.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, Generic, NoReturn

from jscan.engine import Item, Outcome, Result, State
from jscan.errors import EngineError

MAX_FAILED_STARTS = 3
"""So many workers in a row may die before they are ready; then the run stops, for the next ones would die too."""
STOP_SECONDS = 5.0
"""How long a worker that was told to stop may take before it is killed."""


@dataclass(slots=True)
class _Ticket(Generic[Item]):
    """An item on its way."""

    index: int
    item: Item
    deaths: int = 0


@dataclass(slots=True, eq=False)
class _Worker(Generic[Item]):
    """The parent's side of one worker process."""

    process: BaseProcess
    pipe: Connection
    ready: bool = False
    ticket: _Ticket[Item] | None = None


@dataclass(slots=True)
class _Crew(Generic[Item]):
    """All workers of a run, and how to start another."""

    start: Callable[[], _Worker[Item]]
    size: int
    members: list[_Worker[Item]] = field(default_factory=list)

    def busy(self) -> bool:
        """Whether any worker holds an item."""
        return any(w.ticket is not None for w in self.members)

    def trying_again(self) -> bool:
        """Whether an item is being tried alone, so that nothing else may start."""
        return any(w.ticket is not None and w.ticket.deaths > 0 for w in self.members)

    def has_room(self) -> bool:
        """Whether a further item can be handed out now."""
        return len(self.members) < self.size or any(w.ticket is None for w in self.members)

    def hand_out(self, ticket: _Ticket[Item]) -> _Worker[Item]:
        """The worker that took the ticket; started now if none was idle."""
        worker = next((w for w in self.members if w.ticket is None), None)
        if worker is None:
            worker = self.start()
            self.members.append(worker)
        worker.ticket = ticket
        self.deliver(worker)
        return worker

    def deliver(self, worker: _Worker[Item]) -> None:
        """Nothing; a worker that is ready gets the item of its ticket.

        One that is still starting reads no pipe, and an item larger than a pipe would keep the parent waiting for it.
        """
        if worker.ready and worker.ticket is not None:
            # A worker that died while idle is noticed where its pipe is read, so a failed write needs no answer here.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                worker.pipe.send((worker.ticket.index, worker.ticket.item))

    def dismiss(self, *, now: bool) -> None:
        """Stop all workers: idle ones end by themselves when their pipe closes, others are ended when `now`."""
        for worker in self.members:
            worker.pipe.close()
            if now:
                worker.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for worker in self.members:
            _end(worker, deadline)
        self.members.clear()


def run(
    task: Callable[[State, Item], Result],
    items: Iterable[Item],
    *,
    init: Callable[[], State],
    workers: int,
) -> Generator[Outcome[Item, Result], None, None]:
    """A generator of the outcomes, in the order in which they come; see `jscan.engine.Engine`.

    There is always at least one child process, so that a crash never takes the caller with it. An item whose worker
    dies is tried once more while nothing else runs, for it may have died of its neighbours' hunger for memory.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    crew: _Crew[Item] = _Crew(lambda: _start(task, init), workers)
    source = enumerate(items)
    again: deque[_Ticket[Item]] = deque()  # never started: their worker died before it was ready
    suspects: deque[_Ticket[Item]] = deque()  # their worker died on them: each is tried once more, alone
    failed_starts = 0
    exhausted = False
    finished = False
    try:
        while True:
            while not suspects and not crew.trying_again() and crew.has_room() and not (exhausted and not again):
                if again:
                    crew.hand_out(again.popleft())
                    continue
                try:
                    crew.hand_out(_Ticket(*next(source)))
                except StopIteration:
                    exhausted = True
            if suspects and not crew.busy():
                crew.hand_out(suspects.popleft())
            if not crew.busy():
                break
            for worker in _with_news(crew.members):
                message = _receive(worker)
                ticket = worker.ticket
                if message is None:
                    crew.members.remove(worker)
                    exit_code = _end(worker, time.monotonic() + STOP_SECONDS)
                    if not worker.ready:
                        failed_starts += 1
                        if failed_starts >= MAX_FAILED_STARTS:
                            raise EngineError(f"worker processes die while they start ({_how_it_died(exit_code)})")
                        if ticket is not None:
                            (suspects if ticket.deaths else again).appendleft(ticket)
                    elif ticket is not None:
                        ticket.deaths += 1
                        if ticket.deaths < 2:
                            suspects.append(ticket)
                        else:
                            text = f"the worker process died, twice ({_how_it_died(exit_code)})"
                            yield Outcome(ticket.index, ticket.item, "crashed", message=text)
                    continue
                kind, payload = message
                if kind == "ready":
                    worker.ready = True
                    failed_starts = 0
                    crew.deliver(worker)
                elif kind == "init":
                    raise payload
                elif ticket is not None:
                    worker.ticket = None
                    if kind == "done":
                        yield Outcome(ticket.index, ticket.item, "done", value=payload)
                    else:
                        text = f"{type(payload).__name__}: {payload}"
                        yield Outcome(ticket.index, ticket.item, "raised", error=payload, message=text)
        finished = True
    finally:
        crew.dismiss(now=not finished)


def _with_news(members: list[_Worker[Item]]) -> list[_Worker[Item]]:
    """The workers that have sent something, or died; waits for the first."""
    events: dict[Any, _Worker[Item]] = {}
    for worker in members:
        events[worker.pipe] = worker
        events[worker.process.sentinel] = worker
    ready = wait(list(events))
    return [w for w in members if w.pipe in ready or w.process.sentinel in ready]


def _receive(worker: _Worker[Item]) -> tuple[str, Any] | None:
    """The worker's message, or None where it is dead."""
    try:
        # A dead worker's last words are still in the pipe: only when that is empty does its death count.
        if worker.pipe.poll():
            message: tuple[str, Any] = worker.pipe.recv()
            return message
    except (EOFError, ConnectionResetError, BrokenPipeError):
        pass
    return None


def _end(worker: _Worker[Item], deadline: float) -> int | None:
    """The exit code of a worker that is dead or has been told to stop; it is waited for, so no zombie stays."""
    worker.pipe.close()
    process = worker.process
    process.join(max(0.0, deadline - time.monotonic()))
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


def _how_it_died(exit_code: int | None) -> str:
    """Words for an exit code, such as `killed by SIGKILL; out of memory?`."""
    if exit_code is None or exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return f"killed by {name}" + ("; out of memory?" if name == "SIGKILL" else "")


def _start(task: Callable[[State, Item], Result], init: Callable[[], State]) -> _Worker[Item]:
    """A new worker process.

    Spawned, never forked: a fork would copy the locks of the parent's threads in whatever state they are.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, task, init), name="jscan-worker", daemon=True)
    with _interrupts_held_back():
        process.start()
    theirs.close()
    return _Worker(process, ours)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """A context in which SIGINT waits; a child started inside it is born deaf to SIGINT, and stays so (see `_work`).

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


def _work(pipe: Connection, task: Callable[[Any, Any], Any], init: Callable[[], Any]) -> None:
    """The life of a worker: make the state, then compute items until the pipe closes."""
    # Ctrl-C reaches every process of the terminal; the parent alone decides what to do about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Told to stop, it leaves by way of its `finally` clauses, which remove half-written files.
    signal.signal(signal.SIGTERM, _leave)
    # Closing the pipe, or the parent's death, ends the worker quietly.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            state = init()
        except Exception as error:
            pipe.send(("init", _portable(error)))
            return
        pipe.send(("ready", None))
        while True:
            _, item = pipe.recv()
            try:
                # Pickled here, so that a result that cannot be is the task's error and not the worker's death.
                reply = pickle.dumps(("done", task(state, item)))
            except Exception as error:
                reply = pickle.dumps(("raised", _portable(error)))
            pipe.send_bytes(reply)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """Never returns: ends the process as the shell would say that a signal did."""
    raise SystemExit(128 + number)


def _portable(error: Exception) -> Exception:
    """The error itself with its traceback as a note, or, where it does not survive pickling, one that says the same."""
    text = traceback.format_exc()
    try:
        again = pickle.loads(pickle.dumps(error))
        portable: Exception = error if type(again) is type(error) else EngineError(str(error))
    except Exception:
        portable = EngineError(f"{type(error).__name__}: {error}")
    portable.add_note(text)
    return portable
