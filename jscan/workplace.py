"""Where the workers of a run work: on this machine, or on a Ray cluster."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from jscan.config import ScanConfig
from jscan.engine import Engine
from jscan.engine.local import run as local_engine
from jscan.installed import facts
from jscan.limits import usable_cores

MOST_PATHS = 20
"""So many sources are looked for on each machine; a longer list of files is mostly from a few folders."""


@dataclass(frozen=True, slots=True)
class Workplace:
    """An engine, and what a run must know of where it works."""

    engine: Engine
    device: str
    """The device that its workers are to open."""
    slots: int | None
    """Workers that can work at the same time, each on a core of its own; None: they share the cores of this machine."""
    about: Callable[[], dict[str, Any]]
    """Says what the engine is and where it has worked so far, for the manifest."""


@contextlib.contextmanager
def workplace(config: ScanConfig, engine: Engine | None = None) -> Iterator[Workplace]:
    """The workplace that the options name, for as long as the context lasts; with this `engine`, this machine.

    Raises UsageError where Ray is not installed or its cluster cannot be reached, DeviceError where that has no GPU.
    """
    if config.ray is None or engine is not None:
        yield Workplace(engine or local_engine, config.device, None, _this_machine)
        return
    from jscan.engine.ray import connected

    cores = config.workers or usable_cores()
    folder = os.getcwd() if _any_relative(config) else None
    with connected(config.ray, device=config.device, cores=cores, facts=_facts(config), folder=folder) as cluster:
        yield Workplace(cluster.run, cluster.device, cluster.cores, cluster.about)


def _this_machine() -> dict[str, Any]:
    return {"name": "local", "worked": [platform.node()]}


def _any_relative(config: ScanConfig) -> bool:
    """Whether workers may be given a path that depends on where the run was started."""
    written = [p for p in (config.heatmaps, config.maps) if p is not None]
    return config.files_from is not None or not all(p.is_absolute() for p in (*config.sources, *written))


def _facts(config: ScanConfig) -> Callable[[], dict[str, str]]:
    """What all machines must find: the folders of the sources, and those that workers write to."""
    folders = {s if os.path.isdir(s) else s.parent for s in config.sources}
    written = [p for p in (config.heatmaps, config.maps) if p is not None]
    return partial(facts, sorted(folders)[:MOST_PATHS], written)
