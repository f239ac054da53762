"""A long run under fire: many small images, some of them hostile, killed again and again, and gone on with.

    python tests/soak.py --images 20000 --kills 10

Prints what was measured, and exits with 1 where an input was lost, doubled or computed again, or rows differ from those
of an unbroken run. The models are the real ones; with `--empty` a scanner takes their place that reads the file and
gives a full row at once, which shows in a minute what the parent takes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import cost
import numpy as np
from material import file_of, photo
from results import read_results

from jscan import parquet
from jscan.limits import usable_cores
from jscan.records import ScanRecord
from jscan.verify import verify

ROOT = Path(__file__).resolve().parents[1]
MAIN = """
import sys
import jscan.run
from jscan.cli import main
jscan.run.SHARD_ROWS = {shard}
if {empty}:
    import cost
    jscan.run.open_in_worker = cost.open_empty
if __name__ == "__main__":
    main()
"""
HOSTILE = 0.01
COPIES = 0.01


def make_images(folder: Path, count: int, seed: int) -> None:
    """Nothing; the folder holds so many small files, hostile ones and copies of others among them."""
    rng = np.random.default_rng(seed)
    pictures = [photo(name) for name in ("astronaut", "coffee", "rocket", "chelsea")]
    last = b""
    for i in range(count):
        below = folder / f"{i // 1000:03}"
        below.mkdir(parents=True, exist_ok=True)
        picture = pictures[i % len(pictures)]
        side = int(rng.integers(64, 129))
        y, x = (int(rng.integers(0, n - side)) for n in picture.shape[:2])
        data = file_of(picture[y : y + side, x : x + side], quality=int(rng.integers(60, 97)))
        if rng.random() < HOSTILE:
            data = _hostile(data, int(rng.integers(0, 6)), rng)
        elif rng.random() < COPIES and last:
            data = last
        (below / f"{i:06}.jpg").write_bytes(data)
        last = data


def _hostile(data: bytes, kind: int, rng: np.random.Generator) -> bytes:
    match kind:
        case 0:
            return b""
        case 1:
            return data[: int(rng.integers(2, len(data)))]
        case 2:
            at = data.index(b"\xff\xc0")  # the frame header: 65,535 x 65,535
            return data[: at + 5] + b"\xff\xff\xff\xff" + data[at + 9 :]
        case 3:
            return rng.bytes(500)
        case 4:
            return data + bytes(4096)
        case _:
            spoiled = bytearray(data)
            for at in rng.integers(2, len(data), 20):
                spoiled[at] = int(rng.integers(0, 256))
            return bytes(spoiled)


@dataclass(slots=True)
class Watched:
    """One process, and what it took."""

    code: int
    seconds: float
    first: int
    """Resident memory in KiB when the first shard was committed."""
    peak: int
    """The most, in KiB."""


def watched(command: list[str], out: Path, log: Path | None = None, kill_after: int | None = None) -> Watched:
    """The command's end; killed when its log tells of so many rows, where that is given."""
    started = time.monotonic()
    first = peak = 0
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}) as process:
        while process.poll() is None:
            time.sleep(0.1)
            now = _resident(process.pid)
            peak = max(peak, now)
            if not first and next((out.parent / f"{out.name}.run").glob("0*.parquet"), None):
                first = now
            if kill_after is not None and log is not None and _lines(log) > kill_after:
                process.kill()
    return Watched(process.returncode, time.monotonic() - started, first, peak)


def _lines(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def _resident(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


def rows_of(out: Path) -> list[ScanRecord]:
    """The rows, timings aside."""
    return [replace(r, decode_ms=None, estimate_ms=None) for r in read_results(out)]


def committed(out: Path) -> set[str]:
    """Paths that have their row in the journal; copies aside, which are read again where their original was lost."""
    paths: set[str] = set()
    for shard in (out.parent / f"{out.name}.run").glob("0*.parquet"):
        with parquet.reader(shard) as stored:
            for row in stored.read(columns=["path", parquet.COPY]).to_pylist():
                if not row[parquet.COPY]:
                    paths.add(row["path"])
    return paths


def logged(log: Path) -> list[str]:
    """The paths of all rows that were made since the log began."""
    if not log.exists():
        return []
    events = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    return [e["path"] for e in events if e["event"] == "row"]


def _scan(main: Path, images: Path, out: Path, workers: int) -> list[str]:
    options = ["--out", str(out), "--workers", str(workers), "--device", "cpu", "--quiet"]
    return [sys.executable, str(main), "scan", str(images), *options]


def soak(base: Path, images: int, kills: int, seed: int, workers: int, *, empty: bool) -> bool:
    """Whether all held."""
    main = base / "main.py"
    main.write_text(MAIN.format(shard=min(1000, max(10, images // 100)), empty=empty))
    make_images(base / "in", images, seed)
    whole, broken = base / "whole.parquet", base / "broken.parquet"
    run = watched(_scan(main, base / "in", whole, workers), whole)
    growth = (run.peak - run.first) / 1024
    print(f"unbroken: {images} inputs in {run.seconds:.0f} s, exit code {run.code}")
    print(
        f"parent: {run.first / 1024:.0f} MiB at the first shard, {run.peak / 1024:.0f} MiB at most: +{growth:.0f} MiB"
    )
    chance = random.Random(seed)
    again, total, log = 0, 0, base / "log"
    for number in range(kills + 1):
        there = committed(broken)
        log.unlink(missing_ok=True)
        command = [*_scan(main, base / "in", broken, workers), "--json-log", str(log)]
        last = number == kills
        # By rows and not by time: however fast the machine, there are as many kills as were asked for.
        rows = None if last else int(images * chance.uniform(0.1, 1.0) / (kills + 1))
        end = watched(command, broken, log, rows)
        made = logged(log)
        again += len(there & set(made))
        total += len(made)
        print(f"start {number + 1}: {len(there)} rows there, {len(made)} made, exit code {end.code}", flush=True)
        if end.code != -9:
            break
    one, other = rows_of(whole), rows_of(broken)
    same = one == other
    wrong = [t for path in (whole, broken) for t in verify(path).troubles]
    names = [r.path for r in other]
    lost, doubled = images - len(set(names)), len(names) - len(set(names))
    print(f"lost {lost}, doubled {doubled}, computed again though committed {again}, made in all {total}")
    print(f"rows equal those of the unbroken run: {same}; verify: {len(wrong)} troubles")
    for trouble in wrong[:10]:
        print("  ", trouble)
    return same and not wrong and lost == doubled == again == 0


def main() -> int:
    """0 where all held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", type=int, default=2000, help="images of the comparison with a plain loop; 0: none")
    parser.add_argument("--empty", action="store_true", help="with a scanner that computes nothing")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jscan-soak-") as base:
        if given.plain and not given.empty:
            cost.report(Path(base), given.plain, 96, given.seed, times=1)
        good = soak(Path(base), given.images, given.kills, given.seed, given.workers, empty=given.empty)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
