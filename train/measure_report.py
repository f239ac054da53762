"""Figures as files: Markdown to read, one tidy CSV, and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jscan.atomic import replacing
from train.measure_asked import Results, asked_table

SECTIONS = (
    "q1",
    "q1-images",
    "lossless",
    "qf",
    "qf-sizes",
    "sizes",
    "processed",
    "tables",
    "drawings",
    "forge",
    "cameras",
    "papers",
    "papers-networks",
)
OF_SETS = ("q1", "q1-images", "lossless", "qf", "qf-sizes", "sizes", "processed", "tables", "papers-networks")
"""Sections that measure each set of images on its own."""


def _cell(value: Any) -> str:
    if value is None:
        return "not measured"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return str(value).replace("|", "\\|")


def table(first: str, rows: Mapping[str, Any], columns: list[str] | None = None) -> list[str]:
    """Lines of a Markdown table: names and values; where values are mappings, a column for each of their keys.

    `columns` are the keys in another order than that of the rows.
    """
    rows = {name: row if isinstance(row, Mapping) else {"value": row} for name, row in rows.items()}
    columns = columns or list(dict.fromkeys(key for row in rows.values() for key in row))
    lines = [
        "| " + " | ".join([first, *(c.replace("_", " ") for c in columns)]) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, row in rows.items():
        lines.append("| " + " | ".join([name, *(_cell(row[c]) if c in row else "" for c in columns)]) + " |")
    return [*lines, ""]


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are no mapping or list."""
    return {k: v for k, v in values.items() if not isinstance(v, (Mapping, list))}


PARTS = (
    ("by_coefficient", "accuracy", "accuracy by coefficient, all QF1"),
    ("by_coefficient", "mse", "MSE by coefficient, all QF1"),
    ("by_coefficient", "accuracy_qf1_below_qf2", "accuracy by coefficient, QF1 < QF2"),
    ("by_coefficient", "mse_qf1_below_qf2", "MSE by coefficient, QF1 < QF2"),
    ("by_coefficient", "accuracy_qf1_from_qf2", "accuracy by coefficient, QF1 >= QF2"),
    ("by_coefficient", "mse_qf1_from_qf2", "MSE by coefficient, QF1 >= QF2"),
    ("by_first", "accuracy", "accuracy by first compression"),
    ("by_first", "mse", "MSE by first compression"),
    ("by_qf2", "accuracy", "accuracy by QF2"),
    ("by_deviation", "share", "share by the standard deviation of the pixels"),
    ("by_deviation", "accuracy", "accuracy by the standard deviation of the pixels"),
    ("by_coverage", "accuracy", "accuracy of the surest"),
    ("by_coverage", "mse", "MSE of the surest"),
    ("reliability", "happened", "share of likeliest steps that are right, by their probability"),
)
"""The tables that follow that of all lines: which part, which of its figures, and what they are called."""


def q1_parts_report(rows: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown on the parts of the figures of Q1: a table for each of PARTS, with the lines that have it."""
    lines = []
    for part, figure, title in PARTS:
        having = {name: row[part] for name, row in rows.items() if part in row}
        cells = {
            name: {at: values[figure] for at, values in of.items() if values[figure] is not None}
            for name, of in having.items()
        }
        cells = {name: row for name, row in cells.items() if row}
        columns = sorted({at for row in cells.values() for at in row}, key=_numbers)
        lines += table(title, cells, columns) if cells else []
    return lines


def _numbers(text: str) -> list[float]:
    """The numbers in a text, to sort by."""
    return [float(word) for word in text.split() if word.replace(".", "").isdigit()]


def sizes_report(rows: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown on pasted squares: a table for each figure, by contrast and the side of the square."""
    found = {name: row["by_size"] for name, row in rows.items()}
    lines = []
    for figure in dict.fromkeys(key for of in found.values() for part in of.values() for key in part):
        cells = {
            name: {size: part[figure] for size, part in of.items() if figure in part} for name, of in found.items()
        }
        lines += table(figure.replace("_", " "), {name: row for name, row in cells.items() if row})
    return lines


def report(results: Results) -> str:
    """All figures as Markdown."""
    lines = ["# Evaluation", "", f"`{results['command']}`", ""]
    lines += table("measured", asked_table(results)) if asked_table(results) else []
    for section, title in (
        ("q1", "Q1, isolated windows of 64 x 64"),
        ("q1-images", "Q1, windows in whole images"),
        ("lossless", "Q1 of images saved losslessly"),
    ):
        for name, rows in results.get(section, {}).items():
            lines += [f"## {title}: {name}", "", *table("compression", {k: plain(row) for k, row in rows.items()})]
            lines += q1_parts_report(rows)
    for name, found in results.get("qf", {}).items():
        lines += [f"## QF and flag of decoded JPEGs: {name}", "", *table("all", {name: plain(found)})]
        lines += table("QF", found["by_qf"]) + table("image", found["flag"])
    for name, sizes in results.get("qf-sizes", {}).items():
        lines += [f"## QF and flag by the size of the crop: {name}", ""]
        for size, found in sizes.items():
            lines += table(f"QF, crops of {size}", found["error"]) + table(f"flag, crops of {size}", found["flag"])
    for name, rows in results.get("sizes", {}).items():
        lines += [f"## Squares with another history, by their side: {name}", "", *sizes_report(rows)]
    for name, rows in results.get("processed", {}).items():
        lines += [f"## Pristine pictures that were processed as a whole: {name}", "", *table("a JPEG, then", rows)]
    for name, rows in results.get("tables", {}).items():
        lines += [f"## First tables that were not learned: {name}", "", *table("first table", rows)]
    for name, rows in results.get("papers-networks", {}).items():
        lines += [f"## The papers' networks beside jscan's own: {name}", ""]
        for first, key in (("isolated windows", "windows"), ("centre crops", "images")):
            of_kind = {row: figures for row, figures in rows.items() if key in figures}
            lines += table(first, of_kind) if of_kind else [f"No model for {first} is at hand.", ""]
    if "drawings" in results:
        found = results["drawings"]
        lines += ["## Drawings, screens and the like, each of one history", ""]
        lines += table("kind", found["kinds"]) + table("history", found["histories"])
    if "forge" in results:
        found = results["forge"]
        size = f" of up to {results['side']} pixels a side" if "side" in results else ""
        lines += [f"## Forgeries{size}", "", *table("kind", found["kinds"]), *table("score", found["score"])]
        lines += table("score between", found["reliability"])
    if "cameras" in results:
        found = results["cameras"]
        lines += ["## Photographs as cameras wrote them", "", *table("all", plain(found))]
        lines += table("score of 0.5 or more", found["alarm_names"]) if found["alarm_names"] else []
        lines += table("not read", found["not_ok"]) if found["not_ok"] else []
    for name, found in results.get("papers", {}).items():
        lines += [f"## {name}", "", *table("all", {**plain(found), **found["places_covered"]})]
        lines += table("region", found["regions"]) if found["regions"] else ["No region was reported.", ""]
    lines += ["## Measured with", "", *table("", results["machine"]), *table("model", results["models"])]
    lines += table("section", {name: f"{seconds:.0f} s" for name, seconds in results["seconds"].items()})
    return "\n".join(lines)


def rounded(value: Any) -> Any:
    """The same with floats to four digits."""
    if isinstance(value, Mapping):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def write_text(path: Path, text: str) -> None:
    """Nothing; the file holds the text, or is as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as stream:
        stream.write(text.encode("utf-8"))


def write_report(stem: Path, text: str, results: Mapping[str, Any]) -> None:
    """Nothing; `<stem>.md` and `<stem>.json` are written."""
    write_text(stem.with_suffix(".md"), text)
    write_text(stem.with_suffix(".json"), json.dumps(rounded(results), indent=1) + "\n")


# --- CSV --------------------------------------------------------------------------------------------------------------

CSV_COLUMNS = ("table", "set", "row", "at", "metric", "value")


def _figures(table_name: str, row: str, found: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str, Any]]:
    """(table, row, at, metric, value) of every figure of one row, and of the tables below it."""
    for key, value in found.items():
        if not isinstance(value, Mapping):
            if not isinstance(value, list):
                yield table_name, row, "", key, value
            continue
        for at, part in value.items():
            for metric, figure in (part if isinstance(part, Mapping) else {"value": part}).items():
                if not isinstance(figure, (Mapping, list)):
                    yield f"{table_name} {key.replace('_', ' ')}", row, str(at), metric, figure


def tidy(results: Results) -> list[tuple[Any, ...]]:
    """Every figure as (table, set, row, at, metric, value), with "" for what a table does not have.

    `at` is what a table is broken down by: a coefficient, a range of QF1, a probability, a quality factor.
    """
    out: list[tuple[Any, ...]] = []
    for section in (s for s in SECTIONS if s in results):
        for name, found in results[section].items() if section in OF_SETS else [("", results[section])]:
            # Sections of one row: the figures stand in the section, or the set, itself.
            rows = {"": found} if section in ("qf", "drawings", "forge", "cameras") else found
            for row, figures in rows.items():
                out += [(t, name, *rest) for t, *rest in _figures(section, row, figures)]
    return out


def csv_text(results: Results) -> str:
    """The figures of `tidy` as CSV, floats to four digits; an empty value was not measured."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for *names, value in tidy(results):
        writer.writerow([*names, rounded(value)])
    return out.getvalue()
