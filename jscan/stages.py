"""Where the time of a scan goes: seconds by stage, counted only where somebody asked for them.

Code that does the work of a stage stands in `with stage("decode"):`, which costs nothing worth naming (0.6 us) unless
it runs inside `measuring`. Stages may lie inside one another; each second counts for the innermost.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass

STAGES = ("start", "read", "hash", "decode", "scout", "features", "network", "estimate", "regions", "write", "other")
"""The names, in the order in which they are shown. `start` opens models, `scout` looks for grid shifts, `features` is
what is computed from pixels for a network, `network` what ONNX Runtime runs, `estimate` the rest of the estimators,
`other` what lies in no stage."""
OTHER = STAGES[-1]


@dataclass(frozen=True, slots=True)
class Spent:
    """Time spent in one stage."""

    seconds: float = 0.0
    """By the clock, which stands in one process for one input at a time."""
    processor: float = 0.0
    """Seconds of all cores, those of the libraries' threads included."""

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.seconds + other.seconds, self.processor + other.processor)


Times = Mapping[str, Spent]
"""Time spent by the name of the stage; stages that took none may be missing."""


class Clock:
    """Sums up what is spent in stages, by name."""

    def __init__(self) -> None:
        self.times: dict[str, Spent] = {}
        """What was spent until the last change of stage."""
        self._open = [OTHER]
        self._at = time.perf_counter(), time.process_time()

    def enter(self, name: str) -> None:
        """Nothing; from now on time counts for this stage."""
        self._charge()
        self._open.append(name)

    def leave(self) -> None:
        """Nothing; from now on time counts for the stage around it."""
        self._charge()
        self._open.pop()

    def stop(self) -> None:
        """Nothing; `times` holds everything."""
        self._charge()

    def _charge(self) -> None:
        now = time.perf_counter(), time.process_time()
        name = self._open[-1]
        spent = Spent(now[0] - self._at[0], now[1] - self._at[1])
        self.times[name] = self.times.get(name, Spent()) + spent
        self._at = now


_clock: ContextVar[Clock | None] = ContextVar("jscan_stages", default=None)
"""The clock of this thread; another thread, a beat or a count, has none and adds nothing."""


class stage:  # noqa: N801 - it is used as a function is
    """A context in which time counts for the stage of this name. Raises KeyError for a name that STAGES lacks."""

    __slots__ = ("_name", "_running")

    def __init__(self, name: str) -> None:
        if name not in STAGES:
            raise KeyError(name)
        self._name = name
        self._running: Clock | None = None

    def __enter__(self) -> None:
        self._running = _clock.get()
        if self._running is not None:
            self._running.enter(self._name)

    def __exit__(self, *_: object) -> None:
        if self._running is not None:
            self._running.leave()


@contextlib.contextmanager
def measuring(wanted: bool = True) -> Iterator[dict[str, Spent]]:
    """A context in which stages are measured, and what was spent in them when it is left; nothing unless `wanted`."""
    if not wanted:
        yield {}
        return
    clock = Clock()
    token = _clock.set(clock)
    try:
        yield clock.times
    finally:
        _clock.reset(token)
        clock.stop()


def total(parts: Iterable[Times]) -> dict[str, Spent]:
    """The sums of the parts, in the order of STAGES, without stages that took no time."""
    found: dict[str, Spent] = {}
    for part in parts:
        for name, spent in part.items():
            found[name] = found.get(name, Spent()) + spent
    return {name: found[name] for name in STAGES if name in found}


def shares(times: Times) -> dict[str, dict[str, float]]:
    """For each stage its seconds, its seconds of processor time, and its share of all seconds, as JSON knows them."""
    whole = max(sum(spent.seconds for spent in times.values()), 1e-9)
    return {
        name: {"seconds": spent.seconds, "processor_seconds": spent.processor, "share": spent.seconds / whole}
        for name, spent in times.items()
    }
