"""The engine for many machines: actors of a Ray cluster, each with one supervised worker process (`jscan.engine.host`).

Ray places the actors and tells when one is gone; all else is decided here, on the caller's side: which item goes where,
what is tried again, and how often. So neither Ray's retries nor its data sets, checkpoints and writers are used.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import pickle
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic

from jscan import __version__
from jscan.engine import Ask, Item, Outcome, Result, State, no_answer
from jscan.engine.host import Host, Message, Work
from jscan.engine.process import START_SECONDS, STOP_SECONDS
from jscan.errors import DeviceError, EngineError, SetupError, UsageError

MAX_ACTORS_AN_ITEM = 3
"""An item whose actor is lost so often counts as crashed."""
MAX_LOSSES_A_PLACE = 10
"""A place that loses so many actors, one after another, without one that brings an outcome is given up."""
AVOID_SECONDS = 60.0
"""For so long an item whose actor was lost does not go to one that was on the same machine before."""
WAKE_SECONDS = 5.0
"""The caller looks at the clock after so long, whether or not somebody has said something."""
PULSE_SECONDS = 5.0
"""Between two signs of life of an actor that has nothing else to say."""
SILENT_SECONDS = 90.0
"""An actor that says nothing for so long, not even `beat`, is lost, whatever Ray thinks of it."""
CONNECT_SECONDS = 10.0
PART_BYTES = 64 << 10
"""Ray sends arguments of up to 100 KiB along with a call. Larger ones it keeps in a store that spills to the disk, on
which evidence must not lie."""
PARTS_A_CALL = 64
"""4 MiB: Ray puts no more than 10 MiB of arguments into one call."""
STORE_BYTES = 100_000_000
"""Object store of a cluster of one's own; next to nothing is put there."""
MAX_FOLDER_LENGTH = 25
"""Of characters in the name of the folder for Ray's files: its sockets below have names of 107 at most."""


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of the cluster, when the run began."""

    host: str
    address: str
    cpus: float
    gpus: float


class Cluster:
    """A Ray cluster that this process is connected to; `run` is an Engine.

    `facts` says what must be the same on all machines, by name; an actor that finds something else there stops the run.
    All work in `folder`, where that is not None.
    """

    def __init__(
        self,
        nodes: tuple[Node, ...],
        device: str,
        facts: Callable[[], Mapping[str, str]],
        folder: str | None = None,
    ) -> None:
        gpus = int(sum(n.gpus for n in nodes))
        if device.startswith("cuda:"):
            raise UsageError(f"--device {device} does not go with --ray, which shares out the GPUs; say --device cuda")
        if device == "cuda" and not gpus:
            raise DeviceError("--device cuda: no node of the Ray cluster has a GPU")
        self.device = "cuda" if gpus and device != "cpu" else "cpu"
        """The one on which all actors compute: rows of both kinds would not be the same."""
        self.cores = max(1, gpus if self.device == "cuda" else sum(int(n.cpus) for n in nodes))
        """Actors that can work at the same time: one for each CPU, or for each GPU."""
        self._gpus = gpus
        self.nodes = nodes
        self._facts = facts
        self._folder = folder
        self._worked: set[str] = set()

    def about(self) -> dict[str, Any]:
        """The engine, the nodes when the run began, and those that have worked so far, for the manifest."""
        nodes = [{"host": n.host, "address": n.address, "cpus": n.cpus, "gpus": n.gpus} for n in self.nodes]
        return {
            "name": "ray",
            "version": importlib.metadata.version("ray"),
            "nodes": nodes,
            "worked": sorted(self._worked),
        }

    def run(
        self,
        task: Callable[[State, Item, Ask], Result],
        items: Iterable[Item],
        *,
        init: Callable[[], State],
        workers: int,
        timeout: float | None = None,
        answer: Callable[[Item, Any], Any] = no_answer,
    ) -> Generator[Outcome[Item, Result], None, None]:
        """A generator of the outcomes, in the order in which they come; see `jscan.engine.Engine`.

        A second try is alone on its machine: the others go on. An item whose actor, or whose actor's machine, is lost
        is handed to another, `MAX_ACTORS_AN_ITEM` times in all. Raises EngineError where no actor can be kept alive.
        """
        if workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        source = enumerate(items)
        first = next(source, None)
        if first is None:
            return
        again: deque[_Ticket[Item]] = deque([_Ticket(*first)])
        exhausted = False
        crew: _Crew[Item] = _Crew(self._hire(task, init, timeout, workers), workers)
        try:
            crew.fill()
            while True:
                for actor in crew.free():
                    ticket = next((t for t in again if t.may_go_to(actor)), None)
                    if ticket is not None:
                        again.remove(ticket)
                    elif not exhausted:
                        before = time.monotonic()
                        drawn = next(source, None)
                        crew.excuse(time.monotonic() - before)
                        exhausted = drawn is None
                        ticket = None if drawn is None else _Ticket(*drawn)
                    if ticket is not None:
                        actor.give(ticket)
                if exhausted and not again and not crew.busy():
                    break
                crew.let_second_tries_begin()
                for actor, (kind, value) in crew.hear():
                    ticket = actor.ticket
                    if kind == "ready":
                        actor.node, actor.since = value, time.monotonic()
                        actor.ready = actor.since
                    elif kind == "refused":
                        raise EngineError(value)
                    elif kind == "failed":
                        raise _named(value, actor.node)
                    elif kind == "lost":
                        crew.lose(actor)
                        if ticket is not None:
                            ticket.lose(actor)
                            if ticket.losses < MAX_ACTORS_AN_ITEM:
                                again.appendleft(ticket)
                            else:
                                yield ticket.crashed()
                        crew.replace(actor, value)
                    elif ticket is None or kind == "beat":
                        actor.say(None)
                    elif kind == "again":
                        actor.waits = True
                    elif kind == "ask":
                        ticket.asked = value
                        actor.say(("answer", answer(ticket.item, value)))
                    else:
                        actor.ticket = None
                        actor.alone = False
                        crew.losses[actor.place] = 0
                        self._worked.add(actor.node)
                        yield replace(value, index=ticket.index, item=ticket.item, asked=ticket.asked)
        finally:
            crew.dismiss()

    def _hire(
        self, task: Callable[..., Any], init: Callable[[], Any], timeout: float | None, workers: int
    ) -> Callable[[int], _Actor[Any]]:
        """What starts an actor at a place."""
        import ray

        share = 1 / math.ceil(workers / self._gpus) if self.device == "cuda" else 0
        # It is not restarted and its calls are not tried again by Ray: what is tried again is decided here.
        remote = ray.remote(
            num_cpus=1,
            num_gpus=share,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
            concurrency_groups={"control": 1},
        )(Host)
        expected = dict(self._facts())

        def hire(place: int) -> _Actor[Any]:
            work = Work(task, init, timeout, PULSE_SECONDS, place, self._folder, self._facts, expected)
            handle = remote.remote()
            return _Actor(handle, place, handle.hello.remote(__version__, *_parts(pickle.dumps(work))))

        return hire


@dataclass(slots=True, eq=False)
class _Ticket(Generic[Item]):
    """An item on its way."""

    index: int
    item: Item
    losses: int = 0
    """Actors that were lost while they worked on it."""
    where: str = ""
    """The machine of the last of them."""
    when: float = 0.0
    asked: Any = None

    def lose(self, actor: _Actor[Item]) -> None:
        """Nothing; the actor that had it is gone."""
        self.losses += 1
        self.where, self.when = actor.node, time.monotonic()

    def may_go_to(self, actor: _Actor[Item]) -> bool:
        """Whether it need not be feared that the actor is gone too, with its machine, and that nobody knows yet."""
        return actor.node != self.where or actor.ready > self.when or time.monotonic() > self.when + AVOID_SECONDS

    def crashed(self) -> Outcome[Item, Any]:
        """What became of the item, which cost too many actors."""
        said = f"the actor that worked on it, or its machine, was lost, {self.losses} times"
        return Outcome(self.index, self.item, "crashed", message=said, asked=self.asked)


@dataclass(slots=True, eq=False)
class _Actor(Generic[Item]):
    """The caller's side of one actor."""

    handle: Any
    place: int
    """Its number among the workers, see `jscan.engine.place`."""
    reply: Any
    """What it will say next, as Ray's reference; None while nothing is expected of it."""
    since: float = field(default_factory=time.monotonic)
    """When it was last spoken to."""
    node: str = ""
    """The name of its machine; empty until it is ready."""
    ready: float = 0.0
    """When that was."""
    ticket: _Ticket[Item] | None = None
    waits: bool = False
    """Whether it wants to be alone on its machine, for a second try."""
    alone: bool = False
    """Whether it is, and makes that try."""

    def give(self, ticket: _Ticket[Item]) -> None:
        """Nothing; it works on this item."""
        self.ticket = ticket
        self.say(("item", ticket.item))

    def say(self, message: Message | None) -> None:
        """Nothing; it hears the message, or none, and its reply is waited for."""
        parts = [] if message is None else _parts(pickle.dumps(message))
        while len(parts) > PARTS_A_CALL:
            self.handle.part.remote(*parts[:PARTS_A_CALL])
            del parts[:PARTS_A_CALL]
        self.reply = self.handle.exchange.remote(*parts)
        self.since = time.monotonic()


@dataclass(slots=True)
class _Crew(Generic[Item]):
    """All actors of a run, and how to start another."""

    start: Callable[[int], _Actor[Item]]
    size: int
    members: list[_Actor[Item]] = field(default_factory=list)
    losses: dict[int, int] = field(default_factory=dict)
    """Actors lost at each place since it last brought an outcome."""

    def fill(self) -> None:
        """Nothing; there is an actor at each place, or will be when Ray has room for it."""
        self.members += [self.start(place) for place in range(self.size)]

    def busy(self) -> bool:
        """Whether any actor holds an item."""
        return any(a.ticket is not None for a in self.members)

    def free(self) -> list[_Actor[Item]]:
        """Actors that can be given an item: none where somebody wants to be alone."""
        quiet = {a.node for a in self.members if a.waits or a.alone}
        return [a for a in self.members if a.node and a.ticket is None and a.node not in quiet]

    def let_second_tries_begin(self) -> None:
        """Nothing; on each machine on which all the others are done, one that waits begins."""
        at_work = {a.node for a in self.members if a.ticket is not None and not a.waits}
        for actor in self.members:
            if actor.waits and actor.node not in at_work:
                actor.waits, actor.alone = False, True
                actor.say(("alone", None))
                at_work.add(actor.node)

    def hear(self) -> Iterator[tuple[_Actor[Item], Message]]:
        """Who said what; none, often enough to see who is silent. Raises EngineError where Ray gives no actor."""
        import ray

        expected = [a for a in self.members if a.reply is not None]
        if not expected:
            time.sleep(WAKE_SECONDS / 5)  # all are idle, and not yet to be trusted with what is left
            return
        before = time.monotonic()
        replies = [a.reply for a in expected]
        ready = set(ray.wait(replies, num_returns=1, timeout=WAKE_SECONDS)[0])
        passed = time.monotonic() - before
        if passed > 2 * WAKE_SECONDS:
            self.excuse(passed)  # this process was stopped (Ctrl-Z), and who knows what else
        if len(replies) > 1:
            ready = set(ray.wait(replies, num_returns=len(replies), timeout=0)[0])
        now = time.monotonic()
        for actor in expected:
            if actor.reply in ready:
                yield actor, _received(actor)
            elif actor.node and now - actor.since > SILENT_SECONDS:
                yield actor, ("lost", f"no sign of life for {SILENT_SECONDS:g} s")
        if all(not a.node and now - a.since > START_SECONDS for a in self.members):
            raise EngineError(
                f"the Ray cluster has had no room for an actor for {START_SECONDS:g} s: are its CPUs taken?"
            )

    def lose(self, actor: _Actor[Item]) -> None:
        """Nothing; the actor is gone, and if it is not it will be."""
        import ray

        self.members.remove(actor)
        self.losses[actor.place] = self.losses.get(actor.place, 0) + 1
        ray.kill(actor.handle)

    def replace(self, lost: _Actor[Item], why: str) -> None:
        """Nothing; another has its place, unless too many were lost there. Raises EngineError where nobody is left."""
        if self.losses[lost.place] < MAX_LOSSES_A_PLACE:
            self.members.append(self.start(lost.place))
        elif not self.members:
            raise EngineError(f"all actors of the Ray cluster were lost, again and again; the last one: {why}")

    def excuse(self, seconds: float) -> None:
        """Nothing; time in which this process itself stood still counts against no actor."""
        for actor in self.members:
            actor.since += seconds

    def dismiss(self) -> None:
        """Nothing; all actors are gone, and their worker processes before them, where they can be reached."""
        import ray

        control = {"concurrency_group": "control"}
        stops = [a.handle.stop.options(**control).remote() for a in self.members if a.node]
        if stops:
            ray.wait(stops, num_returns=len(stops), timeout=2 * STOP_SECONDS)
        for actor in self.members:
            ray.kill(actor.handle)
        self.members.clear()


def _parts(data: bytes) -> list[bytes]:
    """The bytes in pieces that Ray sends along with a call."""
    return [data[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES)]


def _received(actor: _Actor[Any]) -> Message:
    """What the actor said, or ("lost", why), or ("refused", why) where there is no such class."""
    import ray

    reply, actor.reply = actor.reply, None
    try:
        said: Message = pickle.loads(ray.get(reply))
    except ray.exceptions.RayError as error:
        if "raised in its creation task" not in str(error):
            return "lost", _in_one_line(error)
        # `Host` itself raises nothing there, so it is not on that machine, or is another one.
        found = re.search(r"\bip=([^,)]+)", str(error))
        node, last = found[1] if found else "of an actor", str(error).strip().splitlines()[-1].strip()
        return "refused", f"the node {node} cannot take part: is jscan {__version__} installed there? Ray says: {last}"
    return said


def _named(error: Exception, node: str) -> Exception:
    """The error, saying where it was raised if its words are jscan's own."""
    return type(error)(f"{error} (on the node {node})") if isinstance(error, SetupError) else error


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]


# --- the connection ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def connected(
    address: str,
    *,
    device: str,
    cores: int,
    facts: Callable[[], Mapping[str, str]],
    folder: str | None = None,
) -> Iterator[Cluster]:
    """The cluster at this address, for as long as the context lasts; `facts` and `folder` are those of `Cluster`.

    `auto` is the one that runs on this machine, `local` one of `cores` CPUs that is started here, bound to 127.0.0.1,
    and ended with the context; else host:port, from a machine of that cluster, or `ray://host:port`, from any. Where
    this process is connected already, that connection is used and stays. Raises UsageError where Ray is not installed
    or nothing answers, and DeviceError.
    """
    prepare(address)
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UsageError(f"--ray needs Ray ({error}): pip install 'jscan[ray]'") from error
    with contextlib.ExitStack() as stack:
        if not ray.is_initialized():
            files = stack.enter_context(_folder()) if address == "local" else None
            stack.callback(ray.shutdown)
            with _same_sigterm(), _silence():
                _connect(address, cores, files)
        nodes = tuple(
            Node(n["NodeManagerHostname"], n["NodeManagerAddress"], have.get("CPU", 0.0), have.get("GPU", 0.0))
            for n in ray.nodes()
            if n["Alive"]
            for have in [n["Resources"]]
        )
        yield Cluster(nodes, device, facts, folder)


def prepare(address: str) -> None:
    """Nothing; Ray reports nothing to its makers, and a cluster of one's own is for this process alone.

    Ray takes these from the environment alone, and some of them when it is imported: who did that before has a local
    cluster with Ray's own choices.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # It prints on stdout that an actor has died, whatever it was told of logs, unless it is to skip all such lines.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    if address == "local" and "ray" not in sys.modules:
        # Without this Ray listens on all interfaces even where it was told 127.0.0.1, but on Windows and macOS.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # Other users of this machine can reach 127.0.0.1 too. Left alone, Ray keeps a token in the home folder.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _connect(address: str, cores: int, files: Path | None) -> None:
    """Nothing; this process is connected. Raises UsageError."""
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
    try:
        if files is not None:
            ray.init(
                address="local",
                num_cpus=cores,
                include_dashboard=False,
                object_store_memory=STORE_BYTES,
                _temp_dir=str(files),
                _node_ip_address="127.0.0.1",
                **quiet,
            )
        else:
            _knock(address)
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError, AssertionError, ray.exceptions.RayError) as error:
        if files is not None:
            raise UsageError(f"--ray local: the cluster cannot be started: {_in_one_line(error)}") from error
        raise UsageError(
            f"--ray {address}: the cluster cannot be reached: {_in_one_line(error)} (one that asks for a token needs "
            "RAY_AUTH_MODE=token in the environment)"
        ) from error


def _knock(address: str) -> None:
    """Nothing. Raises OSError where nobody answers at host:port: Ray would try for minutes, and say so on stderr."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A new folder for Ray's sockets and logs, which nobody else can enter and which is removed at the end."""
    shared = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="jscan-", dir=shared if len(shared) < MAX_FOLDER_LENGTH else "/tmp"))
    try:
        yield folder / "r"  # Ray opens the folder that it is given to everybody
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """A context in which nothing is printed on stderr: Ray's C++ complains there, line upon line, of what it raises."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextlib.contextmanager
def _same_sigterm() -> Iterator[None]:
    """A context after which SIGTERM is answered as before; Ray has an answer of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
