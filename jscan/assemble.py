"""Rows from the journal, and from the results that are updated, to the results: sorted, copies completed, counted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from jscan import filetypes, parquet
from jscan.atomic import replacing
from jscan.errors import OutputError, UsageError
from jscan.ledger import Entry, Ledger, Place
from jscan.manifest import InputsDigest
from jscan.records import READING_WARNINGS, ScanRecord
from jscan.tally import Tally

CACHE_ROWS = 4_000
"""Rows at hand while the results are written: of shards and of row groups of the results before."""


def group_source(group: int) -> int:
    """The number by which the ledger knows a row group of the results before; shards have their own, from 0."""
    return -1 - group


def assemble(
    out: Path,
    ledger: Ledger,
    shards: Mapping[int, Path],
    before: Path | None,
    missed: datetime,
    manifest: Callable[[Tally, InputsDigest], Mapping[str, Any]],
    *,
    overwrite: bool,
) -> tuple[Tally, Mapping[str, Any]]:
    """The counts and the manifest of the results, which stand at `out` when it returns.

    `before` are the results that are updated; inputs of theirs that vanished since are marked with the time `missed`.
    `manifest` makes the manifest of the counts. Memory holds `CACHE_ROWS` rows and a row group. Raises OutputError.
    """
    tally, inputs = Tally(), InputsDigest()
    with replacing(out, overwrite=overwrite) as stream, parquet.writer(stream) as written:
        with _Rows(shards, before) as rows:
            groups = ledger.has_groups()
            for entries in _batches(ledger.ordered(), parquet.GROUP_ROWS):
                table, copies = rows.take([e.place for e in entries])
                changed: dict[int, ScanRecord] = {}
                for i, entry in enumerate(entries):
                    if not entry.vanished:
                        inputs.add(*entry.key)
                        if copies[i]:
                            changed[i] = _completed(table, i, rows, ledger)
                    elif table["vanished"][i].as_py() is None:
                        changed[i] = replace(_record(table, i), vanished=missed)
                if groups or before is not None:
                    _name_first(table, entries, changed, ledger)
                table = _with(table, changed)
                tally.add(table)
                written.write_table(table, row_group_size=parquet.GROUP_ROWS)
                del table
                pa.default_memory_pool().release_unused()  # else the allocator keeps several times what is needed
        made = manifest(tally, inputs)
        parquet.add_metadata(written, made)
    return tally, made


def _completed(table: pa.Table, i: int, rows: _Rows, ledger: Ledger) -> ScanRecord:
    """The row of an input whose content has its row elsewhere: that one, with what identifies this input."""
    mine = _record(table, i)
    place = ledger.content(mine.sha256 or "")
    if place is None:
        raise OutputError(f"the row for the content of {mine.path} is missing; run the same again")
    other = rows.one(place)
    misnamed = other.format is not None and filetypes.contradicts(mine.path_bytes, other.format)
    return replace(
        other,
        path=mine.path,
        path_bytes=mine.path_bytes,
        container=mine.container,
        member=mine.member,
        container_sha256=mine.container_sha256,
        mtime=mine.mtime,
        warnings=(
            *(w for w in mine.warnings if w in READING_WARNINGS),
            *(w for w in other.warnings if w not in READING_WARNINGS and w != "wrong_suffix"),
            *(("wrong_suffix",) if misnamed else ()),
        ),
        duplicate_of=None,
        vanished=None,
        decode_ms=None,
        estimate_ms=None,
    )


def _name_first(table: pa.Table, entries: Sequence[Entry], changed: dict[int, ScanRecord], ledger: Ledger) -> None:
    """Nothing; `changed` holds the rows whose `duplicate_of`, or the lack of one, is not what it should be."""
    digests, paths = table["sha256"].to_pylist(), table["path"].to_pylist()
    named = table["duplicate_of"].to_pylist()
    vanished = table["vanished"].null_count < table.num_rows
    for i, entry in enumerate(entries):
        if entry.vanished or digests[i] is None:
            continue
        first = ledger.first_of(digests[i], paths[i])
        back = vanished and i not in changed and table["vanished"][i].as_py() is not None
        if i in changed or first != named[i] or back:
            changed[i] = replace(changed.get(i) or _record(table, i), duplicate_of=first, vanished=None)


def _record(table: pa.Table, i: int) -> ScanRecord:
    (row,) = table.slice(i, 1).to_pylist()
    return parquet.from_row(row)


def _with(table: pa.Table, changed: Mapping[int, ScanRecord]) -> pa.Table:
    """The table with these rows in place of its own."""
    if not changed:
        return table
    both = pa.concat_tables([table, parquet.to_table(changed.values())])
    order = list(range(table.num_rows))
    for new, i in enumerate(changed, table.num_rows):
        order[i] = new
    return both.take(order)


def _batches(entries: Iterator[Entry], size: int) -> Iterator[list[Entry]]:
    while batch := list(islice(entries, size)):
        yield batch


class _Rows:
    """Rows by their place, the last ones used at hand."""

    def __init__(self, shards: Mapping[int, Path], before: Path | None) -> None:
        self._shards = shards
        self._before = None if before is None else parquet.reader(before)
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            self._before.close()

    def take(self, places: Sequence[Place]) -> tuple[pa.Table, list[bool]]:
        """The rows as a table with the columns of the results, and which of them are mere copies."""
        wanted: dict[int, list[int]] = {}
        at: list[tuple[int, int]] = []
        for source, row in places:
            mine = wanted.setdefault(source, [])
            at.append((source, len(mine)))
            mine.append(row)
        parts, begins, total = [], {}, 0
        for source, mine in wanted.items():
            parts.append(self._table(source).take(mine))
            begins[source] = total
            total += len(mine)
        table = pa.concat_tables(parts).take([begins[source] + i for source, i in at])
        return table.drop_columns([parquet.COPY]), table[parquet.COPY].to_pylist()

    def one(self, place: Place) -> ScanRecord:
        """One row."""
        return _record(self._table(place.source), place.row)

    def _table(self, source: int) -> pa.Table:
        if source not in self._cache:
            loaded = self._load(source)
            while self._cache and sum(t.num_rows for t in self._cache.values()) + loaded.num_rows > CACHE_ROWS:
                self._cache.popitem(last=False)
            self._cache[source] = loaded
        self._cache.move_to_end(source)
        return self._cache[source]

    def _load(self, source: int) -> pa.Table:
        try:
            if source >= 0:
                with parquet.reader(self._shards[source]) as stored:
                    return stored.read(use_threads=False)
            if self._before is None:
                raise OutputError("there are no results to update")
            table = self._before.read_row_group(-1 - source, use_threads=False)
            return table.select(parquet.SCHEMA.names).append_column(parquet.COPY, pa.array([False] * table.num_rows))
        except (OSError, pa.ArrowException, UsageError) as error:
            said = parquet.first_line(error)
            if source >= 0:  # it was whole when the run began: if it is damaged now, the next one finds that
                raise OutputError(f"{self._shards[source]} cannot be read back: {said}; run the same again") from error
            raise OutputError(
                f"the results that are updated cannot be read back: {said}; add --restart to begin again"
            ) from error
