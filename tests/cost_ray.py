"""What it costs to hand out an item through Ray, against the local engine: processor time of all processes.

    PYTHONPATH=.:tests python tests/cost_ray.py

The task does nothing but put one question, as a scan does for each image. The start of processes is left out. Ray's own
processes are counted; the machine should be left in peace by others only as far as elapsed time is concerned.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from pathlib import Path

from engine_protocol import _state, _task

from jscan.engine import Engine, local, ray

WARM = 50
"""Items before the measurement begins."""


def processor_seconds(mark: bytes) -> float:
    """What this process and all in whose environment the mark stands have taken."""
    ticks = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(folder.name) == os.getpid() or mark in (folder / "environ").read_bytes():
                words = (folder / "stat").read_text().rpartition(")")[2].split()
                ticks += int(words[11]) + int(words[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(name: str, run: Engine, mark: bytes, workers: int, items: int = 3000) -> None:
    """Nothing; prints the cost of an item."""
    outcomes = run(_task, ["ask:1"] * (items + WARM), init=_state, workers=workers)
    for _ in range(WARM):
        next(outcomes)
    before = processor_seconds(mark), time.process_time(), time.monotonic()
    for _ in range(items):
        next(outcomes)
    after = processor_seconds(mark), time.process_time(), time.monotonic()
    outcomes.close()
    whole, own, passed = (1000 * (b - a) / items for a, b in zip(before, after, strict=True))
    print(f"{name}, {workers} workers: {whole:.2f} ms an item, {own:.2f} of them the caller's; {passed:.2f} ms elapsed")


def main() -> None:
    """Nothing; prints what an item costs."""
    mark = uuid.uuid4().hex
    os.environ["JSCAN_COST_RAY"] = mark
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (Path(__file__).parents[1], Path(__file__).parent)))
    for workers in (1, 2):
        measure("local", local.run, mark.encode(), workers)
    with ray.connected("local", device="cpu", cores=2, facts=dict) as cluster:
        for workers in (1, 2):
            measure("Ray", cluster.run, mark.encode(), workers)


if __name__ == "__main__":
    main()
