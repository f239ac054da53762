"""Engines: something that calls a task on many items, in other processes, and survives their deaths.

An engine knows nothing of images. It is handed two callables: `init` makes a worker's state once (models, say), and
`task(state, item)` computes one item with it. Both are sent to the workers, so they must be picklable.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Item, Result]):
    """What became of one item. Every item handed to an engine gets exactly one."""

    index: int
    """Its place among the items, from 0."""
    item: Item
    """The item itself."""
    kind: Literal["done", "raised", "crashed"]
    """`done`: the task returned; `raised`: it raised; `crashed`: its process died, and died again when tried alone."""
    value: Result | None = None
    """What the task returned, where it is `done`."""
    error: Exception | None = None
    """What the task raised, where it `raised`."""
    message: str = ""
    """A sentence on what went wrong, empty where it is `done`."""


class Engine(Protocol):
    """The signature that every engine has."""

    def __call__(
        self,
        task: Callable[[State, Item], Result],
        items: Iterable[Item],
        *,
        init: Callable[[], State],
        workers: int,
    ) -> Generator[Outcome[Item, Result], None, None]:
        """A generator of the outcomes, in the order in which they come.

        Items are drawn as workers become free, never all at once. Raises what `init` raised, and EngineError where
        workers die before they are ready. Closing the generator stops the workers.
        """
        ...
