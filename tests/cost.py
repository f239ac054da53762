"""What a run costs beyond the scans themselves: supervision, journal and results, against a plain loop in one process.

    python tests/cost.py --side 512 --images 300

Both scan the same images, in turns of a second on one core, so that whatever else the machine does falls on both, and
both are measured in processor time, of all their processes. What either takes for one image is left out: imports,
models, the start and the end of processes. The images are scanned twice so: with the real models, and by a
scanner that reads the file, computes nothing and gives a full row, which shows the cost by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from material import file_of, photo

import jscan.run
from jscan import __version__, reading
from jscan.records import Evidence, ImageRef, Region, ScanRecord, ScanResult

ROOT = Path(__file__).resolve().parents[1]
TURN = 1.0
"""Seconds."""
SAID = "JSCAN_COST"
"""The variable that names the folder where the processes say what they had taken before the first image."""
EMPTY = "JSCAN_COST_EMPTY"


class EmptyScanner:
    """Reads and hashes the file, as every scan does, and gives a row in which all columns are filled."""

    provider = "CPU"
    models: tuple[str, ...] = tuple(f"model-{i}@000000000000" for i in range(5))

    def __init__(self) -> None:
        region = Region(8, 16, 24, 32, 500, 0.9, 75.0, (4,) * 15, (1, 2), "other_q1")
        self._row = ScanRecord(
            "", b"", format="jpeg", frames=1, width=64, height=64, components=3, subsampling="4:2:0", progressive=False,
            q2_luma=tuple(range(1, 65)), q2_chroma=tuple(range(1, 65)), qf2=90.0, encoder="ijg", qf_mean=90.0,
            qf_p10=90.0, qf_p90=90.0, compressed_fraction=1.0, q1_background=(4,) * 15, qf1_background=75.0,
            double_fraction=0.5, grid_shift=(0, 0), n_regions=1, regions=(region,), score=0.9, coverage=0.5,
            reasons=("a region has another history",), models=self.models, jscan_version=__version__,
            decode_ms=1.0, estimate_ms=1.0,
        )  # fmt: skip

    def scan(
        self,
        source: ImageRef | Path,
        *,
        rgb: bool = False,
        known: Callable[[Evidence], bool] | None = None,
        sized: Callable[[int], None] | None = None,
    ) -> ScanResult:
        """The row, no maps, no image."""
        ref = source if isinstance(source, ImageRef) else ImageRef(str(source), os.fsencode(source))
        _, found = reading.read(ref)
        here = {"path": ref.path, "path_bytes": ref.path_bytes, "size": found.size, "mtime": found.mtime}
        row = replace(self._row, sha256=found.sha256, **here)
        return ScanResult(row, None, None, known=known is not None and known(found))


def open_empty(*_: Any) -> EmptyScanner:
    """In place of `jscan.run.open_in_worker`, where only the parent is looked at."""
    return EmptyScanner()


def open_scanner() -> Any:
    """The scanner that is measured, its models opened by the image that is left out."""
    from jscan.scan import Scanner

    scanner: Any = EmptyScanner() if os.environ.get(EMPTY) else Scanner(device="cpu", threads=1)
    scanner.scan(Path(os.environ[SAID]) / "first.jpg")
    return scanner


def open_in_worker(*_: Any) -> Any:
    """In place of `jscan.run.open_in_worker`; says what the process had taken until here."""
    scanner = open_scanner()
    _say("worker")
    return scanner


def plain_loop(images: str) -> None:
    """Nothing; every image was scanned."""
    scanner = open_scanner()
    _say("plain")
    for path in sorted(Path(images).iterdir()):
        scanner.scan(path)


def whole_run(images: str, out: str) -> None:
    """Nothing; `jscan scan` with one worker."""
    from jscan.cli import main

    jscan.run.open_in_worker = open_in_worker
    run_scan = jscan.run.run_scan

    def begun(*args: Any, **kwargs: Any) -> Any:
        _say("parent")
        return run_scan(*args, **kwargs)

    jscan.run.run_scan = begun
    sys.argv[1:] = ["scan", images, "--out", out, "--workers", "1", "--device", "cpu", "--quiet"]
    main()


def _say(who: str) -> None:
    (Path(os.environ[SAID]) / f"{who}.began").write_text(json.dumps(time.process_time()))


@dataclass(frozen=True, slots=True)
class Cost:
    """Processor seconds over the same images, without what one image takes."""

    images: int
    plain: float
    whole: float

    @property
    def ms(self) -> float:
        """What the run took beyond the plain loop, in milliseconds an image."""
        return 1000 * (self.whole - self.plain) / self.images

    @property
    def percent(self) -> float:
        """The same, of the plain loop."""
        return 100 * (self.whole / self.plain - 1)


def measure(images: Path, *, empty: bool) -> Cost:
    """The cost over a folder of images."""
    paths = sorted(images.iterdir())
    with _one_core(), tempfile.TemporaryDirectory(prefix="jscan-cost-") as base:
        one = Path(base) / "one"
        one.mkdir()
        shutil.copy(paths[0], one)
        calls = {}
        for name, folder in (("one", one), ("all", images)):
            said = Path(base) / f"run-{name}"
            calls[Path(base) / f"plain-{name}"] = f"plain_loop({str(folder)!r})"
            calls[said] = f"whole_run({str(folder)!r}, {str(said / 'out')!r})"
        for said in calls:
            said.mkdir()
            shutil.copy(paths[0], said / "first.jpg")
        took = {said.name: seconds for said, seconds in in_turns(calls, {EMPTY: "1" if empty else ""}).items()}
        for said in calls:
            took[said.name] -= sum(json.loads(p.read_text()) for p in said.glob("*.began"))
    return Cost(len(paths) - 1, took["plain-all"] - took["plain-one"], took["run-all"] - took["run-one"])


def in_turns(calls: Mapping[Path, str], variables: Mapping[str, str]) -> dict[Path, float]:
    """Processor seconds that each call took, its children with it; one of them runs at a time, for `TURN` each."""
    environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
    # `-c`, so that no worker runs this file a second time as its main program.
    running = [
        subprocess.Popen(
            [sys.executable, "-c", f"from cost import plain_loop, whole_run; {call}"],
            env={**environment, SAID: str(said)},
            start_new_session=True,
        )
        for said, call in calls.items()
    ]
    took: dict[int, float] = {}
    for process in running:
        os.killpg(process.pid, signal.SIGSTOP)
    while len(took) < len(running):
        for process in running:
            if process.pid in took:
                continue
            os.killpg(process.pid, signal.SIGCONT)
            until = time.monotonic() + TURN
            while process.pid not in took and time.monotonic() < until:
                time.sleep(0.01)
                ended, status, used = os.wait4(process.pid, os.WNOHANG)
                if ended:
                    process.returncode = os.waitstatus_to_exitcode(status)
                    assert process.returncode == 0, process.args
                    took[ended] = used.ru_utime + used.ru_stime
            if process.pid not in took:
                os.killpg(process.pid, signal.SIGSTOP)
    return {said: took[process.pid] for said, process in zip(calls, running, strict=True)}


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """A context in which this process and its children have one core: threads that spin beside are not measured."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def make_images(folder: Path, count: int, side: int, seed: int) -> None:
    """Nothing; the folder holds so many different square images."""
    rng = np.random.default_rng(seed)
    picture = photo()
    picture = np.tile(picture, (2 + side // picture.shape[0], 2 + side // picture.shape[1], 1))
    folder.mkdir()
    for i in range(count):
        y, x = (int(rng.integers(0, n - side)) for n in picture.shape[:2])
        noise = rng.integers(0, 8, (side, side, 3), dtype=np.uint8)
        data = file_of(picture[y : y + side, x : x + side] // 2 + noise, quality=int(rng.integers(70, 97)))
        (folder / f"{i:05}.jpg").write_bytes(data)


def report(base: Path, count: int, side: int, seed: int, times: int) -> None:
    """Nothing; prints the cost over new images."""
    images = base / f"cost-{side}"
    make_images(images, count, side, seed)
    for empty, what in ((False, "with the models"), (True, "by a scanner that only reads")):
        found = [measure(images, empty=empty) for _ in range(times)]
        middle = sorted(found, key=lambda c: c.ms)[times // 2]
        spread = "" if times == 1 else f" ({times} times: {', '.join(f'{c.ms:.2f}' for c in found)})"
        each = 1000 * statistics.median(c.plain for c in found) / count
        print(
            f"{count} images of {side} x {side} {what}: {each:.2f} ms of processor time an image in a plain loop, "
            f"{middle.ms:.2f} ms more in jscan scan{spread}, {middle.percent:+.1f} %",
            flush=True,
        )


def main() -> None:
    """Nothing; prints the cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--side", type=int, nargs="+", default=[128, 512], help="of the square images, in pixels")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--times", type=int, default=3, help="measurements, of which the middle one is given")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jscan-cost-") as base:
        for side in given.side:
            report(Path(base), given.images, side, given.seed, given.times)


if __name__ == "__main__":
    main()
