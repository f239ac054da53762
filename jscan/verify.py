"""Whether results are what their run wrote: whole, each input once, models and, on request, evidence unchanged."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from jscan import manifest, parquet, weights
from jscan.engine import Ask, Engine
from jscan.engine.local import run as local_engine
from jscan.errors import InputError, ModelError, UsageError
from jscan.ledger import Containers
from jscan.manifest import InputsDigest
from jscan.reading import EvidenceFile
from jscan.tally import Tally

STATUSES = frozenset({"ok", "skipped", "error"})
MAX_NAMED = 1000
"""So many troubles are named; more are counted."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is not as it should be."""

    kind: str
    """`results`, `manifest`, `inputs`, `rows`, `models`, `journal` or `source`."""
    where: str
    """The file, the input or the model."""
    what: str
    """A sentence."""


@dataclass(slots=True)
class Report:
    """What was looked at, and what was wrong."""

    troubles: list[Trouble] = field(default_factory=list)
    """At most `MAX_NAMED`."""
    count: int = 0
    """Of all troubles."""
    rows: int = 0
    hashed: int = 0
    """Inputs whose bytes were read again."""
    cut: str | None = None
    """The archive within which `--limit` ended the run, so that it has no row, and no digest, of its own."""
    unchecked: int = 0
    """Members of that archive: nothing that they could be compared with stands in the results."""

    def add(self, kind: str, where: object, what: str) -> None:
        """Nothing; one trouble more."""
        self.count += 1
        if len(self.troubles) < MAX_NAMED:
            self.troubles.append(Trouble(kind, str(where), what))


def verify(path: Path, *, source: bool = False, workers: int = 1, engine: Engine = local_engine) -> Report:
    """What is wrong with the results at this path; nothing, where the report has no troubles.

    The pages of the file are compared with their checksums, the file with the digest in the manifest beside it, the
    inputs and counts with the run manifest inside, and the models of the run with those that are installed. With
    `source` every file that has a digest is read again, in worker processes, and compared with it; an archive stands
    for its members, whose rows name its digest. Where `--limit` ended the run within an archive there is no such row,
    and its members are counted as unchecked. Memory does not grow with the rows. Raises UsageError where there is
    no such file.
    """
    if not os.path.isfile(path):
        raise UsageError(f"{path} is not a file; name the results that `jscan scan --out` wrote")
    report = Report()
    inside: dict[str, Any] = {}
    try:
        inside = parquet.read_metadata(path)
    except UsageError as error:
        report.add("results", path, str(error))
    header = manifest.header_of(inside)
    if not report.count and header is None:
        report.add("manifest", path, "It holds no run manifest of this version; scan again to have one.")
    for kind, where, what in manifest.mismatches(path, inside):
        report.add(kind, where, what)
    readable = _check_rows(path, inside, report)
    _check_models(inside, report)
    if next(path.with_name(path.name + ".run").glob("*.parquet"), None) is not None:
        report.add("journal", path, "A run over it is not finished; give its command again, or --restart.")
    if source and readable:
        limited = _was_limited(inside, report.rows)
        _check_source(path, None if header is None else header.folder, report, workers, engine, limited=limited)
    return report


def _check_rows(path: Path, inside: Mapping[str, Any], report: Report) -> bool:
    """Whether all rows can be read. Every input has one, and together they come to what the manifest says."""
    tally, inputs = Tally(), InputsDigest()
    last: tuple[bytes, bytes, int] | None = None
    try:
        for table in _groups(path):
            tally.add(table)
            for row in table.select(_LOOKED_AT).to_pylist():
                key = (
                    row["path_bytes"],
                    (row["container"] or "").encode(),
                    -1 if row["member"] is None else row["member"],
                )
                if last is not None and key <= last:
                    again = "It has more than one row." if key == last else "Its row is out of order."
                    report.add("rows", row["path"], again)
                last = key
                if row["vanished"] is None:
                    inputs.add(row["path_bytes"], row["container"], row["member"])
                trouble = _trouble_of(row)
                if trouble:
                    report.add("rows", row["path"], trouble)
    except UsageError as error:
        report.add("results", path, str(error))
        return False
    report.rows = tally.rows + tally.vanished
    if inputs.as_dict() != inside.get("inputs"):
        wanted = _mapping(inside, "inputs").get("count", 0)
        what = f"There are rows of {inputs.count:,} inputs, and the manifest has {wanted}"
        same = " with other names" if inputs.count == wanted else ""
        report.add("inputs", path, f"{what}{same}: rows were lost, added or changed.")
    for name, found in (
        ("by_status", dict(tally.by_status)),
        ("by_error_code", dict(tally.by_code)),
        ("duplicates", tally.duplicates),
        ("vanished", tally.vanished),
        ("models", sorted(tally.models)),
    ):
        if inside.get(name) != found:
            report.add("inputs", path, f"The rows come to {name} {found}, and the manifest says {inside.get(name)}.")
    return True


_LOOKED_AT = [
    "path", "path_bytes", "container", "member", "sha256", "vanished", "status", "error_code", "duplicate_of",
]  # fmt: skip


def _trouble_of(row: Mapping[str, Any]) -> str | None:
    """What is wrong with one row by itself, or None."""
    if row["status"] not in STATUSES:
        return f"Its status is {row['status']!r}."
    if (row["status"] == "ok") != (row["error_code"] is None):
        return f"Its status is {row['status']} and its code {row['error_code']}."
    if row["status"] == "ok" and row["sha256"] is None:
        return "It was estimated, and has no digest."
    # Members of one archive may share a name, and what is written with escapes may be how another reads.
    if row["duplicate_of"] == row["path"] and row["member"] is None and "\\" not in row["path"]:
        return "It is said to be a duplicate of itself."
    return None


def _mapping(inside: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What the manifest holds under this name, or nothing where that is no mapping: it may be no manifest of ours."""
    found = inside.get(name)
    return found if isinstance(found, Mapping) else {}


def _check_models(inside: Mapping[str, Any], report: Report) -> None:
    """The models that are installed are those of the run, and what their manifests say."""
    for name, wanted in sorted(_mapping(inside, "model_digests").items()):
        try:
            weights.check(name)
            if weights.manifest(name)["digest"] != wanted:
                report.add("models", name, "The one that is installed is not the one that made the rows.")
        except (ModelError, ValueError) as error:  # of a name that cannot be one of a folder
            report.add("models", name, str(error))


def _was_limited(inside: Mapping[str, Any], rows: int) -> bool:
    """Whether `--limit` may have ended the run that wrote so many rows; where it has fewer, rows were lost."""
    limit = _mapping(inside, "limits").get("limit")
    return isinstance(limit, int) and rows >= limit


def _check_source(
    path: Path, folder: str | None, report: Report, workers: int, engine: Engine, *, limited: bool
) -> None:
    """The evidence still has the bytes that were scanned."""
    files = _files(path, folder, report, limited=limited)
    outcomes = engine(_look_again, files, init=dict, workers=workers, timeout=SOURCE_SECONDS)
    with contextlib.closing(outcomes):
        for outcome in outcomes:
            report.hashed += 1
            trouble = outcome.value if outcome.kind == "done" else f"It could not be read: {outcome.message}."
            if trouble:
                report.add("source", outcome.item[0], trouble)


SOURCE_SECONDS = 4 * 3600.0
"""How long the reading of one file may take: archives of 1 TiB are scanned."""


def _look_again(state: object, item: tuple[str, bytes, str], ask: Ask) -> str | None:
    """What is wrong with one file, or None."""
    _, path, wanted = item
    try:
        with EvidenceFile(path) as file:
            found = file.digest()
            file.check_unchanged()
    except InputError as error:
        return str(error)
    return None if found == wanted else f"Its bytes changed: SHA-256 was {wanted}, and is {found}."


def _files(path: Path, folder: str | None, report: Report, *, limited: bool) -> Iterator[tuple[str, bytes, str]]:
    """(display path, path, digest) of the files that have one; relative paths begin where they began in the run.

    Members are as their archive is, where their rows name its digest; where they do not, that is a trouble, unless
    `limited` says that the run was ended before that of the archive, which then has none.
    """
    try:
        base = b"" if folder is None else os.fsencode(folder)
    except ValueError:
        report.add("manifest", path, "It says that the run was started in a folder of which the name is none.")
        return
    containers = Containers()
    for table in _groups(path):
        for row in table.select([*_LOOKED_AT, "container_sha256"]).to_pylist():
            fits = containers.fits(row)
            if row["sha256"] is None or row["vanished"] is not None:
                continue
            if row["member"] is None:
                yield row["path"], os.path.join(base, row["path_bytes"]), row["sha256"]
            elif limited and (cut := containers.rowless(row)) is not None and report.cut in (None, cut):
                report.cut = cut  # a run is ended within one archive; if another has no row either, it was lost
                report.unchecked += 1
            elif not fits:
                report.add("source", row["path"], "Its archive has another digest by now, or none, in its own row.")


def _groups(path: Path) -> Iterator[Any]:
    """The row groups of the results. Raises UsageError where a page is not what its checksum says."""
    with parquet.reader(path) as stored:
        missing = [name for name in parquet.SCHEMA.names if name not in stored.schema_arrow.names]
        if missing:
            raise UsageError(f"{path} has no column {missing[0]}: it is of another version of jscan, or not of jscan")
        for name, kind in zip(parquet.SCHEMA.names, parquet.SCHEMA.types, strict=True):
            if stored.schema_arrow.field(name).type != kind:
                raise UsageError(f"{path} has another type of values in the column {name} than jscan writes")
        first = 0
        for group in range(stored.metadata.num_row_groups):
            try:
                table = stored.read_row_group(group)
                table.validate(full=True)
            except (OSError, pa.ArrowException) as error:
                said = parquet.first_line(error)
                raise UsageError(f"rows from {first:,} on cannot be read: {said}") from error
            for name in ("path", "path_bytes", "status"):
                if table.column(name).null_count:
                    raise UsageError(f"rows from {first:,} on lack values in the column {name}")
            yield table
            first += stored.metadata.row_group(group).num_rows
