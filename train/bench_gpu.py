"""Measures what a GPU changes: how far its answers are from those of the CPU, and how fast whole scans are with it.

    python -m train.bench_gpu FOLDER [--images 20] [--copies 8] [--workers 1,4,16]

FOLDER holds photographs. Answers of `--thorough` are compared with those of the CPU, and with a second time on the GPU.
The pace of scans is that between a small and a large number of images, so that the seconds in which workers start do
not count; beside it stand decoding alone on all cores, and the share of time in which the GPU was busy. Writes
`benchmarks/gpu.md` and `benchmarks/gpu.json`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from jscan.limits import usable_cores
from jscan.records import ScanResult
from jscan.scan import Scanner
from train import bench_baselines, bench_material
from train.measure_report import table, write_report
from train.measure_speed import machine, scan_files

MOST_MEGAPIXELS = 4.0
"""Larger photographs are not compared: everything of them takes the CPU too long."""
FACTS = (
    "score",
    "suspicion of a cell",
    "quality factor of a cell",
    "flag of a cell",
    "share of the Q1 map's steps that differ",
    "images called otherwise",
    "images with other regions",
    "images with another first table",
    "images with another grid shift",
)
"""What is compared."""
CALLED = 0.5
"""Score from which an image is called inconsistent."""

# --- answers ----------------------------------------------------------------------------------------------------------


def _largest(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """The largest difference between two maps; infinite where only one of them says something."""
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return float("inf")
    return float(np.nanmax(np.abs(a - b), initial=0.0))


def differences(one: ScanResult, other: ScanResult) -> dict[str, float]:
    """How far two results for one image are apart. Raises ValueError where one of them has no maps."""
    a, b = one.record, other.record
    if one.maps is None or other.maps is None or a.score is None or b.score is None:
        raise ValueError(f"{a.path}: {a.error or b.error}")
    known = ~np.isnan(one.maps.q1)
    steps = float((one.maps.q1 != other.maps.q1)[known].mean()) if known.any() else 0.0
    values = (
        abs(a.score - b.score),
        _largest(one.maps.suspicion, other.maps.suspicion),
        _largest(one.maps.qf, other.maps.qf),
        _largest(one.maps.flag, other.maps.flag),
        steps,
        float((a.score >= CALLED) != (b.score >= CALLED)),
        float(_boxes(one) != _boxes(other)),
        float(a.q1_background != b.q1_background),
        float(a.grid_shift != b.grid_shift),
    )
    return dict(zip(FACTS, values, strict=True))


def _boxes(result: ScanResult) -> list[tuple[int, ...]]:
    regions = result.record.regions or ()
    return [(r.x, r.y, r.width, r.height) for r in regions]


def summary(found: list[dict[str, float]]) -> dict[str, float]:
    """The largest difference of any image, and how many images differ."""
    return {fact: (sum if fact.startswith("images") else max)(f[fact] for f in found) for fact in FACTS}


def _by_cpu(path: Path) -> ScanResult:
    cv2.setNumThreads(1)
    return Scanner(device="cpu", thorough=True).scan(path)


def answers(paths: list[Path], device: str) -> dict[str, dict[str, float]]:
    """How far the device's answers are from the CPU's, and from its own a second time."""
    with ProcessPoolExecutor(min(len(paths), usable_cores()), mp_context=get_context("spawn")) as pool:
        pending = [pool.submit(_by_cpu, p) for p in paths]
        scanner = Scanner(device=device, thorough=True)  # two shortcuts are taken on a GPU as well
        first, second = ([scanner.scan(p) for p in paths] for _ in range(2))
        wanted = [p.result() for p in pending]
    return {
        f"{scanner.provider} and CPU": summary([differences(a, b) for a, b in zip(first, wanted, strict=True)]),
        f"{scanner.provider} and itself": summary([differences(a, b) for a, b in zip(first, second, strict=True)]),
    }


# --- pace -------------------------------------------------------------------------------------------------------------


@dataclass
class Busy:
    """Shares of the time in which the GPU computed, as its driver says, one for each look."""

    shares: list[float]

    @property
    def mean(self) -> float | None:
        """The mean of those that are not zero: before and after a scan nothing runs."""
        working = [s for s in self.shares if s > 0]
        return sum(working) / len(working) if working else None


@contextmanager
def watched() -> Iterator[Busy]:
    """What `nvidia-smi` says of the first GPU, five times a second; nothing where there is none."""
    busy, done = Busy([]), threading.Event()

    def look(source: Any) -> None:
        for line in source:
            if done.is_set():
                return
            if line.strip().isdigit():
                busy.shares.append(int(line) / 100)

    ask = ["nvidia-smi", "--id=0", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200"]
    try:
        child = subprocess.Popen(ask, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        yield busy
        return
    reader = threading.Thread(target=look, args=(child.stdout,), daemon=True)
    reader.start()
    try:
        yield busy
    finally:
        done.set()
        child.terminate()
        child.wait()


def write_copies(paths: list[Path], count: int, folder: Path) -> None:
    """Nothing; the folder holds `count` copies of each, which differ in a few bytes behind the image."""
    for k in range(count):
        for path in paths:
            data = path.read_bytes() + k.to_bytes(4, "big")
            (folder / f"{k:03}_{path.name}").write_bytes(data)


def _decoded(seconds: float, paths: list[Path]) -> float:
    """Megapixels decoded in a second by one process."""
    files, pixels, start = [p.read_bytes() for p in paths], 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        pixels += sum(bench_baselines.decoded_pixels(data) for data in files)
    return pixels / 1e6 / (time.perf_counter() - start)


def decoding(paths: list[Path], cores: int, seconds: float) -> float:
    """Megapixels a second of decoding alone, by as many processes as there are cores."""
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        list(pool.map(partial(_decoded, 0.2), [paths] * cores))  # all processes are there when it counts
        return sum(pool.map(partial(_decoded, seconds), [paths] * cores))


def pace(paths: list[Path], device: str, workers: int, copies: int) -> dict[str, Any]:
    """Seconds of scanning the photographs once and `copies` times, and what a further megapixel takes."""
    runs = []
    with watched() as busy:
        for count in (1, copies):
            with tempfile.TemporaryDirectory() as name:
                write_copies(paths, count, Path(name))
                run, rows = scan_files([Path(name)], "--device", device, "--timeout", "0", "--workers", str(workers))
                bad = [r for r in rows if r["status"] != "ok"]
                if bad:
                    raise RuntimeError(f"{len(bad)} of {len(rows)} images were not estimated: {bad[0]['error_code']}")
                runs.append(run)
    (few, many), seconds = runs, [r["seconds"] for r in runs]
    return {
        "images": many["images"],
        "megapixels": many["megapixels"],
        "seconds": many["seconds"],
        "seconds of the first images, start included": few["seconds"],
        "MP/s, start included": many["mp_per_second"],
        "MP/s": (many["megapixels"] - few["megapixels"]) / max(seconds[1] - seconds[0], 1e-9),
        "processor seconds per MP": many["processor_seconds_per_mp"],
        "GPU busy": busy.mean,
        "peak MiB": many["peak_mib"],
        "stages": many["stages"],
    }


# --- command line -----------------------------------------------------------------------------------------------------


def report(results: dict[str, Any]) -> str:
    """All figures as Markdown."""
    lines = ["# On a GPU", "", f"`{results['command']}`", ""]
    if results["answers"]:
        by_fact = {fact: {who: of[fact] for who, of in results["answers"].items()} for fact in FACTS}
        lines += [
            "## How far answers are apart",
            "",
            f"Of {results['compared']} photographs; differences are the largest of any.",
            "",
        ]
        lines += table("", {fact: {who: f"{v:.2g}" for who, v in row.items()} for fact, row in by_fact.items()})
    rates = {name: {k: v for k, v in run.items() if k != "stages"} for name, run in results["pace"].items()}
    lines += ["## Pace", "", *table("workers", rates)]
    for name, run in results["pace"].items():
        lines += [f"Stages, {name}:", "", *table("stage", run["stages"])]
    lines += [f"Decoding alone, on all cores: {results['decoding']:.0f} MP/s.", ""]
    return "\n".join([*lines, "## Measured on", "", *table("", results["machine"])])


def _gpu() -> str:
    ask = ["nvidia-smi", "--id=0", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of JPEG photographs")
    parser.add_argument("--device", default="cuda", help="as for jscan scan")
    parser.add_argument("--images", type=int, default=20, help="photographs, evenly spread")
    parser.add_argument("--compared", type=int, default=12, help="of these, at most so many are compared; 0: none")
    parser.add_argument("--copies", type=int, default=8, help="how often each is scanned")
    parser.add_argument("--workers", default="1,4,16", help="numbers of workers to measure")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long decoding alone is measured")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/gpu"), help="without `.md` and `.json`")
    o = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    photos = bench_material.spread(bench_material.jpegs(o.folder), o.images)
    if not photos or o.copies < 2:
        parser.error(f"{o.folder}: no JPEG file in it" if not photos else "--copies: two or more")
    small = [p for p in photos if bench_baselines.decoded_pixels(p.read_bytes()) <= MOST_MEGAPIXELS * 1e6]

    def said(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    results: dict[str, Any] = {
        "command": f"python -m train.bench_gpu FOLDER --images {o.images} --copies {o.copies} --workers {o.workers}",
        "machine": {**machine(), "gpu": _gpu()},
        "compared": min(o.compared, len(small)),
        "answers": {},
        "pace": {},
        "decoding": decoding(photos, usable_cores(), o.seconds),
    }
    if o.compared:
        said("comparing answers ...")
        results["answers"] = answers(bench_material.spread(small, o.compared), o.device)
        said(str(results["answers"]))
    for workers in map(int, o.workers.split(",")):
        said(f"scanning with {workers} workers ...")
        results["pace"][f"{workers} workers"] = pace(photos, o.device, workers, o.copies)
        write_report(o.out, report(results), results)  # a machine that is lent may be gone before the last
    print(report(results))


if __name__ == "__main__":
    main()
