"""Measures the exported models and whole scans, and compares the figures with what is asked for.

    python -m train.evaluate DATA [--forge forge.py] [--cameras FOLDER] [--papers FOLDER] [--only q1,qf] [--record]

DATA is a folder of uncompressed images; each of its sub-folders is one set. What DATA and the options do not give the
means to measure is left out. Writes `evaluation.md`, `evaluation.csv` and `evaluation.json`; `--record` also writes
each model's own figures into its manifest, where `jscan models` finds them. `--quick` takes minutes; train/README.md
says what each section measures and how long it takes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2

from jscan import context, q1map, qfmap, suspicion, weights
from train.measure_asked import Results, asked_table
from train.measure_drawings import measure_drawings
from train.measure_files import measure_cameras, measure_forge, measure_papers
from train.measure_lossless import WINDOWS_PER_SCAN, measure_lossless
from train.measure_paper import measure_networks
from train.measure_processed import SAVED, measure_processed
from train.measure_processed import WINDOWS_PER_SCAN as PER_PICTURE
from train.measure_q1 import WINDOWS_PER_IMAGE, measure_q1, measure_q1_images
from train.measure_qf import measure_qf, measure_qf_sizes
from train.measure_report import (
    OF_SETS,
    SECTIONS,
    csv_text,
    plain,
    report,
    rounded,
    write_report,
    write_text,
)
from train.measure_rows import IMAGE_ROWS, LOSSLESS_ROWS, MAIN_ROWS, Q1_ROWS
from train.measure_sets import THOROUGH, Images, image_sets
from train.measure_sizes import CONTRASTS, QF2, SIZES, measure_sizes
from train.measure_sizes import WINDOWS_PER_SCAN as WINDOWS_PER_SQUARE
from train.measure_speed import machine
from train.measure_tables import GRIDS, measure_tables, tables
from train.measure_tables import WINDOWS_PER_SCAN as WINDOWS_PER_TABLE
from train.process import PROCESSES

QUICK = {"patches": 100, "images": 3, "per_kind": 4}
"""What `--quick` stands for."""
CORE_SECONDS = {
    "q1": 0.003,
    "q1-images": 0.45,
    "lossless": 1.4,
    "qf": 10.0,
    "qf-sizes": 43.0,
    "sizes": 0.8,
    "processed": 0.8,
    "tables": 0.9,
}
"""What a window, a scan of a whole image, two such scans, and an image took on one core, measured on Kodak and CLIC."""
OF_PATCHES = {"q1", "q1-images", "lossless", "sizes", "processed", "tables", "papers-networks"}
"""Sections whose size `--patches` tells."""
SHARED = Path("../shared")
"""Where the inputs that are no part of the project lie, beside a checkout, unless the options say otherwise."""

# --- the models' own figures ------------------------------------------------------------------------------------------


def model_metrics(results: Results) -> dict[str, dict[str, Any]]:
    """What each model's manifest is to say, for the models whose section was measured."""
    out: dict[str, dict[str, Any]] = {}
    if "q1" in results:
        main = [row.name for row in MAIN_ROWS]
        out[q1map.MODEL] = {
            name: {row: plain(rows[row]) for row in main if row in rows} for name, rows in results["q1"].items()
        }
    if "q1-images" in results:
        # What the maps hold is what the context model says, but where the image as a whole tells a step.
        out[context.MODEL] = {
            name: {row: plain(found) for row, found in rows.items()} for name, rows in results["q1-images"].items()
        }
    if "qf" in results:
        out[qfmap.MODEL] = {
            name: {**plain(found), "mae_by_qf": {q: line["mae"] for q, line in found["by_qf"].items()}}
            for name, found in results["qf"].items()
        }
    if "forge" in results:
        kinds = results["forge"]["kinds"]
        of_pixels = {kind for kind in kinds if "_png" in kind}
        for name, wanted in ((suspicion.JPEG_MODEL, set(kinds) - of_pixels), (suspicion.PIXEL_MODEL, of_pixels)):
            # The scores of all kinds together are those of both models.
            picked = {kind: line for kind, line in kinds.items() if kind in wanted}
            out[name] = {"forgeries": picked, "score of both models": results["forge"]["score"]}
    if "papers-networks" in results:
        sets = results["papers-networks"]
        # Keys such as "accuracy densenet-qf90"; those of jscan's own networks stand in their manifests.
        ends = {key.partition(" ")[2] for rows in sets.values() for line in rows.values() for key in line}
        for network in sorted(ends - {"", "comb"}):
            out[network] = {
                name: {row: own for row, line in rows.items() if (own := _of_network(line, network))}
                for name, rows in sets.items()
            }
    return {
        name: {**figures, "command": results["command"], "data": ", ".join(results["sets"])}
        for name, figures in out.items()
    }


def _of_network(line: dict[str, Any], network: str) -> dict[str, Any]:
    """The figures of a line whose names end in the network's, under what is left of them."""
    end = f" {network}"
    return {key.removesuffix(end): value for key, value in line.items() if key.endswith(end)}


def record(results: Results, folder: Path) -> list[str]:
    """Names of the models below `folder` whose manifests now hold their figures."""
    done = []
    for name, figures in model_metrics(results).items():
        path = folder / name / "manifest.json"
        manifest = json.loads(path.read_text(encoding="utf-8"))
        manifest["metrics"] = rounded(figures)
        write_text(path, json.dumps(manifest, indent=1) + "\n")
        done.append(name)
    return done


# --- command line -----------------------------------------------------------------------------------------------------


def _sections(text: str) -> tuple[str, ...]:
    wanted = tuple(text.split(","))
    if unknown := [w for w in wanted if w not in SECTIONS]:
        raise argparse.ArgumentTypeError(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    return wanted


def _existing(path: Path | None, default: Path) -> Path | None:
    """The path asked for, else the default where there is one."""
    return path if path is not None else default if default.exists() else None


def _spread(paths: list[Path], most: int | None) -> list[Path]:
    """At most this many of the paths, from the first to the last."""
    if most is None or len(paths) <= most:
        return paths
    return [paths[k * len(paths) // most] for k in range(most)]


def expected_minutes(section: str, sets: Images, patches: int, workers: int) -> float | None:
    """About how long a section takes on that many cores; None where it is not known."""
    if section not in CORE_SECONDS:
        return None
    count = {
        "q1": len(sets) * len(Q1_ROWS) * patches,
        "q1-images": len(sets) * len(IMAGE_ROWS) * patches / WINDOWS_PER_IMAGE,
        "sizes": len(sets) * len(QF2) * ((len(CONTRASTS) - 1) * len(SIZES) + 1) * patches / WINDOWS_PER_SQUARE,
        "processed": len(sets) * len(SAVED) * len(PROCESSES) * patches / PER_PICTURE,
        "tables": len(sets) * len(tables()) * len(GRIDS) * patches / WINDOWS_PER_TABLE,
        "lossless": len(sets) * len(LOSSLESS_ROWS) * patches / WINDOWS_PER_SCAN,
    }.get(section, sum(len(paths) for paths in sets.values()))
    return CORE_SECONDS[section] * count / max(workers, 1) / 60


def _command(o: argparse.Namespace, wanted: tuple[str, ...]) -> str:
    """The command line, without the paths of this machine."""
    parts = ["python -m train.evaluate", *(["DATA"] if o.data else []), f"--only {','.join(wanted)}"]
    parts += [f"--patches {o.patches}"] if OF_PATCHES & set(wanted) else []
    parts += ["--main"] if o.main and "q1" in wanted else []
    parts += [f"--images {o.images}"] if o.images and set(OF_SETS) & set(wanted) else []
    parts += ["--thorough"] if o.thorough else []
    parts += ["--full"] if o.full and "qf" in wanted else []
    parts += [f"--per-kind {o.per_kind}"] if {"drawings", "forge"} & set(wanted) else []
    parts += [f"--side {o.side}"] if o.side and "forge" in wanted else []
    return " ".join(parts)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", metavar="DATA", help="folder of uncompressed images, or of sets")
    parser.add_argument("--forge", type=Path, help="program that makes labelled forgeries")
    parser.add_argument("--cameras", type=Path, help="folder of photographs as cameras wrote them")
    parser.add_argument("--papers", type=Path, help="folder of published examples")
    parser.add_argument("--out", type=Path, default=Path("runs/evaluation"))
    parser.add_argument("--only", type=_sections, metavar=",".join(SECTIONS), help="sections to measure; all")
    parser.add_argument(
        "--quick", action="store_true", help="a few windows, images and files of each, for a first look"
    )
    parser.add_argument("--patches", type=int, help="windows for each line of the Q1 tables, 10 to a whole image; 2000")
    parser.add_argument("--main", action="store_true", help="of q1 only the lines that the models' manifests hold")
    parser.add_argument("--images", type=int, help="images of each set, evenly spread, that are used; all")
    parser.add_argument("--per-kind", type=int, help="files of each kind of forgery, or drawing; 40")
    parser.add_argument("--side", type=int, help="pixels along the longer side of forgeries, at most; 512")
    parser.add_argument("--full", action="store_true", help="QF and flag on whole images, not on their centres")
    parser.add_argument("--thorough", action="store_true", help="without the shortcuts of the CPU, as on a GPU")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--record", action="store_true", help="write the figures into the models' manifests")
    o = parser.parse_args(arguments)
    for name, full in (("patches", 2000), ("images", None), ("per_kind", 40)):
        if getattr(o, name) is None:
            setattr(o, name, QUICK[name] if o.quick else full)
    o.forge = _existing(o.forge, SHARED / "eval" / "forge.py")
    o.cameras = _existing(o.cameras, SHARED / "data" / "cameras")
    o.papers = _existing(o.papers, SHARED / "data" / "papers")
    for path in (o.data, o.forge, o.cameras, o.papers):
        if path is not None and not path.exists():
            parser.error(f"{path} does not exist")
    means = {
        **dict.fromkeys(OF_SETS, o.data),
        "drawings": True,
        "forge": o.data and o.forge,
        "cameras": o.cameras,
        "papers": o.papers,
    }
    if o.only is None:
        o.only = tuple(name for name in SECTIONS if means[name])
    if o.side is not None and (o.side < 64 or o.record):
        parser.error("--side is of 64 pixels or more, and the manifests hold figures of the usual one, without --side")
    missing = [name for name in o.only if not means.get(name, True)]
    if missing or not o.only:
        parser.error(f"nothing to measure {', '.join(missing) or 'anything'} on; see --help")
    return o


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    o = _parse(arguments)
    cv2.setNumThreads(1)
    if o.thorough:
        os.environ[THOROUGH] = "1"  # the processes that measure inherit it
    sets = image_sets(o.data) if o.data and {*OF_SETS, "forge"} & set(o.only) else {}
    sets = {name: _spread(paths, o.images) for name, paths in sets.items()}
    measures: dict[str, Callable[[], Any]] = {
        "q1": lambda: measure_q1(sets, o.patches, o.workers, MAIN_ROWS if o.main else Q1_ROWS),
        "q1-images": lambda: measure_q1_images(sets, o.patches, o.workers),
        "lossless": lambda: measure_lossless(sets, o.patches, o.workers),
        "qf": lambda: measure_qf(sets, o.full, o.workers),
        "qf-sizes": lambda: measure_qf_sizes(sets, o.workers),
        "sizes": lambda: measure_sizes(sets, o.patches, o.workers),
        "processed": lambda: measure_processed(sets, o.patches, o.workers),
        "tables": lambda: measure_tables(sets, o.patches, o.workers),
        "drawings": lambda: measure_drawings(o.per_kind, o.workers),
        "forge": lambda: measure_forge(o.forge, o.data, o.per_kind, o.workers, o.side),
        "cameras": lambda: measure_cameras(o.cameras),
        "papers": lambda: measure_papers(o.papers),
        "papers-networks": lambda: measure_networks(sets, o.patches, o.workers),
    }
    results: Results = {
        "command": _command(o, o.only),
        "sets": {name: len(paths) for name, paths in sets.items()},
        "machine": machine(),
        "models": {name: weights.manifest(name)["digest"] for name in weights.names()},
        "seconds": {},
    }
    if o.side:
        results["side"] = o.side
    for name in o.only:
        minutes = expected_minutes(name, sets, o.patches, o.workers)
        print(
            f"measuring {name}{'' if minutes is None else f', about {minutes:.0f} min'} ...",
            file=sys.stderr,
            flush=True,
        )
        start = time.perf_counter()
        results[name] = measures[name]()
        results["seconds"][name] = time.perf_counter() - start
        # After each section, so that a long run that is stopped leaves what it had.
        write_report(o.out / "evaluation", report(results), {**results, "asked": asked_table(results)})
        write_text(o.out / "evaluation.csv", csv_text(results))
    print(report(results))
    if o.record:
        print("recorded:", ", ".join(record(results, weights.folder())) or "nothing", file=sys.stderr)


if __name__ == "__main__":
    main()
