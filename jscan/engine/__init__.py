"""Engines: something that calls a task on many items, in other processes, and survives their deaths.

An engine knows nothing of images. It is handed two callables: `init` makes a worker's state once (models, say), and
`task(state, item, ask)` computes one item with it. Both are sent to the workers, so they must be picklable. While it
works, a task may `ask` its caller something; the caller's `answer` runs where the generator is consumed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
State = TypeVar("State")
Ask = Callable[[Any], Any]
"""What a task is handed to put a question with: a picklable value there, a picklable value back. `MoreTime` is no
question for the caller: the engine itself grants it."""


_place: ContextVar[int] = ContextVar("jscan_place", default=0)


def place() -> int:
    """The number of the worker that asks, below the number of workers, for what they share out; 0 outside of one.

    No two that live at a time have the same, and one that takes another's place has its number.
    """
    return _place.get()


def take_place(number: int) -> None:
    """Nothing; this process is the worker of that number. For engines."""
    _place.set(number)


@dataclass(frozen=True, slots=True)
class MoreTime:
    """What a task asks for when it finds that its item is a large one."""

    times: float
    """The item's deadline is from now on so many timeouts after it was handed over."""


def no_answer(item: object, question: object) -> None:
    """None, whatever was asked."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Item, Result]):
    """What became of one item. Every item handed to an engine gets exactly one."""

    index: int
    """Its place among the items, from 0."""
    item: Item
    """The item itself."""
    kind: Literal["done", "raised", "crashed", "timed_out"]
    """`done`: the task returned; `raised`: it raised; `crashed`: its process died, and died or hung again when tried
    alone; `timed_out`: the same, but the last time it hung and was ended."""
    value: Result | None = None
    """What the task returned, where it is `done`."""
    error: Exception | None = None
    """What the task raised, where it `raised`. A MemoryError was raised twice, the second time alone."""
    message: str = ""
    """A sentence on what went wrong, empty where it is `done`."""
    asked: Any = None
    """The last question that the task put, which outlives the process that put it."""


class Engine(Protocol):
    """The signature that every engine has."""

    def __call__(
        self,
        task: Callable[[State, Item, Ask], Result],
        items: Iterable[Item],
        *,
        init: Callable[[], State],
        workers: int,
        timeout: float | None = None,
        answer: Callable[[Item, Any], Any] = no_answer,
    ) -> Generator[Outcome[Item, Result], None, None]:
        """A generator of the outcomes, in the order in which they come.

        Items are drawn as workers become free, never all at once. One that takes longer than `timeout` seconds, or
        whose process dies, or that runs out of memory, is tried once more, alone and in a fresh process. Raises what
        `init` raised, and EngineError where workers die before they are ready. Closing the generator stops the workers.
        """
        ...
