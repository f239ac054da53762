"""Measures the exported models and whole scans, and compares the figures with what is asked for.

    python -m train.evaluate DATA [--forge forge.py] [--cameras FOLDER] [--papers FOLDER] [--only q1,qf] [--record]

DATA is a folder of uncompressed images; each of its sub-folders is one set. What DATA and the options do not give the
means to measure is left out. Writes `evaluation.md` and `evaluation.json`; `--record` also writes each model's own
figures into its manifest, where `jscan models` finds them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from jscan import q1map, qfmap, suspicion, weights
from jscan.atomic import replacing
from train.measure_files import measure_cameras, measure_forge, measure_papers
from train.measure_speed import BIG_MEGAPIXELS, machine, measure_speed
from train.measure_windows import FLAG_ASKED, image_sets, measure_q1, measure_qf

SECTIONS = ("q1", "qf", "forge", "cameras", "papers", "bench")
SHARED = Path("../shared")
"""Where the inputs that are no part of the project lie, beside a checkout, unless the options say otherwise."""
BENCHMARKS = Path("benchmarks")

Results = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """One line of the table: what is asked for, and where the figure stands in the results."""

    what: str
    at: tuple[str, ...]
    sign: str
    bound: float


_UNCOMPRESSED = f"up_to_{FLAG_ASKED}_not_called_compressed"
_BIG = tuple(f"{kind} of {BIG_MEGAPIXELS} MP, one worker" for kind in ("JPEG", "TIFF"))
ASKED = (
    Asked("Q1 accuracy, QF2 90, random shift, Kodak", ("q1", "kodak", "QF2 90", "accuracy"), ">=", 0.74),
    Asked("Q1 accuracy, QF2 90, random shift, CLIC", ("q1", "clic", "QF2 90", "accuracy"), ">=", 0.69),
    Asked(
        "Q1 MSE, QF2 90, random shift, median of the posterior, Kodak",
        ("q1", "kodak", "QF2 90", "mse_median"),
        "<=",
        0.9,
    ),
    Asked(
        "Q1 MSE, QF2 90, random shift, median of the posterior, CLIC", ("q1", "clic", "QF2 90", "mse_median"), "<=", 1.3
    ),
    Asked("Q1 accuracy, QF2 80, random shift, Kodak", ("q1", "kodak", "QF2 80", "accuracy"), ">=", 0.52),
    Asked("QF mean absolute error per cell, QF 30 to 95, Kodak", ("qf", "kodak", "mae"), "<=", 2.0),
    Asked("never compressed, called compressed, images of Kodak", ("qf", "kodak", "never_called_compressed"), "<=", 1),
    Asked(f"QF 85 to {FLAG_ASKED}, not called compressed, images of Kodak", ("qf", "kodak", _UNCOMPRESSED), "<=", 0),
    *(
        Asked(f"{name} AUC, {kind}", ("forge", "kinds", kind, key), ">=", bound)
        for name, key, bounds in (
            ("image", "image_auc", (0.95, 0.95, 0.95)),
            ("pixel", "pixel_auc", (0.95, 0.93, 0.95)),
        )
        for kind, bound in zip(("splice_double", "splice_clean_fg", "splice_png"), bounds, strict=True)
    ),
    Asked("camera files that score 0.5 or more", ("cameras", "alarms"), "<=", 2),
    *(
        Asked(
            f"{name}: pasted places outlined, nothing else", ("papers", name, "outlined_and_nothing_else"), ">=", True
        )
        for name in ("T_04_758595.jpg", "tampered.bmp")
    ),
    Asked("whole scan of the camera files, MP/s", ("cameras", "mp_per_second"), ">=", 1.5),
    Asked("peak memory of a worker, camera files, MiB", ("cameras", "peak_mib"), "<=", 2048),
    *(Asked(f"peak memory, {name}, MiB", ("bench", name, "peak_mib"), "<=", 2048) for name in _BIG),
)


def asked_table(results: Results) -> dict[str, dict[str, Any]]:
    """What is asked for and what was reached, by line; only lines whose section was measured."""
    out = {}
    for line in ASKED:
        if line.at[0] not in results:
            continue
        value: Any = results
        for key in line.at:
            value = value.get(key) if isinstance(value, Mapping) else None
        met = None if value is None else value >= line.bound if line.sign == ">=" else value <= line.bound
        asked = "yes" if line.bound is True else f"{line.sign} {line.bound:g}"
        out[line.what] = {"asked": asked, "reached": value, "met": met}
    return out


# --- report -----------------------------------------------------------------------------------------------------------


def _cell(value: Any) -> str:
    if value is None:
        return "not measured"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return str(value).replace("|", "\\|")


def table(first: str, rows: Mapping[str, Any]) -> list[str]:
    """Lines of a Markdown table: names and values; where values are mappings, a column for each of their keys."""
    rows = {name: row if isinstance(row, Mapping) else {"value": row} for name, row in rows.items()}
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    lines = [
        "| " + " | ".join([first, *(c.replace("_", " ") for c in columns)]) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, row in rows.items():
        lines.append("| " + " | ".join([name, *(_cell(row[c]) if c in row else "" for c in columns)]) + " |")
    return [*lines, ""]


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are no mapping or list."""
    return {k: v for k, v in values.items() if not isinstance(v, (Mapping, list))}


def speed_report(results: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown on speed and memory."""
    start = results.get("start", {})
    scans = {name: run for name, run in results.items() if name != "start"}
    return [*table("scan", scans), *table("start", start)]


def report(results: Results) -> str:
    """All figures as Markdown."""
    lines = ["# Evaluation", "", f"`{results['command']}`", ""]
    lines += table("measured", asked_table(results)) if asked_table(results) else []
    for name, rows in results.get("q1", {}).items():
        lines += [f"## Q1, isolated windows of 64 x 64: {name}", "", *table("compression", rows)]
    for name, found in results.get("qf", {}).items():
        lines += [f"## QF and flag of decoded JPEGs: {name}", "", *table("all", {name: _plain(found)})]
        lines += table("QF", found["by_qf"]) + table("image", found["flag"])
    if "forge" in results:
        found = results["forge"]
        lines += ["## Forgeries", "", *table("kind", found["kinds"]), *table("score", found["score"])]
        lines += table("score between", found["reliability"])
    if "cameras" in results:
        found = results["cameras"]
        lines += ["## Photographs as cameras wrote them", "", *table("all", _plain(found))]
        lines += table("score of 0.5 or more", found["alarm_names"]) if found["alarm_names"] else []
        lines += table("not read", found["not_ok"]) if found["not_ok"] else []
    for name, found in results.get("papers", {}).items():
        lines += [f"## {name}", "", *table("all", {**_plain(found), **found["places_covered"]})]
        lines += table("region", found["regions"]) if found["regions"] else ["No region was reported.", ""]
    if "bench" in results:
        lines += ["## Speed and memory", "", *speed_report(results["bench"])]
    lines += ["## Measured with", "", *table("", results["machine"]), *table("model", results["models"])]
    lines += table("section", {name: f"{seconds:.0f} s" for name, seconds in results["seconds"].items()})
    return "\n".join(lines)


def _rounded(value: Any) -> Any:
    """The same with floats to four digits."""
    if isinstance(value, Mapping):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def write_text(path: Path, text: str) -> None:
    """Nothing; the file holds the text, or is as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as stream:
        stream.write(text.encode("utf-8"))


def write_report(stem: Path, text: str, results: Mapping[str, Any]) -> None:
    """Nothing; `<stem>.md` and `<stem>.json` are written."""
    write_text(stem.with_suffix(".md"), text)
    write_text(stem.with_suffix(".json"), json.dumps(_rounded(results), indent=1) + "\n")


# --- the models' own figures ------------------------------------------------------------------------------------------


def model_metrics(results: Results) -> dict[str, dict[str, Any]]:
    """What each model's manifest is to say, for the models whose section was measured."""
    out: dict[str, dict[str, Any]] = {}
    if "q1" in results:
        out[q1map.MODEL] = dict(results["q1"])
    if "qf" in results:
        out[qfmap.MODEL] = {
            name: {**_plain(found), "mae_by_qf": {q: line["mae"] for q, line in found["by_qf"].items()}}
            for name, found in results["qf"].items()
        }
    if "forge" in results:
        kinds = results["forge"]["kinds"]
        of_pixels = {kind for kind in kinds if "_png" in kind}
        for name, wanted in ((suspicion.JPEG_MODEL, set(kinds) - of_pixels), (suspicion.PIXEL_MODEL, of_pixels)):
            # The scores of all kinds together are those of both models.
            picked = {kind: line for kind, line in kinds.items() if kind in wanted}
            out[name] = {"forgeries": picked, "score of both models": results["forge"]["score"]}
    return {
        name: {**figures, "command": results["command"], "data": ", ".join(results["sets"])}
        for name, figures in out.items()
    }


def record(results: Results, folder: Path) -> list[str]:
    """Names of the models below `folder` whose manifests now hold their figures."""
    done = []
    for name, figures in model_metrics(results).items():
        path = folder / name / "manifest.json"
        manifest = json.loads(path.read_text(encoding="utf-8"))
        manifest["metrics"] = _rounded(figures)
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


def _command(o: argparse.Namespace, wanted: tuple[str, ...]) -> str:
    """The command line, without the paths of this machine."""
    parts = ["python -m train.evaluate", *(["DATA"] if o.data else []), f"--only {','.join(wanted)}"]
    parts += [f"--patches {o.patches}"] if "q1" in wanted else []
    parts += ["--full"] if o.full and "qf" in wanted else []
    parts += [f"--per-kind {o.per_kind}"] if "forge" in wanted else []
    return " ".join(parts)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", metavar="DATA", help="folder of uncompressed images, or of sets")
    parser.add_argument("--forge", type=Path, help="program that makes labelled forgeries")
    parser.add_argument("--cameras", type=Path, help="folder of photographs as cameras wrote them")
    parser.add_argument("--papers", type=Path, help="folder of published examples")
    parser.add_argument("--out", type=Path, default=Path("runs/evaluation"))
    parser.add_argument("--only", type=_sections, metavar=",".join(SECTIONS), help="sections to measure; all but bench")
    parser.add_argument("--patches", type=int, default=2000, help="windows for each line of the Q1 table")
    parser.add_argument("--per-kind", type=int, default=40, help="files of each kind of forgery")
    parser.add_argument("--full", action="store_true", help="QF and flag on whole images, not on their centres")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--record", action="store_true", help="write the figures into the models' manifests")
    o = parser.parse_args(arguments)
    o.forge = _existing(o.forge, SHARED / "eval" / "forge.py")
    o.cameras = _existing(o.cameras, SHARED / "data" / "cameras")
    o.papers = _existing(o.papers, SHARED / "data" / "papers")
    for path in (o.data, o.forge, o.cameras, o.papers):
        if path is not None and not path.exists():
            parser.error(f"{path} does not exist")
    means = {"q1": o.data, "qf": o.data, "forge": o.data and o.forge, "cameras": o.cameras, "papers": o.papers}
    if o.only is None:
        o.only = tuple(name for name in SECTIONS[:-1] if means[name])
    missing = [name for name in o.only if not means.get(name, True)]
    if missing or not o.only:
        parser.error(f"nothing to measure {', '.join(missing) or 'anything'} on; see --help")
    return o


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    o = _parse(arguments)
    cv2.setNumThreads(1)
    sets = image_sets(o.data) if o.data and {"q1", "qf", "forge"} & set(o.only) else {}
    measures: dict[str, Callable[[], Any]] = {
        "q1": lambda: measure_q1(sets, o.patches, o.workers),
        "qf": lambda: measure_qf(sets, o.full, o.workers),
        "forge": lambda: measure_forge(o.forge, o.data, o.per_kind, o.workers),
        "cameras": lambda: measure_cameras(o.cameras),
        "papers": lambda: measure_papers(o.papers),
        "bench": lambda: measure_speed(o.cameras),
    }
    results: Results = {
        "command": _command(o, o.only),
        "sets": {name: len(paths) for name, paths in sets.items()},
        "machine": machine(),
        "models": {name: weights.manifest(name)["digest"] for name in weights.names()},
        "seconds": {},
    }
    for name in o.only:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        start = time.perf_counter()
        results[name] = measures[name]()
        results["seconds"][name] = time.perf_counter() - start
        # After each section, so that a long run that is stopped leaves what it had.
        write_report(o.out / "evaluation", report(results), {**results, "asked": asked_table(results)})
    print(report(results))
    if "bench" in results:
        parts = {"machine": results["machine"], "bench": results["bench"], "models": results["models"]}
        lines = [
            "# Speed and memory",
            "",
            *speed_report(parts["bench"]),
            "Measured on",
            "",
            *table("", parts["machine"]),
        ]
        write_report(BENCHMARKS / "bench", "\n".join(lines), parts)
    if o.record:
        print("recorded:", ", ".join(record(results, weights.folder())) or "nothing", file=sys.stderr)


if __name__ == "__main__":
    main()
