"""What `jscan show` and the end of `jscan scan` print: findings as tables and sentences, a heatmap as half blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from jscan import stages, wording
from jscan.jpegtables import steps_text
from jscan.names import display_path
from jscan.records import NOT_LUMA, Pixels, Region, ScanRecord
from jscan.stages import Times

if TYPE_CHECKING:
    from jscan.run import RunSummary
    from jscan.tally import Finding
    from jscan.verify import Report

NOTABLE = 0.5
"""Images that score this or more are named in a summary."""
PREVIEW_COLUMNS = 100
PREVIEW_LINES = 40


def plain(text: str) -> str:
    """The text as one line that a terminal shows and does not obey: control characters as backslash escapes."""
    return display_path(text.encode("utf-8", "backslashreplace"))


def _line(text: str, style: str = "") -> Text:
    """One line that is never broken, because it holds a path that somebody may want to copy."""
    return Text(text, style=style, no_wrap=True, overflow="ignore")


def findings(record: ScanRecord) -> RenderableType:
    """Everything that a person wants to know of one row."""
    parts: list[RenderableType] = [_line(plain(record.path), "bold"), _facts(record)]
    if record.status != "ok":
        parts.append(Text(f"{record.status} ({record.error_code}): {plain(record.error or '')}", style="red"))
    if record.regions:
        parts.append(_regions(record.regions, (record.width or 0) * (record.height or 0)))
    elif record.status == "ok" and record.n_regions is not None:
        parts.append(Text("No region with a history of its own was found."))
    parts.extend(Text(f"- {plain(reason)}") for reason in record.reasons)
    if record.warnings:
        parts.append(Text(f"warnings: {', '.join(plain(w) for w in record.warnings)}", style="yellow"))
    return Group(*parts)


def _facts(record: ScanRecord) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    rows = {
        "file": _file(record),
        "last compression": _last_compression(record),
        "camera": " ".join(plain(v) for v in (record.camera_make, record.camera_model) if v),
        "software": plain(record.software or ""),
        "background": _background(record),
        "score": _number(record.score, "{:.2f}", "  (probability that a region has another history)"),
        "coverage": _number(record.coverage, "{:.0%}", " of the image told the estimators something"),
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, Text(value))
    return table


def _file(record: ScanRecord) -> str:
    parts = []
    if record.format:
        parts.append(record.format.upper() + (" progressive" if record.progressive else ""))
    if record.width and record.height:
        parts.append(f"{record.width} x {record.height}")
    if record.subsampling:
        parts.append(record.subsampling)
    if record.size is not None:
        parts.append(f"{record.size:,} bytes")
    return ", ".join(parts)


def _last_compression(record: ScanRecord) -> str:
    parts = []
    if record.qf2 is not None:
        parts.append(f"quality {record.qf2:g}")
        if record.encoder:
            parts.append(f"encoder {record.encoder}")
    elif record.compressed_fraction is not None:
        parts.append(f"{record.compressed_fraction:.0%} of the pixels show one")
    own = record.qf2 is not None and not NOT_LUMA & set(record.warnings)  # a JPEG's map of QF says that of the file
    if record.qf_mean is not None and not own:
        spread = (
            "" if record.qf_p10 is None or record.qf_p90 is None else f" ({record.qf_p10:.0f} to {record.qf_p90:.0f})"
        )
        parts.append(f"estimated from the pixels: {record.qf_mean:.0f}{spread}")
    return ", ".join(parts)


def _background(record: ScanRecord) -> str:
    if record.status != "ok":
        return ""
    fraction = record.double_fraction
    if record.qf1_background is None and record.q1_background is None:
        if record.coverage is None:
            return ""  # nothing was estimated
        if fraction is None and record.qf2 is not None:
            return "too little is left to tell of a first compression"
        if fraction is None or fraction <= 0.5:
            return "no first compression found"
        text = "compressed before, with a table that cannot be told"
    else:
        text = "compressed before"
        if record.qf1_background is not None:
            text += f", quality {wording.quality(record.qf1_background, first=True)}"
    if record.grid_shift is not None:
        text += f", grid at (dy, dx) = {record.grid_shift}"
    if record.q1_background is not None:
        text += f", steps {steps_text(record.q1_background)}"
    if fraction is not None:
        text += f"; {fraction:.0%} of what tells anything was compressed before"
    return text


def _number(value: float | None, form: str, words: str) -> str:
    return "" if value is None else form.format(value) + words


def _regions(regions: tuple[Region, ...], pixels: int) -> Group:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in ("#", "score", "x, y", "width x height", "area", "QF1", "grid dy, dx"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("history", overflow="fold")
    steps = []
    for number, r in enumerate(regions, 1):
        table.add_row(
            str(number),
            f"{r.score:.2f}",
            f"{r.x}, {r.y}",
            f"{r.width} x {r.height}",
            f"{r.area / pixels:.1%}" if pixels else str(r.area),
            "" if r.qf1 is None else f"{'<=' if wording.is_bound(r.qf1, first=r.q1 is not None) else ''}{r.qf1:.0f}",
            "" if r.grid_shift is None else f"{r.grid_shift[0]}, {r.grid_shift[1]}",
            wording.KINDS[r.kind].name,
        )
        if r.q1 is not None:
            steps.append(Text(f"first steps of region {number}: {steps_text(r.q1)}", style="dim"))
    words = (
        "1 region with a history of its own" if len(regions) == 1 else f"{len(regions)} regions with other histories"
    )
    title = Text(words, style="bold")
    return Group(title, table, *steps)


def can_preview(console: Console) -> bool:
    """Whether the terminal shows half blocks in true colour; elsewhere they would be garbage."""
    return console.is_terminal and console.color_system == "truecolor" and console.encoding.lower().startswith("utf")


class Preview:
    """A picture as lines of upper half blocks, two pixels of each column in one character."""

    def __init__(self, picture: Pixels, columns: int) -> None:
        self._pixels = _shrink(picture, min(columns, PREVIEW_COLUMNS), 2 * PREVIEW_LINES)

    def __rich_console__(self, console: Console, options: object) -> Iterator[Segment]:
        """The segments that Rich prints."""
        for top, bottom in zip(self._pixels[0::2], self._pixels[1::2], strict=True):
            for above, below in zip(top.tolist(), bottom.tolist(), strict=True):
                yield Segment(
                    "▀", Style(color="#{:02x}{:02x}{:02x}".format(*above), bgcolor="#{:02x}{:02x}{:02x}".format(*below))
                )
            yield Segment.line()


def _shrink(picture: Pixels, columns: int, rows: int) -> Pixels:
    """The picture at most that large, with an even number of rows."""
    import cv2

    height, width = picture.shape[:2]
    scale = min(columns / width, rows / height, 1.0)
    size = (max(1, round(width * scale)), max(2, 2 * round(height * scale / 2)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def summary(run: RunSummary) -> RenderableType:
    """The end of a run: counts, the highest scoring images, and where the output lies."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column()
    for status in ("ok", "skipped", "error"):
        if run.by_status.get(status):
            table.add_row(f"{run.by_status[status]:,}", status)
    for code, count in run.by_code.items():
        table.add_row(f"{count:,}", Text(f"  {code}", style="dim"))
    if run.duplicates:
        table.add_row(f"{run.duplicates:,}", Text("with the bytes of another input", style="dim"))
    if run.vanished:
        table.add_row(f"{run.vanished:,}", Text("vanished; their rows are kept and marked", style="dim"))
    parts: list[RenderableType] = []
    if not run.rows:
        rows = f"only rows of what vanished: {run.vanished:,}" if run.vanished else "no row"
        parts.append(Text(f"Nothing to scan was found; the results hold {rows}.", style="yellow"))
    else:
        parts += [Text(_pace(run)), table]
    notable = [f for f in run.top if f.score >= NOTABLE]
    if notable:
        parts.append(Text(f"\nHighest scores ({NOTABLE} or more, at most {len(run.top)}):", style="bold"))
        parts.extend(_finding(f) for f in notable)
    elif run.top:
        parts.append(Text(f"No image scores {NOTABLE} or more; the highest is {run.top[0].score:.2f}."))
    parts += [Text(), _line(f"results   {plain(str(run.out))}")]
    if run.heatmaps is not None:
        parts.append(_line(f"heatmaps  {plain(str(run.heatmaps))}  (named by the sha256 column)"))
    if run.maps is not None:
        parts.append(_line(f"maps      {plain(str(run.maps))}  (named by the sha256 column)"))
    return Group(*parts)


def profile(times: Times) -> RenderableType:
    """What each stage took of the time of all processes, and its processor time."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    for _ in range(3):
        table.add_column(justify="right")
    table.add_row(*(Text(word, style="dim") for word in ("stage", "share", "seconds", "processor")))
    for name, line in stages.shares(times).items():
        seconds, processor = (f"{line[key]:.2f} s" for key in ("seconds", "processor_seconds"))
        table.add_row(name, f"{100 * line['share']:.1f} %", seconds, processor)
    return Group(Text(), table)


def _pace(run: RunSummary) -> str:
    seconds = max(run.seconds, 1e-9)
    device = f" on {run.provider}" if run.provider else ""
    there = run.rows - run.scanned
    return (
        f"{run.scanned:,} input{'s' * (run.scanned != 1)} in {run.seconds:.1f} s{device}: "
        f"{run.scanned / seconds:.1f} images/s, {run.pixels / 1e6 / seconds:.1f} MP/s"
        + (f"; the rows of {there:,} more were there already" if there > 0 else "")
    )


def _finding(finding: Finding) -> Group:
    reasons = (Padding(Text(plain(reason), style="dim"), (0, 0, 0, 8), expand=False) for reason in finding.reasons)
    return Group(_line(f"  {finding.score:.2f}  {plain(finding.path)}"), *reasons)


def verified(results: Path, report: Report) -> RenderableType:
    """What `jscan verify` found: a table of what is wrong, or that nothing is."""
    looked = f"{report.rows:,} rows" + (f", {report.hashed:,} inputs read again" if report.hashed else "")
    parts: list[RenderableType] = [_line(plain(str(results)), "bold")]
    if report.cut is not None:
        parts.append(_unchecked(report.unchecked, report.cut))
    if not report.count:
        rest = "all" if report.cut is None else "all else"
        return Group(*parts, Text(f"{looked}: {rest} as its manifest says", style="green"))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("what", no_wrap=True)
    table.add_column("where", overflow="fold")
    table.add_column("trouble", overflow="fold")
    for trouble in report.troubles:
        table.add_row(trouble.kind, Text(plain(trouble.where)), Text(plain(trouble.what)))
    more = report.count - len(report.troubles)
    words = f"{looked}: {report.count:,} trouble{'s' * (report.count != 1)}" + (f", {more:,} not shown" if more else "")
    return Group(*parts, table, Text(words, style="red"))


def _unchecked(members: int, archive: str) -> Text:
    """What cannot be said of the members of this archive, of which none is accused for that."""
    were = "1 member was" if members == 1 else f"{members:,} members were"
    return Text(
        f"{plain(archive)}: {were} not compared with the evidence, as --limit ended the run before the archive's own "
        "row, which holds its digest. Scan it without --limit to have them checked.",
        style="yellow",
    )


def model(manifest: Mapping[str, Any], trouble: str | None) -> RenderableType:
    """One model: what it is, whether its digest holds (`trouble` says why not), its limits and measured errors."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("version", str(manifest.get("version", "unknown")))
    digest = str(manifest.get("digest", "unknown"))
    table.add_row(
        "digest", Text(f"{digest}  checked", style="green") if trouble is None else Text(trouble, style="red")
    )
    training = manifest.get("training")
    if isinstance(training, Mapping):
        for key in ("command", "commit", "data"):
            if training.get(key):
                table.add_row("training" if key == "command" else f"  {key}", Text(plain(_words(training[key]))))
    for i, limit in enumerate(_listed(manifest.get("limits"))):
        table.add_row("" if i else "valid for", Text(plain(str(limit))))
    metrics = manifest.get("metrics")
    for i, said in enumerate(_grouped(metrics if isinstance(metrics, Mapping) else {})):
        table.add_row("" if i else "measured", Text(plain(said)))
    return Group(Text(str(manifest.get("name", "unnamed")), style="bold"), table)


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _words(value: object) -> str:
    return ", ".join(f"{k} {v}" for k, v in _flat(value)) if isinstance(value, Mapping) else str(value)


def _grouped(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A line for each mapping that holds figures, with all of them: thousands of figures would be a wall of lines."""
    figures = [(k, v) for k, v in values.items() if not isinstance(v, Mapping)]
    if figures:
        said = ", ".join(f"{k.replace('_', ' ')} {text}" for k, text in _flat(dict(figures)))
        yield f"{prefix}: {said}" if prefix else said
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _grouped(value, f"{prefix} / {name}" if prefix else str(name))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of a nested mapping, one line each."""
    for name, value in values.items():
        full = f"{prefix} / {name}" if prefix else str(name)
        if isinstance(value, Mapping):
            yield from _flat(value, full)
        else:
            yield full, f"{value:.4g}" if isinstance(value, float) else str(value)
