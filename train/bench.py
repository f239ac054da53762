"""Measures how fast whole scans are, where their time goes, what they take, and how both grow.

    python -m train.bench [--only scan,baselines] [--cameras FOLDER] [--images 20] [--counts 100,1000]

Everything is one run, so that what matters can be read as ratios: the scan against decoding alone and against the
papers' networks, in processor time on the same cores. Photographs of cameras are scanned where a folder of them is at
hand, else photographs made from scikit-image's. Writes `benchmarks/bench.md` and `benchmarks/bench.json`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from jscan import weights
from train import bench_baselines, bench_material
from train.measure_asked import ASKED, asked_table
from train.measure_report import plain, table, write_report
from train.measure_speed import BIG_MEGAPIXELS, machine, scan_files, watch

PARTS = ("scan", "decoded", "baselines", "start", "memory", "sizes", "counts", "workers")
CAMERAS = Path("../shared/data/cameras")
"""Where photographs of cameras lie, beside a checkout, unless the options say otherwise."""
REPEATS = 3
"""Short commands are timed this often; the fastest counts."""
PHOTO_MEGAPIXELS = 12

Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is to be measured, and on what."""

    parts: tuple[str, ...]
    photos: list[Path]
    more: list[Path]
    """All photographs at hand, for what the start of a scan of a few seconds would hide."""
    device: str = "cpu"
    big: float = BIG_MEGAPIXELS
    """Megapixels of the TIFF and the JPEG whose memory is measured."""
    sizes: tuple[float, ...] = (1, 4, 16, 64)
    """Megapixels of single images, which show how time grows."""
    counts: tuple[int, ...] = (100, 1000, 10_000)
    """Numbers of small images, which show how time and memory grow."""
    seconds: float = bench_baselines.SECONDS
    """How long each baseline is repeated."""

    def scan(self, sources: Sequence[Path], *options: str, cores: Sequence[int] = ()) -> Row:
        """Pace, memory and stages of one scan. Raises RuntimeError where an image was not estimated."""
        # A machine that is busy with other things may be slow, but is to be measured all the same.
        run, rows = scan_files(sources, "--device", self.device, "--timeout", "0", *options, cores=cores)
        bad = [r for r in rows if r["status"] != "ok"]
        if bad:
            raise RuntimeError(f"{len(bad)} of {len(rows)} images were not estimated: {bad[0]['error_code']}")
        return run


# --- parts ------------------------------------------------------------------------------------------------------------


def measure_scan(plan: Plan, folder: Path) -> Row:
    """The whole scan of the photographs."""
    return plan.scan(plan.photos)


def measure_decoded(plan: Plan, folder: Path) -> Row:
    """The scan of the same photographs as PNG files, of which the last compression has to be found out."""
    return {"as PNG files": plan.scan([bench_material.as_png(path, folder) for path in plan.photos])}


def measure_baselines(plan: Plan, folder: Path) -> Row:
    """Decoding alone and the papers' networks."""
    return bench_baselines.measure(plan.photos, plan.seconds)


def measure_start(plan: Plan, folder: Path) -> Row:
    """`jscan --help`, and the scan of one small image from the command to its results."""
    bench_material.write_small(folder, 1)
    (small,) = bench_material.jpegs(folder)
    runs = {
        "jscan --help": [watch("--help") for _ in range(REPEATS)],
        "scan of one image of 96 x 96": [plan.scan([small]) for _ in range(REPEATS)],
    }
    keys = ("seconds", "processor_seconds", "peak_mib")
    return {name: {key: min(run[key] for run in of) for key in keys} for name, of in runs.items()}


def measure_memory(plan: Plan, folder: Path) -> Row:
    """The peak memory of one worker for a photograph and for large images."""
    out = {}
    for kind, suffix, megapixels in (
        ("JPEG", ".jpg", PHOTO_MEGAPIXELS),
        ("JPEG", ".jpg", plan.big),
        ("TIFF", ".tif", plan.big),
    ):
        path = bench_material.write_sized(folder / f"big{suffix}", megapixels)
        out[f"{kind} of {megapixels:g} MP, one worker"] = plan.scan([path], "--workers", "1")
        path.unlink()
    return out


def measure_sizes(plan: Plan, folder: Path) -> Row:
    """Single images of growing size, with one worker."""
    out = {}
    for megapixels in plan.sizes:
        path = bench_material.write_sized(folder / "sized.jpg", megapixels)
        out[f"{megapixels:g} MP"] = plan.scan([path], "--workers", "1")
    return out


def measure_counts(plan: Plan, folder: Path) -> Row:
    """Growing numbers of small images."""
    out = {}
    for count in plan.counts:
        place = folder / str(count)
        place.mkdir()
        bench_material.write_small(place, count)
        run = plan.scan([place])
        out[f"{count:,} images"] = {**run, "processor_ms_per_image": 1000 * run["processor_seconds"] / count}
    return out


def measure_workers(plan: Plan, folder: Path) -> Row:
    """All photographs with one worker on one core, and with two on two; nothing where there is one core, or no say.

    The fastest of REPEATS scans each, in turn: on a machine that others use as well, one of three is slow by a tenth.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        return {}
    runs: dict[int, list[Row]] = {1: [], 2: []}
    for _ in range(REPEATS):
        for n, of in runs.items():
            of.append(plan.scan(plan.more, "--workers", str(n), cores=cores[:n]))
    return {
        f"{n} worker{'s' * (n > 1)} on as many cores": min(of, key=lambda run: float(run["seconds"]))
        for n, of in runs.items()
    }


MEASURES: dict[str, Callable[[Plan, Path], Row]] = {
    "scan": measure_scan,
    "decoded": measure_decoded,
    "baselines": measure_baselines,
    "start": measure_start,
    "memory": measure_memory,
    "sizes": measure_sizes,
    "counts": measure_counts,
    "workers": measure_workers,
}

# --- ratios -----------------------------------------------------------------------------------------------------------


def growth(units: Sequence[float], took: Sequence[float]) -> float | None:
    """What a further unit takes at the far end, over what it takes at the near end: 1 where time grows linearly.

    None for fewer than three measurements, or where the near end was lost in noise.
    """
    if len(units) < 3:
        return None
    near, far = ((took[k + 1] - took[k]) / (units[k + 1] - units[k]) for k in (0, len(units) - 2))
    return far / near if near > 0 else None


def ratios(measured: Row) -> Row:
    """What the parts say of each other, by sentence; only what was measured."""
    out: Row = {}
    scan, baselines = measured.get("scan"), measured.get("baselines", {})
    rate = "mp_per_processor_second"
    if scan is not None:
        for name, run in baselines.items():
            if name.startswith("decoding"):
                out["processor time of the scan / of decoding alone"] = run[rate] / scan[rate]
            else:
                out[f"MP per processor second of the scan / of {name}"] = scan[rate] / run[rate]
    for part, unit, what in (("sizes", "megapixels", "megapixel"), ("counts", "images", "image")):
        runs = list(measured.get(part, {}).values())
        found = growth([r[unit] for r in runs], [r["processor_seconds"] for r in runs])
        if found is not None:
            out[f"processor time of a further {what}, at the far end / at the near end"] = found
        if part == "counts" and len(runs) > 1:
            # A worker takes more while it sees its first shapes of tiles; the parent is what could grow with the run.
            for key, whose in (("peak_mib", "the largest process"), ("parent_mib", "the parent")):
                if key in runs[0] and key in runs[-1]:
                    out[f"memory of {whose}, most images / fewest"] = runs[-1][key] / runs[0][key]
    both = list(measured.get("workers", {}).values())
    if len(both) == 2:
        out["MP/s of 2 workers / of 1"] = both[1]["mp_per_second"] / both[0]["mp_per_second"]
        out["processor time of 2 workers / of 1"] = both[1]["processor_seconds"] / both[0]["processor_seconds"]
    return out


# --- report -----------------------------------------------------------------------------------------------------------


def report(results: Row) -> str:
    """All figures as Markdown."""
    measured = results["bench"]
    lines = ["# Speed and memory", "", f"`{results['command']}`, {results['data']}", ""]
    if results["ratios"]:
        lines += ["## Ratios", "", *table("ratio", results["ratios"])]
    if results["asked"]:
        lines += ["## Asked for", "", *table("measured", results["asked"])]
    if "scan" in measured:
        scan = measured["scan"]
        lines += ["## The whole scan", "", *table("scan", {results["data"]: plain(scan)}), "Where its time goes:", ""]
        lines += table("stage", scan["stages"])
    titles = {
        "decoded": "The same photographs, decoded",
        "baselines": "Decoding alone, and the papers' networks, on one thread",
        "start": "Start",
        "memory": "Memory of a worker",
        "sizes": "How time grows with the size of an image",
        "counts": "How time and memory grow with the number of images",
        "workers": "From one worker to two",
    }
    for part, title in titles.items():
        if measured.get(part):
            lines += [f"## {title}", "", *table(part, {name: plain(run) for name, run in measured[part].items()})]
    lines += ["## Measured on", "", *table("", results["machine"])]
    lines += ["The load is the mean number of processes that wanted a core in the minute before each part.", ""]
    return "\n".join([*lines, *table("part", results["parts"])])


def _asked(measured: Row) -> Row:
    """What is asked for and what was reached, of the parts that were measured."""
    results = {"bench": measured, "ratios": ratios(measured)}
    wanted = {line.what for line in ASKED if line.at[1] in results.get(line.at[0], {})}
    return {name: line for name, line in asked_table(results).items() if name in wanted}


# --- command line -----------------------------------------------------------------------------------------------------


def run(plan: Plan, command: str, data: str, progress: Callable[[str], None] = lambda text: None) -> Row:
    """Everything measured, part by part, with the ratios."""
    measured: Row = {}
    spent: Row = {}
    for part in plan.parts:
        progress(f"measuring {part} ...")
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as name:
            measured[part] = MEASURES[part](plan, Path(name))
        spent[part] = {"seconds": time.perf_counter() - start, "load": load}
    return {
        "command": command,
        "data": data,
        "machine": machine(),
        "models": {name: weights.manifest(name)["digest"] for name in weights.names()},
        "parts": spent,
        "bench": measured,
        "ratios": ratios(measured),
        "asked": _asked(measured),
    }


def _parts(text: str) -> tuple[str, ...]:
    wanted = text.split(",")
    if unknown := [w for w in wanted if w not in PARTS]:
        raise argparse.ArgumentTypeError(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return tuple(p for p in PARTS if p in wanted)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is no list of numbers such as 1,4,16") from error
    if min(found) <= 0 or list(found) != sorted(set(found)):
        raise argparse.ArgumentTypeError(f"{text}: name positive numbers, the least first")
    return found


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=_parts, default=PARTS, metavar=",".join(PARTS), help="parts to measure; all")
    parser.add_argument("--cameras", type=Path, help="folder of photographs as cameras wrote them")
    parser.add_argument("--images", type=int, default=20, help="photographs, evenly spread")
    parser.add_argument("--device", default="cpu", help="as for jscan scan")
    parser.add_argument("--big", type=float, default=BIG_MEGAPIXELS, help="megapixels of the large images of `memory`")
    parser.add_argument("--sizes", type=_numbers, default=Plan.sizes, help="megapixels of the images of `sizes`")
    parser.add_argument("--counts", type=_numbers, default=Plan.counts, help="numbers of small images of `counts`")
    parser.add_argument("--seconds", type=float, default=Plan.seconds, help="how long each baseline is repeated")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/bench"), help="without `.md` and `.json`")
    o = parser.parse_args(arguments)
    if o.cameras is not None and not o.cameras.is_dir():
        parser.error(f"{o.cameras} is no folder")
    cameras = o.cameras or (CAMERAS if CAMERAS.is_dir() else None)
    cv2.setNumThreads(1)
    given = (f"--{k} {','.join(f'{v:g}' for v in getattr(o, k))}" for k in ("sizes", "counts") if k in o.only)
    command = " ".join(["python -m train.bench", f"--only {','.join(o.only)}", f"--images {o.images}", *given])
    with tempfile.TemporaryDirectory() as name:
        if cameras is not None:
            more = bench_material.jpegs(cameras)
            photos = bench_material.spread(more, o.images)
            data = f"{len(photos)} photographs as cameras wrote them"
        else:
            photos = more = bench_material.write_photographs(Path(name), o.images)
            data = f"{len(photos)} photographs made from scikit-image's"
        counts = tuple(int(n) for n in o.counts)
        plan = Plan(o.only, photos, more, o.device, o.big, o.sizes, counts, o.seconds)
        results = run(plan, command, data, lambda text: print(text, file=sys.stderr, flush=True))
    said = report(results)
    print(said)
    write_report(o.out, said, results)


if __name__ == "__main__":
    main()
